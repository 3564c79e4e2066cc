"""Intervals by resampling images (Efron, Tibshirani, *An Introduction to the Bootstrap*: ch. 10 and 13).

A resample of N images is a multinomial weight vector. The same weights serve every row, so differences are
paired image by image. Draws are moved so that their mean is the measured value: images that come twice raise average
precision, so that its draws lie around a higher value than that of the set itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks.base import Metric, Rows

RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 1 << 23
"""So many weights are drawn at once: 64 MiB."""

Draws = dict[str, NDArray[np.float64]]
"""Measure -> its value in every resample, float64 [R]."""

Key = TypeVar("Key", bound=Hashable)


def resample(
    statistics: Mapping[Key, Rows], metric: Metric, resamples: int = RESAMPLES, seed: int = 0
) -> dict[Key, Draws]:
    """Measures of resampled sets, the same images for all.

    Args:
        statistics: run -> rows [N,S] of the same N images.
        metric: how to read them.
        resamples: how many.
        seed: of the weights; sets of one size and seed get the same weights.

    Returns:
        run -> measure -> values [R].
    """
    N = len(next(iter(statistics.values())))
    rng, uniform, step = np.random.default_rng(seed), np.full(N, 1 / N), max(1, CHUNK // N)
    parts: dict[Key, list[Draws]] = {run: [] for run in statistics}
    for start in range(0, resamples, step):
        weights = rng.multinomial(N, uniform, size=min(step, resamples - start)).astype(np.float64)
        for run, rows in statistics.items():
            parts[run].append(metric.resampled(rows, weights))
    return {
        run: {name: np.concatenate([part[name] for part in drawn]) for name in metric.measures}
        for run, drawn in parts.items()
    }


def centered(draws: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    """The draws [R] without their bias: moved to have the mean ``value``, as far as they are finite."""
    finite = draws[np.isfinite(draws)]
    return draws + (value - finite.mean()) if finite.size else draws


def interval(draws: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float] | None:
    """The central interval of the finite draws; None if there is none."""
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(draws: NDArray[np.float64]) -> float | None:
    """Two-sided share of the draws of a difference that lie on the other side of zero."""
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return None
    least = min((finite <= 0).sum(), (finite >= 0).sum())
    return float(min(1.0, 2 * (least + 1) / (finite.size + 1)))
