"""The order of an epoch, generated group by group: a pure function of (seed, epoch), without an array of all rows.

Shards are permuted, then the rows within groups of shards. A group's permutation comes after those of earlier groups
from one generator, so a jump to a later position draws them once (about 20 ns per row) and keeps none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUP = 16
"""Shards whose rows are shuffled together; they are read at the same time."""


class EpochOrder:
    """Position in an epoch -> row of the plan.

    Args:
        starts: first row of each shard, and the number of rows; int64 [shards + 1].
        seed, epoch: the order is a pure function of them and ``starts``.
        group: number of shards whose rows are shuffled together.
    """

    def __init__(self, starts: NDArray[np.int64], seed: int, epoch: int, group: int = GROUP) -> None:
        self._starts, self._key, self._group = starts, [seed, epoch], group
        self._restart()
        sizes = np.diff(starts)[self._permuted]
        firsts = np.arange(0, len(sizes), group)
        self._ends = np.cumsum(np.add.reduceat(sizes, firsts) if len(sizes) else sizes)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, position: int) -> int:
        """Return the row at one position."""
        if not self._first <= position < self._first + len(self._rows):
            self._move(int(np.searchsorted(self._ends, position, "right")))
        return int(self._rows[position - self._first])

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows at these positions, int64 [N]. Ascending positions need no group twice."""
        found = np.empty(len(positions), np.int64)
        groups = np.searchsorted(self._ends, positions, "right")
        for group in np.unique(groups):
            self._move(int(group))
            chosen = groups == group
            found[chosen] = self._rows[positions[chosen] - self._first]
        return found

    def _restart(self) -> None:
        self._rng = np.random.default_rng(self._key)
        self._permuted = self._rng.permutation(len(self._starts) - 1)
        self._number, self._first, self._rows = -1, 0, np.empty(0, np.int64)

    def _move(self, group: int) -> None:
        """Draw the groups up to this one, and keep its rows."""
        if group >= len(self._ends):
            raise IndexError(f"the epoch has {len(self)} positions")
        if group < self._number:
            self._restart()
        while self._number < group:
            self._number += 1
            first = self._number * self._group
            shards = self._permuted[first : first + self._group]
            rows = [np.arange(self._starts[shard], self._starts[shard + 1]) for shard in shards]
            self._first += len(self._rows)
            self._rows = self._rng.permutation(np.concatenate(rows))
