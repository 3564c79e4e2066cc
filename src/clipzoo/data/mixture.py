"""The order of samples of several datasets with weights: a pure function of the seed and the position.

Each dataset is an endless stream of its epochs. A fixed pattern of `CYCLE` positions gives the next dataset: any
position is known without the earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clipzoo import plugins
from clipzoo.data.order import EpochOrder
from clipzoo.data.plan import Plan
from clipzoo.errors import PlanError, RecipeError

CYCLE = 2**16
"""Length of the pattern; shares of datasets are multiples of 1 / CYCLE, and at least this."""


def check_mixture(weights: Mapping[str, float], shards: Iterable[str]) -> None:
    """Raise `RecipeError` if a dataset with a weight is none of those that the location of the data names."""
    names = sorted({_dataset(shard) for shard in shards if "/" in shard})
    for name in weights:
        if name not in names:
            known = plugins.hint(name, names) if names else "it names no datasets, as a YAML file does (docs/data.md)"
            raise RecipeError(f"training.mixture has {name!r}, but data has no such dataset; {known}")


class Mixture:
    """Positions of a training on several datasets.

    Args:
        plan: its shards are called ``<dataset>/<shard>``.
        weights: dataset -> how often each of its samples is seen, relative to other datasets; 1 if absent.
        seed: of the order of each dataset.

    Raises:
        PlanError: a dataset with a weight has no sample in the plan.
    """

    def __init__(self, plan: Plan, weights: Mapping[str, float], seed: int) -> None:
        rows = _spans(plan)
        if missing := [name for name in weights if name not in rows]:
            raise PlanError(
                f"the mixture has {missing[0]!r}, but the plan has no sample of this dataset. Raise max_samples, or "
                "remove the dataset from the list in data, or from training.mixture"
            )
        self.seed = seed
        self._firsts = [first for first, _ in rows.values()]
        self._plans = [Plan(plan.table.slice(first, count), {}) for first, count in rows.values()]
        shares = np.array([weights.get(name, 1.0) * count for name, (_, count) in rows.items()])
        self.counts = _apportioned(shares)
        times = np.concatenate([(np.arange(count) + 0.5) / count for count in self.counts])
        owners = np.repeat(np.arange(len(self.counts)), self.counts)
        self._pattern = owners[np.argsort(times, kind="stable")]
        self._ranks = np.zeros(CYCLE, np.int64)  # number of earlier positions of the same dataset in the pattern
        for owner, count in enumerate(self.counts):
            self._ranks[self._pattern == owner] = np.arange(count)
        self._order = lru_cache(maxsize=2 * len(self.counts))(self._ordered)

    def positions(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        """Return (epoch of its dataset, row of the plan) of these positions of the training."""
        found = []
        for position in positions:
            cycle, at = divmod(position, CYCLE)
            owner = int(self._pattern[at])
            epoch, index = divmod(cycle * int(self.counts[owner]) + int(self._ranks[at]), len(self._plans[owner]))
            found.append((epoch, self._firsts[owner] + self._order(owner, epoch)[index]))
        return found

    def _ordered(self, owner: int, epoch: int) -> EpochOrder:
        return self._plans[owner].epoch(self.seed, epoch)


def _dataset(shard: str) -> str:
    return shard.partition("/")[0]


def _spans(plan: Plan) -> dict[str, tuple[int, int]]:
    """Return dataset -> (first row, number of rows); the rows of a dataset follow each other."""
    spans: dict[str, tuple[int, int]] = {}
    first = 0
    for shard, rows in zip(plan.shards, np.diff(plan.starts).tolist(), strict=True):
        start, count = spans.get(_dataset(shard), (first, 0))
        spans[_dataset(shard)] = start, count + rows
        first += rows
    return spans


def _apportioned(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return whole numbers of sum `CYCLE`, at least 1 each, in proportion to ``shares``: by the largest remainders."""
    exact = shares / shares.sum() * CYCLE
    counts: NDArray[np.int64] = np.maximum(exact.astype(np.int64), 1)
    while (missing := CYCLE - int(counts.sum())) != 0:
        best = np.argmax(exact - counts) if missing > 0 else np.argmax(counts - exact + (counts == 1) * -CYCLE)
        counts[best] += np.sign(missing)
    return counts
