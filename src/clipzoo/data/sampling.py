"""Order of the samples of a training: batches of positions in a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch.utils.data import Sampler

from clipzoo.data.mixture import Mixture
from clipzoo.data.plan import Plan

Position = tuple[int, int] | tuple[int, int, int]
"""(epoch, row of the plan), which determine a training sample with the seed; and the step, if batches have sizes."""


class PlanSampler(Sampler[list[Position]]):
    """Yields batches of positions from step ``start`` to ``stop``, independent of earlier runs."""

    def __init__(
        self, plan: Plan, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.plan, self.batch_size, self.seed, self.stepped = plan, batch_size, seed, False
        self.start, self.stop, self.rank, self.ranks = start, stop, rank, ranks
        self.steps_per_epoch = len(plan) // (batch_size * ranks)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Position]]:
        epoch, order = -1, self.plan.epoch(self.seed, 0)
        for step in range(self.start, self.stop):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.plan.epoch(self.seed, epoch)
            first = step % self.steps_per_epoch * self.batch_size
            positions = self.rank + self.ranks * np.arange(first, first + self.batch_size)
            yield self.at(step, [(epoch, index) for index in order.take(positions).tolist()])

    def at(self, step: int, positions: list[tuple[int, int]]) -> list[Position]:
        """Return the positions of a batch, with the step if the size of its images depends on it."""
        return [(*position, step) for position in positions] if self.stepped else list(positions)


class MixtureSampler(PlanSampler):
    """Yields batches of positions of several datasets with weights; ranks take turns within the batch of all ranks."""

    weights: Mapping[str, float]

    def __iter__(self) -> Iterator[list[Position]]:
        mixture, size = Mixture(self.plan, self.weights, self.seed), self.batch_size * self.ranks
        for step in range(self.start, self.stop):
            yield self.at(step, mixture.positions(range(step * size + self.rank, (step + 1) * size, self.ranks)))
