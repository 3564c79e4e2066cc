"""How published datasets write depth into files: the answers that their documentation gives, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import SampleError
from clipzoo.types import FloatArray

Reach = tuple[float, float]
"""Meters between which the depth of a picture's known pixels lies, but for a few."""

METRIC: Reach = (0.01, 1000.0)
"""Of metric depth of any origin: what is nearer or farther mostly has a wrong scale."""

DIFFERENT = 64
"""So many different values a file has whose values are all multiples of 8, before that is a sign of rotated bits."""


@dataclass(frozen=True)
class Encoding:
    """One way to write depth.

    Attributes:
        answers: question -> answer, of those that the dataset's documentation settles; others are asked for.
        reach: see `Reach`.
        suffix: what follows the key in file names, where the dataset has a name of its own for it.
        rotated: 16-bit values are rotated to the left by three bits.
        mask: what stands in place of a file's ending in the name of the mask of its valid pixels; "" if there is none.
    """

    answers: Mapping[str, str]
    reach: Reach
    suffix: str = ""
    rotated: bool = False
    mask: str = ""


def _metric(along: str, scale: float, invalid: str) -> dict[str, str]:
    told = {"kind": "metric", "scale": repr(scale), "invalid": invalid}
    return told | ({"along": along} if along else {})


ENCODINGS: Mapping[str, Encoding] = {
    # SUNRGBDtoolbox, read3dPoints.m: bitor(bitshift(d, -3), bitshift(d, 16 - 3)) / 1000, and cut at 8 or 10 m.
    "sunrgbd": Encoding(_metric("z", 0.001, "0"), (0.1, 30), rotated=True),
    # KITTI depth devkit, readme.txt: meters are the 16-bit value / 256; 0 is "no ground truth".
    "kitti": Encoding(_metric("z", 1 / 256, "0"), (0.5, 150)),
    # Virtual KITTI 2, as public loaders read it: centimeters in 16-bit PNG; the sky is 65535 (655.35 m).
    "vkitti2": Encoding(_metric("z", 0.01, "65535"), (0.1, 655.35)),
    # DIODE, diode-devkit's README: float meters in *_depth.npy, and 1 in *_depth_mask.npy where there was a return. It
    # does not say what depth is measured along.
    "diode": Encoding(_metric("", 1.0, "0"), (0.1, 350), "_depth.npy", mask="_mask.npy"),
    # Hypersim, README and apple/ml-hypersim#9, #63: Euclidean meters to the optical center, NaN where nothing is.
    "hypersim": Encoding(_metric("ray", 1.0, "none"), (0.02, 500), ".hdf5"),
    # Taskonomy, data/README.md: depth_zbuffer (z) and depth_euclidean (ray) in 1/512 m, at most 128 m, the value 65535,
    # which is that of no surface.
    "taskonomy": Encoding(_metric("", 1 / 512, "65535"), (0.02, 127.9)),
}
"""By the name that answers ``encoding=``."""


def unrotated(values: NDArray[Any], where: object) -> NDArray[np.uint16]:
    """16-bit values that were rotated to the left by three bits, as they were.

    Raises:
        SampleError: they are no 16-bit values.
    """
    whole = values.dtype.kind in "ui" and values.dtype.itemsize > 1
    if not whole or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise SampleError(f"no 16-bit values, which encoding=sunrgbd is of: {where} holds {values.dtype}")
    codes = values.astype(np.uint16)
    return np.asarray((codes >> 3) | (codes << 13), np.uint16)


def rotated(values: NDArray[Any]) -> bool:
    """Whether integers look like SUN RGB-D's: of depth below 8.192 m the lowest three bits are then all zero."""
    if values.dtype.kind not in "ui" or values.dtype.itemsize < 2 or (values & 7).any():
        return False
    return len(np.unique(values)) > DIFFERENT


def outside(meters: FloatArray, reach: Reach) -> str:
    """How depth [N] runs, if some of it, but for 2 % at both ends, is out of ``reach``; else ""."""
    if not meters.size:
        return ""
    low, high = np.percentile(meters[:: 1 + len(meters) // 20_000], (2, 98)).tolist()
    return "" if reach[0] <= low and high <= reach[1] else f"{low:.3g} to {high:.3g} m"
