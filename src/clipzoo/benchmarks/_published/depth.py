"""Depth in files, and the crops within which published depth results are computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Along, Depth

Crop = tuple[float, float, float, float]
"""(top, bottom, left, right) as shares of height and width; pixels outside are not scored."""

CROPS: dict[str, Crop] = {
    # Eigen et al. 2014 for NYU: rows 45 to 470 and columns 41 to 600 of 480×640.
    "nyu-eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    # Garg et al. 2016 and Eigen et al. 2014 for KITTI, as monodepth2 and BTS have them; both truncate to whole pixels.
    "kitti-garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "kitti-eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
VERSIONS = {"kitti-garg": 2, "kitti-eigen": 2}
"""Crop -> its version, which is raised when its pixels change; 1 for all others."""


def convention(along: Along) -> Convention:
    """Return the convention of metric depth."""
    return Convention(kind="metric", along=along)


def metric(values: NDArray[np.number], valid: NDArray[np.bool_], along: Along, farthest: float = np.inf) -> Depth:
    """Return depth of ``values`` in meters [H,W]; what is not finite, ≤ 0 or beyond ``farthest`` is unknown."""
    meters = values.astype(np.float32)
    known = valid & np.isfinite(meters) & (meters > 0) & (meters <= farthest)
    return Depth(np.where(known, meters, 0).astype(np.float32), known, "metric", along)


def cropped(name: str) -> Callable[[Depth], Depth]:
    """Return a function that makes depth outside of a crop of `CROPS` unknown; ``none`` changes nothing."""
    if name == "none":
        return lambda depth: depth
    return lambda depth: Depth(depth.values, depth.valid & inside(name, depth.valid.shape), depth.kind, depth.along)


def inside(name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return True inside of a crop of `CROPS`, [H,W]; ``none`` is everywhere."""
    H, W = shape
    if name == "none":
        return np.ones((H, W), np.bool_)
    top, bottom, left, right = CROPS[name]
    mask = np.zeros((H, W), np.bool_)
    first, last, start, end = (int(edge + 1e-6) for edge in (top * H, bottom * H, left * W, right * W))
    mask[first:last, start:end] = True
    return mask


def named(crop: str) -> str:
    """Return a text for `LabelFiles.named` that changes with a crop of `CROPS` and with its pixels."""
    version = VERSIONS.get(crop, 1)
    return crop if version == 1 else f"{crop}, version {version}"
