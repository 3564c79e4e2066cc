"""Masks as COCO's compressed run lengths, a text format that pycocotools and others read.

Runs follow the columns, alternately off and on, the first one off. From the fourth run on, its difference from the run
before the last is written. Numbers are written in groups of 5 bits, the lowest first, each as the character 48 + bits,
plus 32 if another group follows; the highest bit of the last group is the sign
(``rleToString`` in ``maskApi.c`` of the COCO API).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks.base import require
from clipzoo.types import BoolArray

GROUPS = 7
"""Maximum number of groups, 35 bits, so that damaged text cannot allocate more."""


def encode(mask: BoolArray) -> str:
    """Encode bool [H,W] as compressed run lengths."""
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(borders, prepend=0, append=flat.size)
    runs[3:] -= runs[1:-2].copy()
    return "".join(map(_number, runs.tolist()))


def decode(text: str, size: tuple[int, int]) -> BoolArray:
    """Decode a mask of ``size`` (H, W); raise `LabelError` if the text does not fit this size."""
    return unrolled(_runs(text), size)


def unrolled(lengths: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> BoolArray:
    """Convert uncompressed run lengths to a mask of ``size`` (H, W); raise `LabelError` if they do not fit."""
    H, W = size
    runs = np.asarray(lengths)
    require(
        runs.ndim == 1
        and runs.dtype.kind == "i"
        and bool(((runs >= 0) & (runs <= H * W)).all())
        and int(runs.sum()) == H * W,
        f"the run lengths {str(lengths)[:40]} are not a mask of {H}×{W} pixels; encode the mask as a COCO RLE of its "
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
    for start in (1, 2):  # undo the differences from the run before the last
        runs[start::2] = np.cumsum(runs[start::2])
    return np.asarray(runs)
