"""The protocol of BSDS500 for edges: pixels of several annotators are matched one to one with predicted ones.

Martin, Fowlkes and Malik, "Learning to Detect Natural Image Boundaries" (PAMI 2004); Arbeláez et al., "Contour
Detection and Hierarchical Image Segmentation" (PAMI 2011) and their code (``evaluation_bdry_image.m``,
``collect_eval_bdry.m``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks import maps
from clipzoo.tasks.base import Additive, Measure, Statistics
from clipzoo.tasks.edges import TOLERANCE, AnnotatedEdges, Edges, thin
from clipzoo.types import BoolArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

THRESHOLDS = np.arange(1, 100) / 100
"""Thresholds of predictions, as in the code of BSDS500."""
STEPS = 100
"""Points between two thresholds at which the best F-measure is searched, as in that code."""


class BsdsMetric(Additive):
    """``ods``, ``ois`` and ``ap`` of BSDS500, at 99 thresholds.

    Predictions are suppressed by `thin`, then thinned to lines of one pixel at each threshold. With each annotator, the
    largest set of pairs of a predicted and a true pixel within `TOLERANCE` of the diagonal is found; no pixel is used
    twice. Recall counts the true pixels of all annotators, precision the predicted pixels with a partner in at least
    one. A truth without annotators is one annotator, with edges at probabilities of at least 0.5.

    The code of BSDS500 (CSA++) matches by minimum cost on a graph with random edges for pixels without a partner. Its
    matchings are never larger than those here, and the scores differ by at most 0.001 on photos of 321×481
    (``scripts/check_bsds.py``, which compiles it). The tests compare with an exact assignment of minimum cost.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"ods": Measure(), "ois": Measure(), "ap": Measure()}
    over = "edge pixels of the whole set"

    def __init__(self, thresholds: Sequence[float] | Doubles = THRESHOLDS) -> None:
        self.thresholds = np.asarray(thresholds, np.float64)

    def statistics(self, prediction: Edges, truth: Edges) -> Statistics:
        """Return float64 [4T+4] pixel counts: recalled, true, correct, predicted at each threshold and at the best."""
        maps.same_size(prediction.valid, truth.valid)
        true = truth.annotators if isinstance(truth, AnnotatedEdges) else (truth.values >= 0.5)[None]
        values = thin(np.where(truth.valid, prediction.values, np.float32(0)))
        reach, counts, before = (
            max(1.0, TOLERANCE * math.hypot(*true.shape[1:])),
            np.zeros((4, len(self.thresholds))),
            None,
        )
        for i, threshold in enumerate(self.thresholds):
            edges = (values >= threshold) & (values > 0)
            same = before is not None and np.array_equal(edges, before)
            counts[:, i] = counts[:, i - 1] if same else _counts(skeleton(edges), true, reach)
            before = edges
        best = int(_f_measure(*_rates(counts)).argmax())
        return np.concatenate([counts.ravel(), counts[:, best]])

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return ``ods``, ``ois`` and ``ap``, in [0, 1]; NaN if the truth has no edge."""
        counts, best = total[:-4].reshape(4, -1), total[-4:]
        if not counts[1].any():
            return dict.fromkeys(self.measures, math.nan)
        recall, precision = _rates(counts)
        shares = np.linspace(0, 1, STEPS)
        between = [_mixed(rate, shares) for rate in (recall, precision)]
        ois = _f_measure(*_rates(best[:, None]))
        return {
            "ods": float(_f_measure(*between).max()),
            "ois": float(ois[0]),
            "ap": _area(recall, precision),
        }


def _rates(counts: Doubles) -> tuple[Doubles, Doubles]:
    """Return recall and precision [T] of counts [4,T]."""
    recalled, true, correct, predicted = counts
    return recalled / np.maximum(true, 1), correct / np.maximum(predicted, 1)


def _f_measure(recall: Doubles, precision: Doubles) -> Doubles:
    return np.asarray(2 * recall * precision / np.maximum(recall + precision, 1e-12))


def _mixed(rate: Doubles, shares: Doubles) -> Doubles:
    """Return values [·] on the lines between neighbors of [T]."""
    if len(rate) == 1:
        return rate
    return np.asarray(rate[:-1, None] * (1 - shares) + rate[1:, None] * shares).ravel()


def _area(recall: Doubles, precision: Doubles) -> float:
    """Return the sum of precision, linear in recall, at recalls of 0, 0.01, … 1, times 0.01; 0 outside of the curve."""
    unique, at = np.unique(recall, return_index=True)
    if len(unique) < 2:
        return 0.0
    return float(np.interp(np.arange(101) / 100, unique, precision[at], left=0, right=0).sum() * 0.01)


def _counts(edges: BoolArray, true: BoolArray, reach: float) -> list[int]:
    """Return the counts of recalled, true, correct and predicted pixels for edges [H,W] and annotators [A,H,W]."""
    recalled, correct = 0, np.zeros(edges.shape, np.bool_)
    for one in true:
        own, other = matched(edges, one, reach)
        recalled, correct = recalled + int(other.sum()), correct | own
    return [recalled, int(true.sum()), int(correct.sum()), int(edges.sum())]


# Matching --------------------------------------------------------------------------------------------------


def matched(edges: BoolArray, true: BoolArray, reach: float) -> tuple[BoolArray, BoolArray]:
    """Return the pixels of both maps [H,W] in a largest set of pairs within ``reach`` pixels, each used once.

    Augmenting paths (Berge 1957), begun with pairs in the order of their distance, so that near pixels are preferred.
    `maximum_bipartite_matching` of scipy (1.17.1) did not end within 20 s on a map of 321×481; this takes 0.1 s.
    """
    left, right = _pairs(edges, true, reach)
    own, other = np.flatnonzero(edges), np.flatnonzero(true)
    partner = _largest(np.searchsorted(own, left), np.searchsorted(other, right), len(own), len(other))
    found = [np.zeros(edges.size, np.bool_) for _ in range(2)]
    found[0][own[partner >= 0]] = found[1][other[partner[partner >= 0]]] = True
    return found[0].reshape(edges.shape), found[1].reshape(edges.shape)


def _pairs(edges: BoolArray, true: BoolArray, reach: float) -> tuple[Ints, Ints]:
    """Return the flat positions of all pairs of pixels within ``reach``, the nearest first."""
    side, (H, W) = math.floor(reach), edges.shape
    steps = [(y, x) for y in range(-side, side + 1) for x in range(-side, side + 1) if math.hypot(y, x) <= reach]
    rows, columns = np.nonzero(edges)
    pairs: list[tuple[Ints, Ints]] = []
    for dy, dx in sorted(steps, key=lambda step: math.hypot(*step)):
        y, x = rows + dy, columns + dx
        inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
        inside[inside] = true[y[inside], x[inside]]
        pairs.append((rows[inside] * W + columns[inside], y[inside] * W + x[inside]))
    left, right = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return left, right


def _largest(left: Ints, right: Ints, count: int, others: int) -> Ints:
    """Return the partner of each of ``count`` left nodes in a largest matching of edges (left, right); −1 for none."""
    partner, owner = [-1] * count, [-1] * others
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        if partner[a] < 0 and owner[b] < 0:
            partner[a], owner[b] = b, a
    order = np.argsort(left, kind="stable")
    ends = np.searchsorted(left[order], np.arange(count + 1)).tolist()
    listed = right[order].tolist()
    near = [listed[ends[i] : ends[i + 1]] for i in range(count)]
    dead = [False] * others
    for root in [a for a in range(count) if partner[a] < 0]:
        _augment(root, near, partner, owner, dead)
    return np.array(partner, np.int64)


def _augment(root: int, near: list[list[int]], partner: list[int], owner: list[int], dead: list[bool]) -> None:
    """Exchange the pairs along a shortest path from a free left node to a free right one, if there is one.

    Nodes from which no free one is reached never lie on a later path (they form a Hungarian tree), and become ``dead``.
    """
    origin: dict[int, int] = {}
    queue, end = [root], -1
    for a in queue:
        for b in near[a]:
            if not dead[b] and b not in origin:
                origin[b] = a
                if owner[b] < 0:
                    end = b
                    break
                queue.append(owner[b])
        if end >= 0:
            break
    if end < 0:
        for b in origin:
            dead[b] = True
        return
    a = -1
    while a != root:
        a = origin[end]
        partner[a], owner[end], end = end, a, partner[a]


def skeleton(mask: BoolArray) -> BoolArray:
    """Return a mask [H,W] thinned to lines of one pixel, as MATLAB's ``bwmorph(mask, 'thin', Inf)`` does.

    Lam, Lee and Suen, "Thinning Methodologies" (PAMI 1992), page 879: two passes in turn until nothing changes.
    """
    mask = np.pad(mask, 1)
    while True:
        before = mask.copy()
        for second in (False, True):
            mask = mask & ~_removable(mask, second)
        if np.array_equal(mask, before):
            return np.asarray(mask[1:-1, 1:-1])


def _removable(mask: BoolArray, second: bool) -> BoolArray:
    steps = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))  # east, then counterclockwise
    x = [np.roll(mask, (-dy, -dx), (0, 1)) for dy, dx in steps]
    crossings = sum((~x[i] & (x[i + 1] | x[(i + 2) % 8])).astype(int) for i in (0, 2, 4, 6))
    one = sum((x[i] | x[i + 1]).astype(int) for i in (0, 2, 4, 6))
    two = sum((x[i + 1] | x[(i + 2) % 8]).astype(int) for i in (0, 2, 4, 6))
    fewest = np.minimum(one, two)
    a, b, c, d = (x[5], x[6], x[3], x[4]) if second else (x[1], x[2], x[7], x[0])
    return np.asarray(mask & (crossings == 1) & (fewest >= 2) & (fewest <= 3) & ~((a | b | ~c) & d))
