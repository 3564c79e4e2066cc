"""Masks as COCO's compressed run lengths: text that pycocotools and others read.

Runs go down the columns, alternately off and on, the first one off. From the fourth on a run is written as its
difference from the one before the last. Numbers are written in groups of 5 bits, the lowest first, each as the
character 48 + bits, plus 32 where another group follows; the highest bit of the last group is the sign
(``rleToString`` in ``maskApi.c`` of the COCO API).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks.base import require
from clipzoo.types import BoolArray

GROUPS = 7
"""No run is longer than 35 bits tell; so damaged text cannot ask for more."""


def encode(mask: BoolArray) -> str:
    """Bool [H,W] as compressed run lengths."""
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(borders, prepend=0, append=flat.size)
    runs[3:] -= runs[1:-2].copy()
    return "".join(map(_number, runs.tolist()))


def decode(text: str, size: tuple[int, int]) -> BoolArray:
    """The inverse of `encode` for a mask of ``size`` (H, W); `LabelError` if it is none of this size."""
    return unrolled(_runs(text), size)


def unrolled(lengths: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> BoolArray:
    """Run lengths as they are, uncompressed, as a mask of ``size`` (H, W); `LabelError` if they are none."""
    H, W = size
    runs = np.asarray(lengths)
    require(
        runs.ndim == 1
        and runs.dtype.kind == "i"
        and bool(((runs >= 0) & (runs <= H * W)).all())
        and int(runs.sum()) == H * W,
        f"the run lengths {str(lengths)[:40]} are no mask of {H}×{W} pixels; encode it as a COCO RLE of its "
        "label's size",
    )
    return np.repeat(np.arange(len(runs)) % 2 > 0, runs).reshape((H, W), order="F")


def _number(value: int) -> str:
    groups = []
    while True:
        bits, value = value & 31, value >> 5
        last = value == (-1 if bits & 16 else 0)
        groups.append(chr(48 + bits + (0 if last else 32)))
        if last:
            return "".join(groups)


def _runs(text: str) -> NDArray[np.int64]:
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    whole = codes.size and codes.min() >= 0 and codes.max() < 64 and last.size and last[-1] == codes.size - 1
    if not whole or (last - first).max() >= GROUPS:
        return np.array([-1])
    place = 5 * (np.arange(codes.size) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((codes & 31) << place, first)
    runs -= (codes[last] & 16 > 0) * (np.int64(32) << place[last])
    for start in (1, 2):  # each is a difference from the one before the last
        runs[start::2] = np.cumsum(runs[start::2])
    return np.asarray(runs)
