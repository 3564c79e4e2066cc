"""Polygons as masks, pixel by pixel those of the COCO API (``rleFrPoly`` in ``maskApi.c``).

Corners are rounded to a fifth of a pixel and joined by lines on that finer grid. Wherever a line goes from one finer
column to the next in the middle of a column of pixels, the mask changes from there on downwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import SampleError
from clipzoo.tasks import rle
from clipzoo.types import BoolArray, Size

Points = NDArray[np.int64]

FINER = 5
MOST_STEPS = 20_000_000
"""Most points of the finer grid in an outline; real outlines have thousands."""


def filled(polygons: Sequence[object], size: Size) -> BoolArray:
    """Return bool [H,W], true in any of the polygons, each a flat list x0, y0, x1, y1, …

    Raises:
        SampleError: a polygon is not valid.
    """
    mask = np.zeros(size, np.bool_)
    for polygon in polygons:
        mask |= _one(polygon, size)
    return mask


def _one(polygon: object, size: Size) -> BoolArray:
    H, W = size
    x, y = _outline(_corners(polygon))
    crossed = np.flatnonzero(x[1:] != x[:-1])
    column = (np.minimum(x[1:], x[:-1])[crossed] + 0.5) / FINER - 0.5
    row = np.ceil(np.clip((np.minimum(y[1:], y[:-1])[crossed] + 0.5) / FINER - 0.5, 0, H))
    middle = (column == np.floor(column)) & (column >= 0) & (column <= W - 1)
    places, times = np.unique((column * H + row)[middle].astype(np.int64), return_counts=True)
    return rle.unrolled(np.diff(places[times % 2 > 0], prepend=0, append=H * W), size)


def _corners(polygon: object) -> Points:
    """Return int64 [N+1,2] on the finer grid, with the first corner also at the end."""
    try:
        corners = np.array(polygon, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"a polygon that is no list x0, y0, x1, y1, …: {str(polygon)[:80]}") from error
    if len(corners) < 3 or not (np.abs(corners) < 1e6).all():
        raise SampleError(f"a polygon of fewer than three corners, or far outside: {str(polygon)[:80]}")
    return np.trunc(FINER * np.concatenate([corners, corners[:1]]) + 0.5).astype(np.int64)


def _outline(corners: Points) -> tuple[Points, Points]:
    """Return x and y of every point of the outline on the finer grid; a corner occurs in both of its lines."""
    start, end = corners[:-1], corners[1:]
    across = np.abs(end - start)
    steps = across.max(1)
    if steps.sum() > MOST_STEPS:
        raise SampleError(f"a polygon whose outline is {steps.sum() / FINER:,.0f} pixels long; it is no object's")
    flat = across[:, 0] >= across[:, 1]  # closer to horizontal than to vertical
    main, other = np.where(flat, 0, 1), np.where(flat, 1, 0)
    every = np.arange(len(steps))
    back = start[every, main] > end[every, main]  # lines are drawn the same way in both directions
    low, high = np.where(back[:, None], end, start), np.where(back[:, None], start, end)
    slope = (high - low)[every, other] / np.maximum(steps, 1)
    line = np.repeat(every, steps + 1)
    at = np.arange(len(line)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    at = np.where(back[line], steps[line] - at, at)
    along = low[every, main][line] + at
    aside = np.trunc(low[every, other][line] + slope[line] * at + 0.5).astype(np.int64)
    return np.where(flat[line], along, aside), np.where(flat[line], aside, along)
