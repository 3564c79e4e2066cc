"""Bootstrap intervals over images (Efron, Tibshirani, *An Introduction to the Bootstrap*: ch. 10 and 13).

A resample of N images is a multinomial weight vector. All rows use the same weights, so differences are paired by
image. Draws are shifted to have the measured value as their mean, since duplicated images bias average precision
upwards.
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
"""The number of weights in one draw: 64 MiB."""

Draws = dict[str, NDArray[np.float64]]
"""Measure -> its value in every resample, float64 [R]."""

Key = TypeVar("Key", bound=Hashable)


def resample(
    statistics: Mapping[Key, Rows], metric: Metric, resamples: int = RESAMPLES, seed: int = 0
) -> dict[Key, Draws]:
    """Compute measures on resampled images, with the same resamples for all keys.

    Args:
        statistics: key -> rows [N,S] of the same N images.
        metric: of these statistics.
        resamples: the number of resamples R.
        seed: of the weights; N and the seed determine them.

    Returns:
        key -> measure -> values [R].
    """
    N = len(next(iter(statistics.values())))
    rng, uniform, step = np.random.default_rng(seed), np.full(N, 1 / N), max(1, CHUNK // N)
    parts: dict[Key, list[Draws]] = {key: [] for key in statistics}
    for start in range(0, resamples, step):
        weights = rng.multinomial(N, uniform, size=min(step, resamples - start)).astype(np.float64)
        for key, rows in statistics.items():
            parts[key].append(metric.resampled(rows, weights))
    return {
        key: {name: np.concatenate([part[name] for part in drawn]) for name in metric.measures}
        for key, drawn in parts.items()
    }


def centered(draws: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    """Return the draws [R] shifted so that the mean of the finite ones is ``value``."""
    finite = draws[np.isfinite(draws)]
    return draws + (value - finite.mean()) if finite.size else draws


def interval(draws: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float] | None:
    """Return the central interval of the finite draws; None if no draw is finite."""
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(draws: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of a difference: twice the share of finite draws with the rarer sign."""
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return None
    least = min((finite <= 0).sum(), (finite >= 0).sum())
    return float(min(1.0, 2 * (least + 1) / (finite.size + 1)))
