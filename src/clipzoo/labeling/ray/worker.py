"""A worker process on a cluster: it labels a shard and commits it in two separate calls of the driver.

A shard is not visible before its commit, so nothing is committed after the driver has died.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

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
from clipzoo.locations import open_dataset
from clipzoo.readers import fingerprint
from clipzoo.stopping import Stop
from clipzoo.store import Column, Manifest, Store, software


@dataclass(frozen=True, slots=True)
class Order:
    """The instructions for all workers of a run.

    Attributes:
        data, experts, device, batch_size, tuning: see `clipzoo.labeling.label`; each worker creates its own experts
            from URIs.
        threads: CPU threads within an operator.
        columns: absolute paths of the experts' columns.
        active: indices of the experts to load.
        dataset: its fingerprint on the driver's machine.
        folder: the driver's working directory, for relative paths.
        witness: a file that the driver has created in the store, by which a worker checks that it sees the same store.
    """

    data: str
    experts: Sequence[str | Expert] | str | Expert
    device: str
    batch_size: int | None
    tuning: Tuning
    threads: int
    columns: Sequence[Place] = ()
    active: Sequence[int] = ()
    dataset: Mapping[str, object] = field(default_factory=dict)
    folder: Path = Path()
    witness: Place = Path()


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a committed shard.

    Attributes:
        meter: the time spent.
        labeled: index of the column -> number of labels.
        lines: index of the column -> lines for its ``runs.jsonl``, which only the driver writes.
    """

    meter: Meter
    labeled: dict[int, int]
    lines: dict[int, list[dict[str, object]]]


@dataclass
class RemoteWork(Work):
    """Work that collects lines for ``runs.jsonl`` for the driver."""

    lines: list[dict[str, object]] = field(default_factory=list)

    def note(self, **values: object) -> None:
        """Collect a line."""
        self.lines.append(values)


class Worker:
    """Labels shards, one at a time."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._job = Job("", ())
        self._open: AbstractContextManager[None] | None = None

    def setup(self) -> dict[str, str]:
        """Load the experts, and return the software versions of this process.

        Raises:
            StoreError: the driver's store is not accessible on this machine.
            DatasetError: the dataset is not accessible, or is another one.
            ExpertError: an expert cannot be created or loaded here.
        """
        order = self.order
        with suppress(OSError):  # paths may be absolute; otherwise the dataset is reported as missing
            os.chdir(order.folder)
        torch.set_num_threads(order.threads)
        if not order.witness.exists():
            raise StoreError(
                f"the store of {order.witness} is not accessible on this machine. All machines of the cluster need a "
                "shared file system at one path"
            )
        self.reader = open_dataset(order.data)
        self._pool = codecs(self.reader)
        if fingerprint(self.reader) != order.dataset:
            raise DatasetError(
                f"{order.data!r} is another dataset on this machine. It must be the same on all machines"
            )
        made = create_experts(order.experts, order.batch_size)
        columns = [Column(path) for path in order.columns]
        store = Store(columns[0].path.parent.parent)
        inputs.stages(made, store, order.tuning)
        for expert, column in zip(made, columns, strict=True):
            column.manifest.agree(Manifest.of(order.tuning.card(expert), order.dataset), column.path)
        self.works = [RemoteWork(e, c, Budget(c.name, 1.0), e.batch_size) for e, c in zip(made, columns, strict=True)]
        for work in self.works:
            work.reads = inputs.open_columns(work.expert, store, order.dataset, ())
        for i in order.active:
            load_expert(self.works[i], order.device, order.tuning, order.batch_size)
        return software()

    def quick_check(self, indices: Sequence[int], shards: Sequence[str]) -> list[str]:
        """Run the quick check of the experts with these indices; see `clipzoo.labeling._quick_check.quick_check`."""
        return quick_check(self.reader, shards, [self.works[i].expert for i in indices])

    def label(self, job: Job, budgets: Sequence[Budget]) -> dict[int, Budget]:
        """Label a shard, which `commit` then commits. Return index of the column -> counts of this shard.

        Args:
            job: the shard and its columns.
            budgets: the driver's budgets of all columns. A shard that exceeds one alone is stopped.

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
