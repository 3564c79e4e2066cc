"""The trade-off of interpolated students on one split: zero-shot recognition against the dense tasks.

All intervals are 95 % percentile intervals of the change relative to the start, paired by image: the start and every
interpolated student have the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.bootstrap import RESAMPLES, centered, interval, resample
from clipzoo.evaluation.criterion import normalized
from clipzoo.evaluation.measure import NOT_PROBED, Scored

MEASURES = {"zero_shot": "top1", "retrieval": "r1"}
"""Group -> the measure that must not fall; the first group that was scored is used."""

Interval = tuple[float, float]


class PointRecord(TypedDict):
    """The plain values of a `Point`, with ``within`` the limit and ``kept``, the share of the end's gain."""

    alpha: float
    recognition: float
    loss: float
    loss_ci: Interval | None
    dense: float
    gain: float
    gain_ci: Interval | None
    measures: dict[str, float]
    within: bool
    kept: float | None


class Record(TypedDict):
    """The plain values of a `Tradeoff`; ``best`` is the chosen α."""

    measure: str
    images: int
    dense_images: int
    max_loss: float
    points: list[PointRecord]
    best: float


class Reported(Record, total=False):
    """A record on validation with that of the chosen student on test; None if its measures were not measured there."""

    test: Record | None


@dataclass(frozen=True)
class Point:
    """One student between start and end.

    Attributes:
        alpha: share of the end.
        recognition: zero-shot top-1 or retrieval recall@1.
        loss: recognition of the start minus that of the student; loss_ci: its interval.
        dense: mean of the dense headlines, in [0, 1].
        gain: ``dense`` minus that of the start; gain_ci: its interval.
        measures: ``<group>/<measure>`` -> value of each headline.
    """

    alpha: float
    recognition: float
    loss: float
    loss_ci: Interval | None
    dense: float
    gain: float
    gain_ci: Interval | None
    measures: Mapping[str, float]

    def within(self, max_loss: float) -> bool:
        """Return True for the start, and if the upper end of the interval of the loss is at most ``max_loss``."""
        return self.alpha == 0 or (self.loss_ci is not None and self.loss_ci[1] <= max_loss)


@dataclass(frozen=True)
class Tradeoff:
    """The points from start (α = 0) to end (α = 1).

    Attributes:
        measure: that must not fall, ``<group>/<measure>``.
        images: number of images of this measure; dense_images: of the dense tasks.
        max_loss: its largest loss.
        points: in ascending order of α.
    """

    measure: str
    images: int
    dense_images: int
    max_loss: float
    points: tuple[Point, ...]

    @property
    def best(self) -> Point:
        """The highest dense mean of the points within the limit; of equal ones, that with the smallest α."""
        return max((p for p in self.points if p.within(self.max_loss)), key=lambda p: p.dense)

    def kept(self, point: Point) -> float | None:
        """Return the share of the end's dense gain that a point keeps; None if the end has no gain."""
        whole = self.points[-1].gain
        return point.gain / whole if whole > 0 else None

    def to_json(self, best: float | None = None) -> Record:
        """Return plain values; ``best`` replaces the choice, for a split that does not choose."""
        return Record(
            measure=self.measure,
            images=self.images,
            dense_images=self.dense_images,
            max_loss=self.max_loss,
            points=[self._point(point) for point in self.points],
            best=self.best.alpha if best is None else best,
        )

    def _point(self, point: Point) -> PointRecord:
        return PointRecord(
            alpha=point.alpha,
            recognition=point.recognition,
            loss=point.loss,
            loss_ci=point.loss_ci,
            dense=point.dense,
            gain=point.gain,
            gain_ci=point.gain_ci,
            measures=dict(point.measures),
            within=point.within(self.max_loss),
            kept=self.kept(point),
        )


def tradeoff(
    scores: Mapping[float, RowScores], max_loss: float, resamples: int = RESAMPLES, seed: int = 0
) -> Tradeoff | None:
    """Return the trade-off of scored students; None if recognition or all dense tasks were not scored.

    Args:
        scores: α -> group -> scores on one split, at least for 0 and 1.
        max_loss: largest loss of recognition, in [0, 1].
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    alphas = sorted(scores)
    start, end = scores[alphas[0]], scores[alphas[-1]]
    assert (alphas[0], alphas[-1]) == (0, 1)
    group = next((name for name in MEASURES if name in start and name in end), None)
    dense = [name for name in start if name not in NOT_PROBED and not math.isnan(_headline(start[name]))]
    if group is None or not dense:
        return None
    values, draws = _dense({alpha: scores[alpha] for alpha in alphas}, dense, resamples, seed)
    recognized = {alpha: scores[alpha][group] for alpha in alphas}
    statistics = {alpha: one.statistics for alpha, one in recognized.items()}
    drawn = resample(statistics, start[group].metric, resamples, seed)
    name = MEASURES[group]
    measured = {alpha: one.compute()[f"{group}/{name}"] for alpha, one in recognized.items()}
    points = [
        Point(
            alpha,
            measured[alpha],
            *_change(measured[0], measured[alpha], drawn[0][name], drawn[alpha][name]),
            values[alpha],
            *_change(values[alpha], values[0], draws[alpha], draws[0]),
            {next(iter(scores[alpha][one].measures)): _headline(scores[alpha][one]) for one in (*dense, group)},
        )
        for alpha in alphas
    ]
    images, dense_images = len(start[group].keys), max(len(start[one].keys) for one in dense)
    return Tradeoff(f"{group}/{name}", images, dense_images, max_loss, tuple(points))


def _dense(
    scores: Mapping[float, RowScores], groups: list[str], resamples: int, seed: int
) -> tuple[dict[float, float], dict[float, NDArray[np.float64]]]:
    """Return α -> mean of the dense headlines, and α -> its values in the resamples."""
    values = dict.fromkeys(scores, 0.0)
    draws = {alpha: np.zeros(resamples) for alpha in scores}
    for group in groups:
        first = next(iter(scores.values()))[group]
        bare, measure = next(iter(first.metric.measures.items()))
        drawn = resample({alpha: one[group].statistics for alpha, one in scores.items()}, first.metric, resamples, seed)
        for alpha, one in scores.items():
            values[alpha] += normalized(_headline(one[group]), measure) / len(groups)
            draws[alpha] += normalized(drawn[alpha][bare], measure) / len(groups)
    return values, draws


def _headline(scored: Scored) -> float:
    return scored.compute()[next(iter(scored.measures))]


def _change(
    one: float, other: float, draws: NDArray[np.float64], theirs: NDArray[np.float64]
) -> tuple[float, Interval | None]:
    """Return one minus other, and its interval."""
    return one - other, interval(centered(draws - theirs, one - other))
