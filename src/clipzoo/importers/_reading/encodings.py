"""Depth encodings of published datasets: the options that their documentation states, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import SampleError
from clipzoo.types import FloatArray

Reach = tuple[float, float]
"""The range in meters of the depth of a picture's known pixels, except for a few."""

METRIC: Reach = (0.01, 1000.0)
"""The range of metric depth of any origin. Values outside of it usually have a wrong scale."""

DIFFERENT = 64
"""The least number of different values, all multiples of 8, that indicates rotated bits."""


@dataclass(frozen=True)
class Encoding:
    """A format of depth files.

    Attributes:
        options: option -> text, of those that the dataset's documentation states; others must be given.
        reach: see `Reach`.
        suffix: the end of file names after the key, if the dataset has its own.
        rotated: 16-bit values are rotated to the left by three bits.
        mask: the end of the name of the mask of valid pixels, in place of the depth file's extension; "" without mask.
    """

    options: Mapping[str, str]
    reach: Reach
    suffix: str = ""
    rotated: bool = False
    mask: str = ""


def _metric(along: str, scale: float, invalid: str) -> dict[str, str]:
    options = {"kind": "metric", "scale": repr(scale), "invalid": invalid}
    return options | ({"along": along} if along else {})


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
    # Taskonomy, data/README.md: depth_zbuffer (z) and depth_euclidean (ray) in 1/512 m, at most 128 m; the value 65535
    # means no surface.
    "taskonomy": Encoding(_metric("", 1 / 512, "65535"), (0.02, 127.9)),
}
"""The values of the option ``encoding``."""


def unrotated(values: NDArray[Any], where: object) -> NDArray[np.uint16]:
    """Return 16-bit values that were rotated to the left by three bits in their original order of bits.

    Raises:
        SampleError: they are not 16-bit values.
    """
    whole = values.dtype.kind in "ui" and values.dtype.itemsize > 1
    if not whole or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise SampleError(f"no 16-bit values, which encoding=sunrgbd needs: {where} holds {values.dtype}")
    codes = values.astype(np.uint16)
    return np.asarray((codes >> 3) | (codes << 13), np.uint16)


def rotated(values: NDArray[Any]) -> bool:
    """Return true if integers look like SUN RGB-D's: for depth below 8.192 m, their lowest three bits are all zero."""
    if values.dtype.kind not in "ui" or values.dtype.itemsize < 2 or (values & 7).any():
        return False
    return len(np.unique(values)) > DIFFERENT


def outside(meters: FloatArray, reach: Reach) -> str:
    """Return the range of depth [N], without 2 % at both ends, if it is not within ``reach``; otherwise ""."""
    if not meters.size:
        return ""
    low, high = np.percentile(meters[:: 1 + len(meters) // 20_000], (2, 98)).tolist()
    return "" if reach[0] <= low and high <= reach[1] else f"{low:.3g} to {high:.3g} m"
