"""Labels of a canvas that pictures were padded into, though they are given as those of the picture.

The label of a part of a picture has to be that part of the picture's label. A part at the lower right does not keep its
place on a canvas, whether pictures are padded below and to the right or on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clipzoo.conformance.agreement import Crop, agreement, part
from clipzoo.conformance.card import Verdict
from clipzoo.conformance.hypotheses import Wrong, contest, judged
from clipzoo.conformance.pictures import changed
from clipzoo.conformance.running import ask
from clipzoo.experts import Expert, ExpertInput
from clipzoo.types import View

CORNER: Crop = (1 / 3, 1 / 3, 1.0, 1.0)
"""The part of a square that is asked about alone."""

SHARES = tuple(np.linspace(1.0, 0.35, 14).tolist())
"""How much of a canvas' side pictures may fill."""

LARGEST = 0.9
"""The share from which on a picture that fills its canvas cannot be told from one that does not."""

ALIKE = 0.97
"""Agreement from which on no canvas is looked for."""

MARGIN = 0.05
"""What a canvas has to explain beyond the label as it is."""

EXPLAINED = 0.8
"""Agreement of a canvas that is believed if it is better on every picture; below, the contest has to be clear."""

Fills = tuple[float, float]
"""Shares of the canvas' width and height that the picture fills."""


def padding(expert: Expert, squares: Sequence[ExpertInput], labels: Sequence[Any]) -> Verdict | None:
    """The verdict on an expert whose ``labels`` of square pictures are of a canvas; None if they are not, clearly."""
    task, side = expert.card.task, squares[0].image.shape[0]
    corners = [changed(s, View(CORNER, (side, side)).image(s.image)) for s in squares]
    pairs = list(zip(ask(expert, corners), labels, strict=True))

    def alike(of: Crop, seen: Crop) -> list[float]:
        return [agreement(task, part(task, corner, of), part(task, whole, seen)) for corner, whole in pairs]

    def scores(fills: Fills, centered: bool) -> list[float]:
        return alike(*_places(fills, centered))

    plain = scores((1.0, 1.0), False)
    if not np.isfinite(plain).any() or float(np.nanmean(plain)) > ALIKE:
        return None
    wrongs: list[Wrong[Fills]] = []
    rows = [plain]
    for centered in (False, True):
        fills = _fitted(scores, centered)
        if min(fills) < LARGEST:
            wrongs.append(_cause(fills, centered))
            rows.append(scores(fills, centered))
            of, _ = _places(fills, centered)  # the label as it is has the same part of it to explain
            plain = np.fmax(plain, alike(of, _inside(of))).tolist()
    rows[0] = plain
    outcome = contest(list(zip(*rows, strict=True)), MARGIN)
    if not outcome.best:
        return None
    better = all(row > as_is or not np.isfinite(as_is) for row, as_is in zip(rows[outcome.best], plain, strict=True))
    gain, explained = outcome.means[outcome.best] - outcome.means[0], outcome.means[outcome.best]
    sure = outcome.clear or (better and gain > MARGIN and explained > EXPLAINED)
    return judged("frame", replace(outcome, clear=True), wrongs, "agreement") if sure else None


def _cause(fills: Fills, centered: bool) -> Wrong[Fills]:
    where = "on both sides" if centered else "below or right"
    seen = f"the picture fills {fills[0]:.0%} of their width and {fills[1]:.0%} of their height"
    return Wrong(f"labels cover padding {where}: {seen}", "cut the padding off before the label is given", fills)


def _places(fills: Fills, centered: bool) -> tuple[Crop, Crop]:
    """Where the corner is on its own canvas, and where on that of the whole picture."""
    (x0, x1, cx), (y0, y1, cy) = (_place(fill, centered) for fill in fills)
    return (x0, y0, x1, y1), (cx, cy, x1, y1)


def _inside(part_of_corner: Crop) -> Crop:
    """Where a part of the corner is in the whole picture."""
    (left, top, right, bottom), (x0, y0, x1, y1) = CORNER, part_of_corner
    width, height = right - left, bottom - top
    return left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height


def _place(fill: float, centered: bool) -> tuple[float, float, float]:
    """Beginning and end of a picture along a canvas' side, and where its corner begins."""
    low = (1 - fill) / 2 if centered else 0.0
    return low, low + fill, low + fill * CORNER[0]


def _fitted(scores: Callable[[Fills, bool], Sequence[float]], centered: bool) -> Fills:
    """The shares that explain best: first equal ones, then each side alone, twice."""

    def mean(fills: Fills) -> float:
        found = np.array(scores(fills, centered))
        return float(found.mean()) if np.isfinite(found).all() else -1.0

    best: Fills = max(((share, share) for share in SHARES), key=mean)
    for _ in range(2):
        best = max(((best[0], share) for share in SHARES), key=mean)
        best = max(((share, best[1]) for share in SHARES), key=mean)
    return best
