"""Average precision of detections as COCO's evaluation counts it (``cocoeval.py`` of the COCO API; Lin et al. 2014,
arXiv 1405.0312).

Within an image and a class, detections take in order of their scores the free true box that they overlap most, at
each of ten bounds of overlap. One that takes none, but lies in an ignored true box, is excused: neither right nor
wrong. Over the set, detections are put in order of score; precision is made to fall with recall, and read at 101
recalls. Weights in place of counts give the measures of resampled sets from detections that are sorted once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipzoo.types import BoolArray

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

BOUNDS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which a detection is right."""

RECALLS = np.linspace(0.0, 1.0, 101)
CELLS = 1 << 18
"""So many weights of detections are summed at once: 2 MiB, which fits a cache."""


def overlaps(boxes: Doubles, others: Doubles, ignored: BoolArray) -> Doubles:
    """[D,G], intersection over union of xyxy boxes [D,4] and [G,4]; over the first's own area with an ignored one."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    both = np.clip(np.minimum(boxes[:, None, 2:], others[:, 2:]) - low, 0, None).prod(2)
    own, other = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others))
    return np.asarray(both / np.where(ignored, own[:, None], own[:, None] + other - both))


def match(overlap: Doubles, ignored: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Which detections, best score first, are right and which are excused: each [D,10], a column a bound.

    Args:
        overlap: [D,G] with the true boxes of the class.
        ignored: [G], the true boxes that stand for a region in which nothing is known.
    """
    within = overlap[:, ~ignored]
    right = np.zeros((len(overlap), len(BOUNDS)), np.bool_)
    free = np.ones((len(BOUNDS), within.shape[1]), np.bool_)
    for d in np.flatnonzero(within.max(1, initial=0) >= BOUNDS[0]):
        fits = free & (within[d] >= BOUNDS[:, None])
        best = fits.shape[1] - 1 - np.where(fits, within[d], -1)[:, ::-1].argmax(1)  # of equal ones the last
        right[d] = fits.any(1)
        free[right[d], best[right[d]]] = False
    return right, ~right & (overlap[:, ignored].max(1, initial=0)[:, None] >= BOUNDS)


def average_precision(image: Ints, right: BoolArray, excused: BoolArray, weights: Doubles, truths: Doubles) -> Doubles:
    """Average precision of one class in R sets at every bound, [10,R]; NaN where a set has no true box.

    Args:
        image: [D], the image of each detection, best score first.
        right: [D,10]. excused: [D,10].
        weights: [R,N], how often each image is in each set.
        truths: [R], how many true boxes each set has.
    """
    found = np.full((len(BOUNDS), len(weights)), np.nan)
    marks = np.flatnonzero(right.any(1))
    if not len(marks):
        found[:, truths > 0] = 0
        return found
    starts = np.append(0, marks[:-1] + 1)  # precision matters at right detections alone: between them it falls
    image, excused = image[: marks[-1] + 1], excused[: marks[-1] + 1]
    step = max(1, CELLS // len(image))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        times = np.take(weights[rows], image, 1)
        seen = np.cumsum(np.add.reduceat(times, starts, 1), 1)
        for bound in range(len(BOUNDS)):
            of, out = np.flatnonzero(right[marks, bound]), np.flatnonzero(excused[:, bound])
            counted = np.take(seen, of, 1) - _sums(times, out, np.searchsorted(out, marks[of]))
            hits = np.cumsum(np.take(times, marks[of], 1), 1)
            found[bound, rows] = _area(hits, counted, truths[rows, None])
    return found


def _sums(times: Doubles, at: Ints, ends: Ints) -> Doubles:
    """[R,P], for each of the ``ends`` the sum of ``times`` [R,D] over so many first ones of the places ``at``."""
    if not len(at):
        return np.zeros((1, 1))
    sums = np.cumsum(np.take(times, at, 1), 1)
    return np.take(np.pad(sums, ((0, 0), (1, 0))), ends, 1)


def _area(hits: Doubles, seen: Doubles, truths: Doubles) -> Doubles:
    """The mean precision over `RECALLS`, [R].

    Args:
        hits: [R,P], right detections up to each right one. seen: [R,P], all detections up to there.
        truths: [R,1].
    """
    precision = hits / np.maximum(seen, 1)
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = hits / np.maximum(truths, 1)
    floor = (100 * recall + 1e-9).astype(np.int64)
    reached = floor + (recall >= RECALLS[floor])  # how many recalls: as floats, some hundredths are not met exactly
    mean = (best * np.diff(reached, prepend=0)).sum(1) / len(RECALLS)
    return np.where(truths[:, 0] > 0, mean, np.nan)
