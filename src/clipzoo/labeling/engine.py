"""``label``: experts over a dataset into a store, resumable at any shard."""

from __future__ import annotations

import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from clipzoo.errors import MAX_FAILURES, EngineError, ExpertError, StoreError
from clipzoo.experts.base import Expert
from clipzoo.files import AnyPath, Place, local, place
from clipzoo.labeling import inputs, plan
from clipzoo.labeling._budget import Budget
from clipzoo.labeling._loading import create_experts, load_expert, resolve_device
from clipzoo.labeling._progress import Progress
from clipzoo.labeling._quick_check import quick_check, warn
from clipzoo.labeling._tuning import Tuning
from clipzoo.labeling.local import OUT_OF_MEMORY, Work, label_shards
from clipzoo.readers import Reader, fingerprint, open_dataset
from clipzoo.stopping import Interrupted, Stop, signals
from clipzoo.store import Column, Store, failures, runs, update_dataset

log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """What a column holds after a run, and what the labels in it cost, whichever run made them."""

    task: str
    slug: str
    path: Place
    shards: int
    labels: int
    failures: int
    bytes: int
    seconds: float
    labeled: int
    """Labels made by this run."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Kinds of failure -> how many samples, in the whole column, the most frequent first."""
    examples: dict[str, str] = field(default_factory=dict)
    """Kinds of failure, in the same order -> the first sample that failed so, and its reason in full."""
    halved_to: int | None = None
    """The batch size that some run went down to when memory ran out: its labels need not be those of another run."""

    def refuse_empty(self) -> None:
        """Raise `ExpertError` if all samples failed: a column without a label teaches nothing."""
        if self.labels or not self.failures:
            return
        raise ExpertError(
            f"{self.task}/{self.slug} has no label: all {self.failures:,} samples that were looked at failed, as "
            f"{next(iter(self.examples.values()))}\nTheir rows are kept: `{self.listing}` lists them. Mend the cause "
            "and run the same again with --retry-failed, without which failed samples are left as they are; where an "
            "option or answer was wrong, remove the column first (`clipzoo labels rm`)"
        )

    @property
    def listing(self) -> str:
        """The command that lists every sample without a label, and why."""
        return f"clipzoo labels show {shlex.quote(str(self.path.parent.parent))} {self.task}/{self.slug} --failed"

    @property
    def bytes_per_image(self) -> float:
        """Of a label on disk; NaN if there is none."""
        return self.bytes / self.labels if self.labels else float("nan")

    @property
    def seconds_per_image(self) -> float:
        """Of predicting and encoding; NaN if there is no row."""
        rows = self.labels + self.failures
        return self.seconds / rows if rows else float("nan")


def label(
    data: AnyPath,
    experts: Sequence[str | Expert] | str | Expert,
    out: AnyPath | Place,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    max_failures: float = MAX_FAILURES,
    retry_failed: bool = False,
    shards: Collection[str] | None = None,
    tuning: Tuning = Tuning(),  # noqa: B008  # frozen
    check: bool = True,
    progress: bool = True,
    log: AnyPath | None = None,
    engine: Engine = "local",
    ray_address: str | None = None,
) -> list[ColumnReport]:
    """Label a dataset with experts; what is labeled already is left as it is.

    Args:
        data: a folder of shards, one shard, or a glob or brace pattern.
        experts: URIs or experts, or one alone; all of them share one decode of each image. Those that read columns of
            others named here come after them.
        out: the store; made if it is not there. It must lie outside of ``data``.
        device: "auto" is "cuda" where there is one, else "cpu".
        batch_size: the largest batch; by default each expert's own.
        max_failures: the share of a column's samples that may fail before the run stops.
        retry_failed: do again the samples that failed in earlier runs; their shards' labels are kept.
        shards: names of the shards to label, or patterns of names (``0000[0-4]*``); all by default.
        tuning: precision, layout and threads of the experts.
        check: before a column's first shard, look at what its expert makes of a few pictures, and warn.
        progress: show on standard error what is done, where the time goes, when it will end, and what failed.
        log: a file to which the same is added as a line of JSON a shard.
        engine: "local" labels in this process, "ray" on all machines of a Ray cluster that see data and store; both
            give the same bytes.
        ray_address: of the cluster, as ``ray.init`` takes it; by default one that runs, or a new one of this machine.

    Raises:
        DatasetError: the dataset cannot be read, or too many of its samples fail.
        ExpertError: an expert cannot be made or loaded, fails too often, or gives no label at all: its rows are kept.
        StoreError: the store is of another dataset or other weights, or in use.
        EngineError: the engine is not known, or the cluster cannot do it.
        Interrupted: SIGINT or SIGTERM; the same call goes on where this one stopped.
    """
    if engine not in get_args(Engine):
        raise EngineError(f"engine={engine!r}: it is one of {', '.join(get_args(Engine))}")
    location, written = os.fspath(data), None if log is None else local(log, "the log")
    reader = open_dataset(location)
    _apart(reader, place(out))
    given = [experts] if isinstance(experts, str | Expert) else experts
    made = create_experts(given, batch_size)
    names = [expert.card.column for expert in made]
    call = _Call(
        location, dict(zip(names, given, strict=True)), reader, fingerprint(reader), Store(out), device, batch_size,
        max_failures, retry_failed, shards, tuning, check, progress, written, engine, ray_address,
    )  # fmt: skip
    reports = [one for stage in inputs.stages(made, call.store) for one in _label(call, stage)]
    for one in reports:
        one.refuse_empty()
    return sorted(reports, key=lambda one: names.index(f"{one.task}/{one.slug}"))


@dataclass(frozen=True, slots=True)
class _Call:
    """What `label` was asked for, with what it opened."""

    data: str
    given: Mapping[str, str | Expert]
    """Column -> its expert as the caller named it: a worker on another machine makes its own of a URI."""
    reader: Reader
    identity: dict[str, Any]
    store: Store
    device: str
    batch_size: int | None
    max_failures: float
    retry_failed: bool
    shards: Collection[str] | None
    tuning: Tuning
    check: bool
    progress: bool
    log: Path | None
    engine: Engine
    ray_address: str | None

    def how(
        self, experts: Sequence[Expert], jobs: Sequence[plan.Job], works: Sequence[Work], threads: int
    ) -> Callable[[Stop, Progress], None]:
        """The engine, ready to do the jobs."""
        if self.engine == "ray":
            from clipzoo.labeling import ray

            given = [self.given[expert.card.column] for expert in experts]
            order = ray.Order(self.data, given, self.device, self.batch_size, self.tuning, threads)
            new = [i for i, work in enumerate(works) if self.check and not work.column.committed()]
            return partial(ray.label_shards, order, self.ray_address, jobs, works, new)
        active = _active(jobs, works)
        for work in active:
            load_expert(work, resolve_device(self.device), self.tuning, self.batch_size)
        fresh = [work.expert for work in active if self.check and not work.column.committed()]
        return partial(_label_here, self.reader, jobs, works, fresh)


def _label(call: _Call, experts: Sequence[Expert]) -> list[ColumnReport]:
    """Label with experts of which none reads a column that another one writes."""
    columns = [call.store.create(call.tuning.card(expert), call.identity, other_dataset=True) for expert in experts]
    with ExitStack() as stack:
        for column in sorted(columns, key=lambda c: str(c.path)):
            stack.enter_context(column.lock())
            update_dataset(column, call.reader, call.identity)
        threads = stack.enter_context(call.tuning.fixed_threads())
        old = [plan.outdated(expert, column) for expert, column in zip(experts, columns, strict=True)]
        jobs = plan.missing(call.reader, columns, old, call.shards, call.retry_failed)
        _say_why_again(columns, jobs, old)
        works = []
        for i, (expert, column) in enumerate(zip(experts, columns, strict=True)):
            needed = [job.shard for job in jobs if i in job.columns]
            works.append(Work(expert, column, _budget(column, call.max_failures, needed), expert.batch_size))
            works[i].reads = inputs.opened(expert, call.store, call.identity, needed)
        do = call.how(experts, jobs, works, threads)
        names = [work.column.name for work in _active(jobs, works)]
        _run(do, jobs, works, Progress(names, len(jobs), call.progress and bool(jobs), call.log), threads)
        _settle(columns)
        return [report(work.column, work.labeled) for work in works]


def _active(jobs: Sequence[plan.Job], works: Sequence[Work]) -> list[Work]:
    """Those that have a shard to do."""
    return [works[i] for i in sorted({i for job in jobs for i in job.columns})]


def _run(
    do: Callable[[Stop, Progress], None],
    jobs: Sequence[plan.Job],
    works: Sequence[Work],
    progress: Progress,
    threads: int,
) -> None:
    active = _active(jobs, works)
    for work in active:
        work.column.start(batch_size=work.batch_size, threads=threads)
    try:
        with signals() as stop, progress:
            do(stop, progress)
    except KeyboardInterrupt as error:
        raise Interrupted(_how_to_go_on(jobs, works, str(error))) from None
    finally:
        for work in active:
            work.column.finish(work.unnoted(), labeled=work.labeled)


def _label_here(
    reader: Reader,
    jobs: Sequence[plan.Job],
    works: Sequence[Work],
    fresh: Sequence[Expert],
    stop: Stop,
    progress: Progress,
) -> None:
    """Label on this machine, with a look at the ``fresh`` experts first."""
    warn(quick_check(reader, (job.shard for job in jobs), fresh))
    stop.check()
    label_shards(reader, jobs, works, stop, progress)


def _say_why_again(columns: Sequence[Column], jobs: Sequence[plan.Job], old: Sequence[Set[str]]) -> None:
    """Warn of shards that have one of their two files, and of those that are looked up anew."""
    again = {job.shard for job in jobs}
    for column, changed in zip(columns, old, strict=True):
        for shard, suffix in column.halves().items():
            if shard in again:
                log.warning("%s is not whole, %s is missing: it is labeled again", shard, column.file(shard, suffix))
        if looked_up := sorted(changed & again):
            told = "%s: the files of %d shards, %s the first, have changed since: their labels are looked up again"
            log.warning(told, column.name, len(looked_up), looked_up[0])


def _settle(columns: Sequence[Column]) -> None:
    """Count again where a run was killed before its end, or files were removed by hand."""
    for column in columns:
        events = [line.get("event") for line in runs(column.path)]
        if events[-1:] not in ([], ["end"]) or column.manifest.counts.shards != len(column.committed()):
            column.finish()


def _how_to_go_on(jobs: Sequence[plan.Job], works: Sequence[Work], signal: str) -> str:
    left = len(plan.uncommitted(jobs, [work.column for work in works]))
    return (
        f"labeling was stopped by {signal or 'SIGINT'}; what was in work was dropped, {left} of {len(jobs)} shards "
        "are left: run the same again to go on"
    )


def _apart(reader: Reader, out: Place) -> None:
    """A store's tars in the dataset's folder would be taken for shards by the next run."""
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is a file; a label store is a folder: give another")
    for folder in reader.folders:
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise StoreError(
                f"the store {str(out)!r} lies inside of the dataset {str(folder)!r}, whose tars are its shards: give "
                "an output folder beside it"
            )


def _budget(column: Column, allowed: float, again: Collection[str]) -> Budget:
    """The budget of a column, with its committed shards counted; those that are done ``again`` are not."""
    budget = Budget(column.name, allowed)
    for shard, rows in column.tables():
        if shard not in again:
            budget.seen += len(rows)
            for failure in failures(rows).values():
                budget.count(failure)
    return budget


def report(column: Column, labeled: int = 0) -> ColumnReport:
    """What a column holds, from its manifest and rows."""
    column = Column(column.path)
    counts = column.manifest.counts
    found: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for shard, key, failure in column.failures() if counts.failures else ():
        found[failure.kind] += 1
        examples.setdefault(failure.kind, f"{shard}/{key}: {failure}")
    reasons = dict(found.most_common())
    return ColumnReport(
        column.task, column.slug, column.path, counts.shards, counts.labels, counts.failures, counts.bytes,
        column.seconds_in_use(), labeled, reasons, {kind: examples[kind] for kind in reasons},
        min((line["batch_size"] for line in runs(column.path) if line.get("event") == OUT_OF_MEMORY), default=None),
    )  # fmt: skip
