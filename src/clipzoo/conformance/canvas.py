"""Test for labels that cover the padding of a picture instead of the picture alone.

The label of a crop must equal the crop of the label. A crop at the lower right changes its place on a padded canvas,
whether pictures are padded below and on the right or on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from clipzoo.conformance.agreement import Crop, agreement, part
from clipzoo.conformance.hypotheses import Fault, compare, to_verdict
from clipzoo.conformance.pictures import with_image
from clipzoo.conformance.report import Verdict
from clipzoo.conformance.running import predict
from clipzoo.experts import Expert, ExpertInput
from clipzoo.types import View

CORNER: Crop = (1 / 3, 1 / 3, 1.0, 1.0)
"""The crop of a square that is labeled separately."""

SHARES = tuple(np.linspace(1.0, 0.35, 14).tolist())
"""Fractions of a canvas' side that a picture may fill."""

LARGEST = 0.9
"""Fraction from which on padding cannot be distinguished from no padding."""

ALIKE = 0.97
"""Agreement from which on no padding is searched for."""

MARGIN = 0.05
"""Minimum gain in agreement of a padded canvas over no padding."""

EXPLAINED = 0.8
"""Agreement above which a canvas that is better on every picture is accepted without a significant comparison."""

Fills = tuple[float, float]
"""Fractions of the canvas' width and height that the picture fills."""


def padding(expert: Expert, squares: Sequence[ExpertInput], labels: Sequence[object]) -> Verdict | None:
    """Return a failing verdict if the ``labels`` of square pictures clearly cover padding, else None."""
    task, side = expert.card.task, squares[0].image.shape[0]
    corners = [with_image(s, View(CORNER, (side, side)).image(s.image)) for s in squares]
    pairs = list(zip(predict(expert, corners), labels, strict=True))

    def agreements(corner_crop: Crop, whole_crop: Crop) -> list[float]:
        return [
            agreement(task, part(task, corner, corner_crop), part(task, whole, whole_crop)) for corner, whole in pairs
        ]

    def scores(fills: Fills, centered: bool) -> list[float]:
        return agreements(*_places(fills, centered))

    plain = scores((1.0, 1.0), False)
    if not np.isfinite(plain).any() or float(np.nanmean(plain)) > ALIKE:
        return None
    faults: list[Fault[Fills]] = []
    rows = [plain]
    for centered in (False, True):
        fills = _fitted(scores, centered)
        if min(fills) < LARGEST:
            faults.append(_cause(fills, centered))
            rows.append(scores(fills, centered))
            place, _ = _places(fills, centered)  # compare the unpadded hypothesis on the same part
            plain = np.fmax(plain, agreements(place, _inside(place))).tolist()
    rows[0] = plain
    outcome = compare(list(zip(*rows, strict=True)), MARGIN)
    if not outcome.best:
        return None
    better = all(row > as_is or not np.isfinite(as_is) for row, as_is in zip(rows[outcome.best], plain, strict=True))
    gain, explained = outcome.means[outcome.best] - outcome.means[0], outcome.means[outcome.best]
    sure = outcome.clear or (better and gain > MARGIN and explained > EXPLAINED)
    return to_verdict("frame", replace(outcome, clear=True), faults, "agreement") if sure else None


def _cause(fills: Fills, centered: bool) -> Fault[Fills]:
    where = "on both sides" if centered else "below or right"
    fraction = f"the picture fills {fills[0]:.0%} of their width and {fills[1]:.0%} of their height"
    return Fault(f"labels cover padding {where}: {fraction}", "crop the padding before the label is returned", fills)


def _places(fills: Fills, centered: bool) -> tuple[Crop, Crop]:
    """Return the corner's place on its own canvas and on the canvas of the whole picture."""
    (x0, x1, cx), (y0, y1, cy) = (_place(fill, centered) for fill in fills)
    return (x0, y0, x1, y1), (cx, cy, x1, y1)


def _inside(part_of_corner: Crop) -> Crop:
    """Return the place in the whole picture of a part of the corner."""
    (left, top, right, bottom), (x0, y0, x1, y1) = CORNER, part_of_corner
    width, height = right - left, bottom - top
    return left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height


def _place(fill: float, centered: bool) -> tuple[float, float, float]:
    """Return the start and end of a picture along a canvas' side, and the start of its corner."""
    low = (1 - fill) / 2 if centered else 0.0
    return low, low + fill, low + fill * CORNER[0]


def _fitted(scores: Callable[[Fills, bool], Sequence[float]], centered: bool) -> Fills:
    """Return the best fractions: first equal ones for both sides, then each side in turn, twice."""

    def mean(fills: Fills) -> float:
        values = np.array(scores(fills, centered))
        return float(values.mean()) if np.isfinite(values).all() else -1.0

    best: Fills = max(((share, share) for share in SHARES), key=mean)
    for _ in range(2):
        best = max(((best[0], share) for share in SHARES), key=mean)
        best = max(((share, best[1]) for share in SHARES), key=mean)
    return best
