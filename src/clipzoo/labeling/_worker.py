"""One of the processes that label on a cluster: it labels a shard when told, and commits it when told.

In between nothing of the shard can be seen, so what a driver that is gone has not ordered is never committed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipzoo.errors import DatasetError, StoreError
from clipzoo.experts.base import Expert
from clipzoo.files import Place
from clipzoo.labeling import inputs
from clipzoo.labeling._budget import Budget
from clipzoo.labeling._loading import create_experts, load_expert
from clipzoo.labeling._progress import Meter
from clipzoo.labeling._quick_check import quick_check
from clipzoo.labeling._tuning import Tuning
from clipzoo.labeling.local import Work, codecs, labeled_shard
from clipzoo.labeling.plan import Job
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.stopping import Stop
from clipzoo.store import Column, Manifest, Store, software


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker of a run is told.

    Attributes:
        data, experts, device, batch_size, tuning: as `clipzoo.labeling.label` takes them; URIs are made experts by
            each worker.
        threads: of the CPU within an operator.
        columns: absolute paths of the experts' columns.
        active: places of the experts that are to be loaded.
        dataset: its fingerprint, as the driver sees it.
        folder: the driver's working directory, from which relative paths are taken.
        witness: a file that the driver has just made in the store: who does not see it sees another store.
    """

    data: str
    experts: Sequence[str | Expert] | str | Expert
    device: str
    batch_size: int | None
    tuning: Tuning
    threads: int
    columns: Sequence[Place] = ()
    active: Sequence[int] = ()
    dataset: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    witness: Place = Path()


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker says of a shard that it has committed.

    Attributes:
        meter: where its time went.
        labeled: place of the column -> labels made.
        lines: place of the column -> lines for its ``runs.jsonl``, which only the driver writes.
    """

    meter: Meter
    labeled: dict[int, int]
    lines: dict[int, list[dict[str, Any]]]


@dataclass
class Noting(Work):
    """Work whose lines for ``runs.jsonl`` are kept for the driver."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def note(self, **values: Any) -> None:
        """Keep a line."""
        self.lines.append(values)


class Worker:
    """Labels shards, one at a time."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._job = Job("", ())
        self._open: AbstractContextManager[None] | None = None

    def setup(self) -> dict[str, str]:
        """Load the experts; what software this process has.

        Raises:
            StoreError: this machine does not see the driver's store.
            DatasetError: it does not see the dataset, or sees another one.
            ExpertError: an expert cannot be made or loaded here.
        """
        order = self.order
        with suppress(OSError):  # then paths are absolute, or the dataset is not found
            os.chdir(order.folder)
        torch.set_num_threads(order.threads)
        if not order.witness.exists():
            raise StoreError(
                f"the store of {order.witness} is not here: labels need a file system that all machines of "
                "the cluster share, at one path"
            )
        self.reader = open_dataset(order.data)
        self._pool = codecs(self.reader)
        if fingerprint(self.reader) != order.dataset:
            raise DatasetError(f"another dataset is at {order.data!r} here; it must be the same one on all machines")
        made = create_experts(order.experts, order.batch_size)
        columns = [Column(path) for path in order.columns]
        store = Store(columns[0].path.parent.parent)
        inputs.stages(made, store)
        for expert, column in zip(made, columns, strict=True):
            column.manifest.agree(Manifest.of(order.tuning.card(expert), order.dataset), column.path)
        self.works = [Noting(e, c, Budget(c.name, 1.0), e.batch_size) for e, c in zip(made, columns, strict=True)]
        for work in self.works:
            work.reads = inputs.opened(work.expert, store, order.dataset, ())
        for i in order.active:
            load_expert(self.works[i], order.device, order.tuning, order.batch_size)
        return software()

    def look(self, places: Sequence[int], shards: Sequence[str]) -> list[str]:
        """What a short look at the experts in these places says; see `clipzoo.labeling._quick_check.quick_check`."""
        return quick_check(self.reader, shards, [self.works[i].expert for i in places])

    def label(self, job: Job, budgets: Sequence[Budget]) -> dict[int, Budget]:
        """Label a shard, to be committed by `commit`; place of the column -> what there was to count.

        Args:
            job: the shard and its columns.
            budgets: of all columns, as the driver knows them now; one that this shard alone uses up stops it.

        Raises:
            DatasetError, ExpertError: too many samples fail.
        """
        before = copy.deepcopy(budgets)
        for work, budget in zip(self.works, budgets, strict=True):
            work.budget, work.labeled, work.lines = budget, 0, []
        self._job, self._meter = job, Meter([self.works[i].column.name for i in self.order.active])
        self._open = labeled_shard(self.reader, job, self.works, self._pool, Stop(), self._meter)
        self._open.__enter__()
        return {i: budgets[i].since(before[i]) for i in job.columns}

    def commit(self) -> Done:
        """Commit the shard that was labeled last."""
        assert self._open is not None, "label first"
        self._open.__exit__(None, None, None)
        self._meter.stop()
        works = {i: self.works[i] for i in self._job.columns}
        return Done(
            self._meter, {i: work.labeled for i, work in works.items()}, {i: work.lines for i, work in works.items()}
        )
