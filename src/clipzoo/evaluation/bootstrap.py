"""Intervals by resampling images (Efron, Tibshirani, *An Introduction to the Bootstrap*, ch. 13:
percentiles).

A resample of N images is a multinomial weight vector; because shares add up, all resamples of all arms are
one matrix product. The same weights serve every arm, so differences are paired image by image.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks.base import Metric

RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 100

Draws = dict[str, NDArray[np.float64]]
"""Measure -> its value in every resample, float64 [R]."""


def resample(
    statistics: Mapping[str, NDArray[np.float64]], metric: Metric, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Draws]:
    """Measures of resampled sets, the same images for all.

    Args:
        statistics: arm -> shares [N,S] of the same N images.
        metric: how to read their sums.
        resamples: how many.
        seed: of the weights; sets of one size and seed get the same weights.

    Returns:
        arm -> measure -> values [R].
    """
    stacked = np.stack(list(statistics.values()), 1)
    N, arms, S = stacked.shape
    flat = stacked.reshape(N, arms * S)
    rng = np.random.default_rng(seed)
    uniform = np.full(N, 1 / N)
    totals = [
        rng.multinomial(N, uniform, size=min(CHUNK, resamples - start)).astype(np.float64) @ flat
        for start in range(0, resamples, CHUNK)
    ]
    sums = np.concatenate(totals).reshape(resamples, arms, S)
    return {arm: _draws(sums[:, i], metric) for i, arm in enumerate(statistics)}


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


def _draws(sums: NDArray[np.float64], metric: Metric) -> Draws:
    computed = [metric.compute(total) for total in sums]
    return {name: np.array([values[name] for values in computed], np.float64) for name in metric.measures}
