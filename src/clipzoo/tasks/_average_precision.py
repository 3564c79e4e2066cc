"""Average precision of detections, as in COCO's evaluation (``cocoeval.py`` of the COCO API; Lin et al. 2014, arXiv
1405.0312).

Within an image and a class, each detection in order of score matches the unmatched true box of largest overlap, at each
of ten thresholds of overlap. A detection without a match inside an ignored true box is excused: neither right nor
wrong. Over the set, detections are sorted by score; precision is made monotonic in recall and sampled at 101 recalls.
Image weights instead of counts give the measures of resampled sets from detections that are sorted once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipzoo.types import BoolArray

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

BOUNDS = np.linspace(0.5, 0.95, 10)
"""Thresholds of overlap from which on a detection is right."""

RECALLS = np.linspace(0.0, 1.0, 101)
CELLS = 1 << 18
"""Number of detection weights summed at a time: 2 MiB, which fits into a CPU cache."""


def overlaps(boxes: Doubles, others: Doubles, ignored: BoolArray) -> Doubles:
    """Return the intersection over union [D,G] of boxes [D,4] and [G,4]; for ignored ones, over the first area."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    both = np.clip(np.minimum(boxes[:, None, 2:], others[:, 2:]) - low, 0, None).prod(2)
    own, other = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others))
    return np.asarray(both / np.where(ignored, own[:, None], own[:, None] + other - both))


def match(overlap: Doubles, ignored: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return the right and the excused detections, sorted by descending score: bool [D,10] each.

    Args:
        overlap: [D,G] with the true boxes of the class.
        ignored: [G], true boxes that mark a region with unknown content.
    """
    within = overlap[:, ~ignored]
    right = np.zeros((len(overlap), len(BOUNDS)), np.bool_)
    free = np.ones((len(BOUNDS), within.shape[1]), np.bool_)
    for d in np.flatnonzero(within.max(1, initial=0) >= BOUNDS[0]):
        fits = free & (within[d] >= BOUNDS[:, None])
        best = fits.shape[1] - 1 - np.where(fits, within[d], -1)[:, ::-1].argmax(1)  # the last of equal ones
        right[d] = fits.any(1)
        free[right[d], best[right[d]]] = False
    return right, ~right & (overlap[:, ignored].max(1, initial=0)[:, None] >= BOUNDS)


def average_precision(image: Ints, right: BoolArray, excused: BoolArray, weights: Doubles, truths: Doubles) -> Doubles:
    """Return average precision of one class in R sets at each threshold, [10,R]; NaN for sets without a true box.

    Args:
        image: [D], the image of each detection, sorted by descending score.
        right: [D,10]. excused: [D,10].
        weights: [R,N], the count of each image in each set.
        truths: [R], the number of true boxes in each set.
    """
    precisions = np.full((len(BOUNDS), len(weights)), np.nan)
    marks = np.flatnonzero(right.any(1))
    if not len(marks):
        precisions[:, truths > 0] = 0
        return precisions
    starts = np.append(0, marks[:-1] + 1)  # precision is needed only at right detections: it falls between them
    image, excused = image[: marks[-1] + 1], excused[: marks[-1] + 1]
    step = max(1, CELLS // len(image))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        times = np.take(weights[rows], image, 1)
        totals = np.cumsum(np.add.reduceat(times, starts, 1), 1)
        for bound in range(len(BOUNDS)):
            of, out = np.flatnonzero(right[marks, bound]), np.flatnonzero(excused[:, bound])
            counted = np.take(totals, of, 1) - _sums(times, out, np.searchsorted(out, marks[of]))
            hits = np.cumsum(np.take(times, marks[of], 1), 1)
            precisions[bound, rows] = _area(hits, counted, truths[rows, None])
    return precisions


def _sums(times: Doubles, at: Ints, ends: Ints) -> Doubles:
    """Return, for each of ``ends`` [P], the sum of ``times`` [R,D] over that many first places of ``at``, [R,P]."""
    if not len(at):
        return np.zeros((1, 1))
    sums = np.cumsum(np.take(times, at, 1), 1)
    return np.take(np.pad(sums, ((0, 0), (1, 0))), ends, 1)


def _area(hits: Doubles, counted: Doubles, truths: Doubles) -> Doubles:
    """Return the mean precision over `RECALLS`, [R].

    Args:
        hits: [R,P], right detections up to each right one. counted: [R,P], all detections up to there.
        truths: [R,1].
    """
    precision = hits / np.maximum(counted, 1)
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = hits / np.maximum(truths, 1)
    floor = (100 * recall + 1e-9).astype(np.int64)
    reached = floor + (recall >= RECALLS[floor])  # number of recalls reached; some hundredths are not exact as floats
    mean = (best * np.diff(reached, prepend=0)).sum(1) / len(RECALLS)
    return np.where(truths[:, 0] > 0, mean, np.nan)
