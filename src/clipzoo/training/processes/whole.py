"""The whole batch of a step: the parts that processes and chunks have, and the counts by which losses are divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.losses import part_of
from clipzoo.tasks import get as get_task
from clipzoo.training.objectives import ColumnObjective, Objective
from clipzoo.training.processes import ranks

ROUNDS = 8
"""Most totals of a loss that depend on each other."""


@dataclass
class Processes:
    """The parts of a batch that all processes have at this moment; `clipzoo.losses.total` asks each of them.

    ``asked`` counts its calls, since a loss that never asks is the mean of its own part.
    """

    asked: int = 0

    @property
    def parts(self) -> int:
        """Number of processes."""
        return ranks.world_size()

    def total(self, value: Tensor, largest: bool) -> Tensor:
        """Return the sum or the largest over all processes."""
        self.asked += 1
        return ranks.summed(value, largest)


@dataclass
class Known(Processes):
    """Totals that are known before, in the order in which a loss asks for them; `own` collects what it gives."""

    totals: Sequence[Tensor] = ()
    own: list[tuple[Tensor, bool]] = field(default_factory=list)

    def total(self, value: Tensor, largest: bool) -> Tensor:
        """Return the known total, or this part's own value if it is not known yet."""
        self.own.append((value, largest))
        self.asked += 1
        return self.totals[self.asked - 1] if self.asked <= len(self.totals) else value


Totals = Mapping[str, Sequence[Tensor]]
"""Column -> totals of the whole batch, in the order in which its loss asks for them."""


def split(batch: Batch, count: int) -> list[Batch]:
    """Return a batch in ``count`` chunks, whose sizes differ by one at most; failures stay with the first."""
    parts = []
    for rows in torch.arange(len(batch.captions)).tensor_split(count):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        targets = {column: {k: v[part] for k, v in target.items()} for column, target in batch.targets.items()}
        parts.append(
            replace(
                batch, images=batch.images[part], tokens=batch.tokens[part], captions=batch.captions[part],
                targets=targets, skipped=[], unreadable={},
            )
        )  # fmt: skip
    return parts


def totals(objectives: Sequence[Objective], chunks: Sequence[Batch]) -> dict[str, list[Tensor]]:
    """Return the totals of all columns over all chunks and processes, from labels alone.

    A loss is computed of zeros. Some totals depend on others, such as the weights of edges on their share: each round
    makes one more exact.
    """
    return {
        objective.name: _column_totals(objective, chunks)
        for objective in objectives
        if isinstance(objective, ColumnObjective)
    }


@torch.no_grad()
def _column_totals(objective: ColumnObjective, chunks: Sequence[Batch]) -> list[Tensor]:
    known: list[Tensor] = []
    for _ in range(ROUNDS):
        asked = [_asked(objective, chunk, known) for chunk in chunks]
        found = [_total(parts) for parts in zip(*asked, strict=True)]
        if len(found) == len(known) and all(torch.equal(a, b) for a, b in zip(found, known, strict=True)):
            break
        known = found
    return known


def _total(parts: Sequence[tuple[Tensor, bool]]) -> Tensor:
    """Return the sum or the largest of a total's parts in the chunks of all processes."""
    values, largest = torch.stack([value for value, _ in parts]), parts[0][1]
    return ranks.summed(values.amax(0) if largest else values.sum(0), largest)


def _asked(objective: ColumnObjective, chunk: Batch, known: Sequence[Tensor]) -> list[tuple[Tensor, bool]]:
    """Return a chunk's own part of each total."""
    spec, valid = objective.spec, chunk.targets[objective.name]["valid"]
    channels = get_task(spec.task).raw_channels(spec.convention, spec.loss)
    shape = (len(chunk.captions), channels, *valid.shape[-2:])
    part = Known(totals=known)
    with part_of(part):
        objective({"predictions": {objective.name: torch.zeros(shape, device=valid.device)}}, chunk)
    return part.own


@dataclass(frozen=True)
class Weighing:
    """Computes the terms of a part of the batch, so that their sum over chunks and mean over processes is exact.

    Attributes:
        totals: see `totals`; a column that is absent asks all processes at each call.
        share: number of samples of the part, relative to the mean of the processes. It weights terms that are plain
            means over samples.
    """

    totals: Totals
    share: float

    def term(self, objective: Objective, outputs: Mapping[str, object], batch: Batch) -> Tensor:
        """Return the unweighted term of a part of the batch."""
        known = self.totals.get(objective.name)
        part = Processes() if known is None else Known(totals=known)
        with part_of(part):
            value = objective(outputs, batch)
        return value if part.asked or self.share == 1 else value * self.share
