"""``label``: label a dataset with experts, resumable at any shard."""

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
from typing import Literal, get_args

from clipzoo.errors import MAX_FAILURES, EngineError, ExpertError, StoreError, counted
from clipzoo.experts.base import Expert
from clipzoo.files import AnyPath, Place, local, place
from clipzoo.labeling import inputs, plan
from clipzoo.labeling._budget import Budget, check_share
from clipzoo.labeling._loading import create_experts, load_expert, resolve_device
from clipzoo.labeling._matching import check_distinct
from clipzoo.labeling._progress import Progress
from clipzoo.labeling._quick_check import quick_check, warn
from clipzoo.labeling._tuning import Tuning
from clipzoo.labeling.local import OUT_OF_MEMORY, Work, label_shards
from clipzoo.locations import open_dataset
from clipzoo.readers import Reader, fingerprint
from clipzoo.stopping import Interrupted, Stop, signals
from clipzoo.store import Column, Manifest, Store, failures, runs, update_dataset

log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """Contents and cost of a column after a run, over all runs."""

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
    """Kind of failure -> number of samples in the whole column, the most frequent first."""
    examples: dict[str, str] = field(default_factory=dict)
    """Kind of failure, in the same order -> the first such sample with its reason."""
    halved_to: int | None = None
    """The smallest batch size after memory ran out, if it did. Labels may then differ from those of another run."""

    def refuse_empty(self) -> None:
        """Raise `ExpertError` if all samples failed."""
        if self.labels or not self.failures:
            return
        raise ExpertError(
            f"{self.task}/{self.slug} has no label: all {self.failures:,} samples failed. Example: "
            f"{next(iter(self.examples.values()))}\n`{self.listing}` lists all failures. Fix the cause and rerun the "
            "command with --retry-failed, without which failed samples are not labeled again. If an option was wrong, "
            "remove the column first (`clipzoo labels rm`)"
        )

    @property
    def listing(self) -> str:
        """The command that lists every sample without a label."""
        return f"clipzoo labels show {shlex.quote(str(self.path.parent.parent))} {self.task}/{self.slug} --failed"

    @property
    def bytes_per_image(self) -> float:
        """Mean size of a label on disk; NaN if there is none."""
        return self.bytes / self.labels if self.labels else float("nan")

    @property
    def seconds_per_image(self) -> float:
        """Mean time for predicting and encoding; NaN if there is no row."""
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
    shards: Collection[str] | str | None = None,
    tuning: Tuning = Tuning(),  # noqa: B008  # frozen
    check: bool = True,
    progress: bool = True,
    log: AnyPath | None = None,
    engine: Engine = "local",
    ray_address: str | None = None,
    codec: str | None = None,
) -> list[ColumnReport]:
    """Label a dataset with experts. Existing labels are kept.

    Args:
        data: a folder of shards, one shard, or a glob or brace pattern.
        experts: one or several URIs or experts. Each image is decoded once for all of them. Experts that read
            columns of other experts run after them.
        out: the store; created if it does not exist. It must be outside of ``data``.
        device: "auto" is "cuda" if available, else "cpu".
        batch_size: the largest batch; by default each expert's own.
        max_failures: the share of a column's samples that may fail before the run stops, 0 to 1.
        retry_failed: label samples again that failed in earlier runs. Existing labels are kept.
        shards: names of the shards to label, or patterns of names (``0000[0-4]*``); all by default.
        tuning: precision, layout and threads of the experts.
        check: run a quick check of each new expert on a few images, and log warnings.
        progress: show progress, throughput, remaining time and failures on standard error.
        log: a file to which a line of JSON is added for each shard.
        engine: "local" labels in this process, "ray" on all machines of a Ray cluster; both give the same bytes.
        ray_address: address of the cluster for ``ray.init``; by default a running one, or a new one on this machine.
        codec: how maps of new columns are written: "png-rle", the default, "png-levels" or "png" (docs/labels.md).

    Raises:
        DatasetError: the dataset cannot be read, or too many of its samples fail.
        ExpertError: an expert cannot be created or loaded, fails too often, or gives no label (rows are kept), two
            samples share an existing label, or ``max_failures`` is no share.
        StoreError: the store is of another dataset or other weights, or in use.
        EngineError: the engine is unknown, or the cluster fails.
        Interrupted: SIGINT or SIGTERM. The same call resumes.
    """
    if engine not in get_args(Engine):
        raise EngineError(f"engine={engine!r} is unknown. Use one of {', '.join(get_args(Engine))}")
    check_share(max_failures)
    location, written = os.fspath(data), None if log is None else local(log, "the log")
    _check_outside(reader := open_dataset(location), place(out))
    plan.choose(reader, shards)  # an unknown name is an error before anything is written
    given = [experts] if isinstance(experts, str | Expert) else experts
    made = create_experts(given, batch_size)
    names = [expert.card.column for expert in made]
    call = _Call(
        location, dict(zip(names, given, strict=True)), reader, fingerprint(reader), Store(out), device, batch_size,
        max_failures, retry_failed, shards, tuning, check, progress, written, engine, ray_address, codec,
    )  # fmt: skip
    reports = [one for stage in inputs.stages(made, call.store, tuning) for one in _label(call, stage)]
    for one in reports:
        one.refuse_empty()
    return sorted(reports, key=lambda one: names.index(f"{one.task}/{one.slug}"))


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of `label`, with the opened dataset and store."""

    data: str
    given: Mapping[str, str | Expert]
    """Column -> its expert as given. Workers on other machines create their own experts from URIs."""
    reader: Reader
    identity: dict[str, object]
    store: Store
    device: str
    batch_size: int | None
    max_failures: float
    retry_failed: bool
    shards: Collection[str] | str | None
    tuning: Tuning
    check: bool
    progress: bool
    log: Path | None
    engine: Engine
    ray_address: str | None
    codec: str | None

    def engine_for(
        self, experts: Sequence[Expert], jobs: Sequence[plan.Job], works: Sequence[Work], threads: int
    ) -> Callable[[Stop, Progress], None]:
        """Return the engine, ready to run the jobs."""
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
    """Label with experts that do not read each other's columns."""
    cards = [call.tuning.card(expert) for expert in experts]
    columns = [call.store.create(card, call.identity, other_dataset=True, codec=call.codec) for card in cards]
    with ExitStack() as stack:
        for column, card in sorted(zip(columns, cards, strict=True), key=lambda pair: str(pair[0].path)):
            stack.enter_context(column.lock())
            update_dataset(column, call.reader, call.identity)
            column.manifest.same_expert(Manifest.of(card, {}), column.path)  # another run may have replaced it
        threads = stack.enter_context(call.tuning.fixed_threads())
        read = [inputs.read_columns(expert, call.store) for expert in experts]
        old = [plan.outdated(*one) for one in zip(experts, columns, read, strict=True)]
        jobs = plan.missing(call.reader, columns, old, call.shards, call.retry_failed)
        check_distinct(call.reader, experts, columns, jobs)
        _warn_of_repeats(experts, columns, jobs, old)
        works = []
        for i, (expert, column) in enumerate(zip(experts, columns, strict=True)):
            needed = [job.shard for job in jobs if i in job.columns]
            works.append(Work(expert, column, _budget(column, call.max_failures, needed), expert.batch_size))
            works[i].reads = inputs.open_columns(expert, call.store, call.identity, needed)
        do = call.engine_for(experts, jobs, works, threads)
        names = [work.column.name for work in _active(jobs, works)]
        _run(do, jobs, works, Progress(names, len(jobs), call.progress and bool(jobs), call.log), threads)
        _update_counts(columns)
        return [report(work.column, work.labeled) for work in works]


def _active(jobs: Sequence[plan.Job], works: Sequence[Work]) -> list[Work]:
    """Return those with at least one job."""
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
        sent = error.signal if isinstance(error, Interrupted) else "SIGINT"
        raise Interrupted(_interrupted(jobs, works, str(error)), sent) from None
    finally:
        for work in active:
            work.write_notes()
            work.column.finish(work.unnoted(), labeled=work.labeled)


def _label_here(
    reader: Reader,
    jobs: Sequence[plan.Job],
    works: Sequence[Work],
    fresh: Sequence[Expert],
    stop: Stop,
    progress: Progress,
) -> None:
    """Label on this machine, after a quick check of the ``fresh`` experts."""
    warn(quick_check(reader, (job.shard for job in jobs), fresh))
    stop.check()
    label_shards(reader, jobs, works, stop, progress)


def _warn_of_repeats(
    experts: Sequence[Expert], columns: Sequence[Column], jobs: Sequence[plan.Job], old: Sequence[Set[str]]
) -> None:
    """Warn of incomplete shards, and of shards whose sources have changed: they are labeled again."""
    again = {job.shard for job in jobs}
    for expert, column, changed in zip(experts, columns, old, strict=True):
        for shard, suffix in column.halves().items():
            if shard in again:
                log.warning("%s is incomplete, %s is missing: it is labeled again", shard, column.file(shard, suffix))
        outdated = sorted(changed & again)
        if outdated:
            source = f"labels in {' or '.join(expert.reads)}" if expert.reads else "label files"
            log.warning(
                "%s: the %s of %s have changed and are read again, the first ones those of %s",
                column.name, source, counted(len(outdated), "shard"), outdated[0],
            )  # fmt: skip


def _update_counts(columns: Sequence[Column]) -> None:
    """Update the counts of columns after a killed run, or after files were removed by hand."""
    for column in columns:
        events = [line.get("event") for line in runs(column.path)]
        if events[-1:] not in ([], ["end"]) or column.manifest.counts.shards != len(column.committed()):
            column.finish()


def _interrupted(jobs: Sequence[plan.Job], works: Sequence[Work], signal: str) -> str:
    left = len(plan.uncommitted(jobs, [work.column for work in works]))
    return (
        f"labeling was stopped by {signal or 'SIGINT'}; {left} of {len(jobs)} shards remain. Rerun the command to "
        "resume"
    )


def _check_outside(reader: Reader, out: Place) -> None:
    """Raise `StoreError` if the store is inside of the dataset: the next run would read its tars as shards."""
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is a file, but a label store is a folder. Give another output folder")
    for folder in reader.folders:
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise StoreError(
                f"the store {str(out)!r} is inside of the dataset {str(folder)!r}, so its tars would be read as "
                "shards. Give an output folder next to it"
            )


def _budget(column: Column, allowed: float, again: Collection[str]) -> Budget:
    """Return the budget of a column with the counts of its committed shards, except those labeled ``again``."""
    budget = Budget(column.name, allowed)
    for shard, rows in column.tables():
        if shard not in again:
            budget.samples += len(rows)
            for failure in failures(rows).values():
                budget.count(failure)
    return budget


def report(column: Column, labeled: int = 0) -> ColumnReport:
    """Report on a column, from its manifest and rows."""
    column = Column(column.path)
    counts = column.manifest.counts
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for shard, key, failure in column.failures() if counts.failures else ():
        kinds[failure.kind] += 1
        examples.setdefault(failure.kind, f"{shard}/{key}: {failure}")
    reasons = dict(kinds.most_common())
    return ColumnReport(
        column.task, column.slug, column.path, counts.shards, counts.labels, counts.failures, counts.bytes,
        column.seconds_in_use(), labeled, reasons, {kind: examples[kind] for kind in reasons},
        min((line["batch_size"] for line in runs(column.path) if line.get("event") == OUT_OF_MEMORY), default=None),
    )  # fmt: skip
