"""The engine for one machine: every image is read and decoded once for all experts.

The columns of a shard are committed when the shard is complete. An incomplete shard leaves no files, and the next run
labels it again.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from clipzoo import files
from clipzoo.errors import LabelError, SampleError
from clipzoo.experts.base import Expert, ExpertInput
from clipzoo.experts.calls import one_each
from clipzoo.labeling import inputs
from clipzoo.labeling._batches import Batch, Batcher, decoded
from clipzoo.labeling._budget import Budget
from clipzoo.labeling._progress import COMMIT, DATA, WRITING, Meter, Progress
from clipzoo.labeling.plan import Job, source_state
from clipzoo.readers import Entry, Reader, prefetched, shard_fingerprint
from clipzoo.readers.decode import Decoded
from clipzoo.stopping import Stop
from clipzoo.store import Column, ColumnWriter, marks_of
from clipzoo.store.manifest import append_lines, run_line
from clipzoo.types import Failure

log = logging.getLogger(__name__)

THREADS = max(1, min(8, (os.cpu_count() or 2) - 1))
"""Threads that read, decode and encode; more if the reader needs more (`Reader.threads`)."""

OUT_OF_MEMORY = "out of memory"
"""The event in ``runs.jsonl`` of a run that halved its batches. Its labels may differ from those of other runs."""

INTERVAL = 60.0
"""Seconds between two writes of ``runs.jsonl`` in an object store, where each one writes the whole file. A run that is
killed loses the lines of this time: the cost of its last shards, and the states of imported files, which are then read
again."""

UNSOUND = "its label cannot be used"

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
AHEAD = 4
"""Images per thread that are decoded in advance, in addition to the next batch."""


@dataclass
class Work:
    """An expert, its column, and the progress of this run."""

    expert: Expert
    column: Column
    budget: Budget
    batch_size: int
    device: str = "cpu"
    limits: dict[int, int] = field(default_factory=dict)
    """Pixels of an image -> largest batch of such or larger images that fits in memory."""
    seconds: float = 0.0
    """Time for predicting and encoding. Decoding is shared and not counted."""
    noted: float = 0.0
    """The part of ``seconds`` that is recorded in ``runs.jsonl``."""
    labeled: int = 0
    reads: Sequence[Column] = ()
    """Columns whose labels the expert gets as input."""
    notes: list[str] = field(default_factory=list)
    """Lines that are not yet in ``runs.jsonl``."""
    written: float = -INTERVAL
    """Time of `time.monotonic` at which lines were last written."""

    def most(self, pixels: int) -> int:
        """Return the largest batch of images with so many pixels that fits in memory, as far as known."""
        return min([self.batch_size, *(size for known, size in self.limits.items() if pixels >= known)])

    def note(self, **values: object) -> None:
        """Add a line to the column's ``runs.jsonl``: immediately on a disk, else every `INTERVAL` seconds."""
        self.notes.append(run_line(**values))
        if not files.remote(self.column.path) or time.monotonic() - self.written >= INTERVAL:
            self.write_notes()

    def write_notes(self) -> None:
        """Write the lines that are not yet in ``runs.jsonl``."""
        append_lines(self.column.path, self.notes)
        self.notes, self.written = [], time.monotonic()

    def unnoted(self) -> float:
        """Return the seconds since the last call."""
        fresh, self.noted = self.seconds - self.noted, self.seconds
        return round(fresh, 4)


@dataclass(frozen=True, slots=True)
class Ready:
    """An encoded label, or the reason why there is none; ``seconds`` were spent on encoding it."""

    label: tuple[bytes, float, float | None] | Failure
    seconds: float


@dataclass
class Pass:
    """One shard of one column while it is written.

    Labels are checked and encoded by ``pool`` while the next batch is predicted, and written in order.
    """

    work: Work
    writer: ColumnWriter
    pool: ThreadPoolExecutor
    stop: Stop
    meter: Meter
    source: str = ""
    """`source_state` of its samples, from before the first label was read. It is not recorded for a shard with kept
    labels, whose earlier record stays valid."""
    kept: set[str] = field(default_factory=set)
    batcher: Batcher = field(init=False)
    read: inputs.Shard = field(init=False)
    waiting: deque[tuple[str, Future[Ready]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.batcher = Batcher(self.work.batch_size, self.predict)
        self.read = inputs.Shard(self.work.reads, self.writer.shard, self.writer.source)

    def keep(self, previous: Column, shard: str) -> None:
        """Copy the labels of an earlier run. Failed samples are labeled again.

        Raises:
            StoreError, LabelError: the labels have changed since they were written.
        """
        with previous.cached(shard):
            rows = previous.rows(shard)
            previous.check_tar(shard, marks_of(rows.schema))
            for row in rows.to_pylist():
                if row["size"] is not None:
                    data = previous.member(shard, row["key"], row["offset"], row["size"])
                    self.writer.copy(row["key"], data, row["valid_share"], row["confidence"])
                    self.kept.add(row["key"])
                    self.work.budget.note()

    def fail(self, key: str, failure: Failure, by_sample: bool = False) -> None:
        """Store that a sample has no label; raise if the budget is used up."""
        self.writer.fail(key, failure)
        self.meter.fail(self.work.column.name, key, failure)
        self.work.budget.note(failure, by_sample)

    def add(self, sample: Decoded) -> None:
        """Put a sample into its batch. It fails if it has no image, or if a label that the expert reads is damaged."""
        if sample.image is None:
            assert sample.failure is not None
            self.fail(sample.key, sample.failure, by_sample=True)
            return
        try:
            labels = self.read.labels(sample.key)
        except LabelError as error:
            self.fail(sample.key, Failure("damaged-input", f"a label that the expert reads is damaged: {error}"))
        else:
            self.batcher.add(ExpertInput(sample.key, sample.image, sample.caption, labels))

    def predict(self, batch: Batch) -> None:
        """Label a batch. If it fails, label image by image, so that only the cause is a failure.

        Raises:
            DeviceError: the GPU has failed.
        """
        self.stop.check()
        start = time.perf_counter()
        pixels = batch[0].image.shape[0] * batch[0].image.shape[1]
        most, shrink = partial(self.work.most, pixels), partial(self._shrink, pixels)
        try:
            with self.meter.time(self.work.column.name):
                labels = one_each(self.work.expert.predict_inputs, batch, self.work.device, most, shrink)
        finally:
            self.work.seconds += time.perf_counter() - start
        self.meter.labeled[self.work.column.name] += len(batch)
        for sample, label in zip(batch, labels, strict=True):
            self.waiting.append((sample.key, self.pool.submit(self._ready, label)))
        self.settle(len(batch))

    def settle(self, left: int = 0) -> None:
        """Write encoded labels until only ``left`` of them are waiting."""
        with self.meter.time(WRITING):
            while len(self.waiting) > left:
                key, future = self.waiting.popleft()
                self._write(key, future.result())

    def _shrink(self, pixels: int, size: int) -> None:
        """Limit batches of images with ``pixels`` or more to ``size``, and record it in ``runs.jsonl``."""
        self.work.limits[pixels] = size
        self.work.note(event=OUT_OF_MEMORY, shard=self.writer.shard, batch_size=size, pixels=pixels)
        log.warning(
            "%s: out of memory. Batches of images with %d pixels or more now have at most %d images",
            self.work.column.name, pixels, size,
        )  # fmt: skip

    def _ready(self, label: object) -> Ready:
        start = time.perf_counter()
        encoded = self._failure(label) if isinstance(label, Exception) else self._encoded(label)
        return Ready(encoded, time.perf_counter() - start)

    def _failure(self, error: Exception) -> Failure:
        """Return the reason why a label could not be predicted, or why an existing label could not be read."""
        if not self.work.expert.imports:
            return Failure("expert-failed", f"the expert failed: {type(error).__name__}: {error}")
        if not isinstance(error, SampleError):
            return Failure("unsound-label", f"{UNSOUND}: {type(error).__name__}: {error}")
        return Failure("no-label" if error.code == "no-label" else "unsound-label", f"{UNSOUND}: {error}")

    def _encoded(self, label: object) -> tuple[bytes, float, float | None] | Failure:
        try:
            return self.writer.encode(label)
        except LabelError as error:
            what = UNSOUND if self.work.expert.imports else "the expert gave no sound label"
            return Failure("unsound-label", f"{what}: {error}")
        except (AttributeError, TypeError, ValueError) as error:  # errors of a task on an object that is not its label
            detail = f"the expert returned a {type(label).__name__}, which is not a label of its task: {error}"
            return Failure("expert-failed", detail)

    def _write(self, key: str, ready: Ready) -> None:
        self.work.seconds += ready.seconds
        if isinstance(ready.label, Failure):
            detail = _ADDRESS.sub("0x…", ready.label.detail)  # equal failures must give equal bytes
            self.fail(key, replace(ready.label, detail=detail))
        else:
            self.writer.copy(key, *ready.label)
            self.work.labeled += 1
            self.work.budget.note()


def codecs(reader: Reader) -> ThreadPoolExecutor:
    """Return the threads that read, decode and encode."""
    return ThreadPoolExecutor(max(THREADS, reader.threads), thread_name_prefix="codec")


def label_shards(reader: Reader, jobs: Sequence[Job], works: Sequence[Work], stop: Stop, bar: Progress) -> None:
    """Run the jobs, one shard at a time.

    Raises:
        Interrupted: after a signal; earlier shards are committed.
        DatasetError, ExpertError: too many samples failed.
        DeviceError: the GPU has failed.
    """
    ends = {i: job for job in jobs for i in job.columns}
    fetched = prefetched(reader, [job.shard for job in jobs])
    with codecs(reader) as pool, fetched as turns:
        for job in jobs:
            meter = bar.begin()
            with meter.time(DATA):
                next(turns)
            with labeled_shard(reader, job, works, pool, stop, meter):
                for work in [works[i] for i in job.columns if ends[i] is job]:
                    work.budget.judge()
                stop.check()
            meter.stop()
            bar.shard(job.shard, meter)


@contextmanager
def labeled_shard(
    reader: Reader, job: Job, works: Sequence[Work], pool: ThreadPoolExecutor, stop: Stop, meter: Meter
) -> Iterator[None]:
    """Label a shard before the block and commit it after the block; an exception in the block discards it."""
    with ExitStack() as stack:
        with meter.time(DATA):
            stack.enter_context(reader.cached(job.shard))
            entries = reader.index(job.shard)
            for column in {column for i in job.columns if i not in job.again for column in works[i].reads}:
                stack.enter_context(column.cached(job.shard))
        keys = [entry.key for entry in entries]
        source = shard_fingerprint(reader, job.shard, entries)
        writers = [stack.enter_context(ColumnWriter(works[i].column, job.shard, keys, source)) for i in job.columns]
        passes = [
            Pass(works[i], writer, pool, stop, meter, source_state(works[i].expert, works[i].reads, job.shard, keys))
            for i, writer in zip(job.columns, writers, strict=True)
        ]
        for i, one in zip(job.columns, passes, strict=True):
            if i in job.again:
                one.keep(one.work.column, job.shard)
        _feed(reader, entries, passes, pool, stop, meter)
        for one in passes:
            one.batcher.flush()
            one.settle()
        yield
        with meter.time(COMMIT):
            stack.close()
    for one in passes:
        _note(one)


def _feed(
    reader: Reader,
    entries: Sequence[Entry],
    passes: Sequence[Pass],
    pool: ThreadPoolExecutor,
    stop: Stop,
    meter: Meter,
) -> None:
    """Give every image to every pass that has no label for it."""
    everywhere = set.intersection(*(one.kept for one in passes))
    wanted = [entry for entry in entries if entry.key not in everywhere]
    meter.samples = len(wanted)
    ahead = max(AHEAD * THREADS, reader.threads) + max(one.work.batch_size for one in passes)
    for sample in meter.waited(DATA, decoded(reader, wanted, pool, ahead)):
        stop.check()
        meter.images += 1
        for one in passes:
            if sample.key not in one.kept:
                one.add(sample)


def _note(one: Pass) -> None:
    """Record the cost of a shard immediately, so that it is known if the run is killed later."""
    optional = {"kept": len(one.kept), "replaced": one.writer.replaced, "source": "" if one.kept else one.source}
    one.work.note(
        event="shard",
        shard=one.writer.shard,
        seconds=one.work.unnoted(),
        rows=len(one.writer.keys or ()),
        failures=one.writer.failures,
        **{name: value for name, value in optional.items() if value},
    )
