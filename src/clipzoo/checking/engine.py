"""``scan``: read and decode every sample of a dataset once, in threads, and count problems."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clipzoo.checking.duplicates import dhash
from clipzoo.checking.findings import Findings, ScannedSample
from clipzoo.checking.kept import Kept, Scanned
from clipzoo.errors import DatasetError, SampleError
from clipzoo.progress import PERIOD
from clipzoo.readers import Entry, Reader, prefetched, spread
from clipzoo.readers.decode import read_image
from clipzoo.stopping import Stop, signals
from clipzoo.types import Failure, hash64

THREADS = max(1, min(16, os.cpu_count() or 1))
AHEAD = 8
"""Samples that are submitted ahead, per thread; the results are small."""

Numbered = tuple[int, Entry]
"""An entry with its number in the shard."""

_MAGIC = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
}  # fmt: skip


def scan(reader: Reader, *, limit: int | None = None, progress: bool = True, resume: Path | None = None) -> Findings:
    """Read and decode every sample of a dataset once.

    Args:
        reader: of the dataset.
        limit: scan this many samples, spread evenly; by default all.
        progress: show a progress bar on standard error.
        resume: folder that keeps the results of finished shards; shards that it has are not read again unless they have
            changed. Shards that are scanned in part are not kept.

    Returns:
        The findings. After SIGINT or SIGTERM they cover the samples scanned until then, and ``stopped`` is set.

    Raises:
        DatasetError: a shard cannot be read, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"limit={limit} is not a valid number of samples; give 1 or more")
    kept = Kept(resume, reader) if resume is not None else None
    began = time.monotonic()
    findings = Findings(reader.location, len(reader.shards))
    shards = spread(reader.shards, limit)
    threads = max(THREADS, reader.threads)
    fresh = [shard for shard in shards if kept is None or not kept.has(shard)]
    near = prefetched(reader, fresh) if limit is None else nullcontext(iter(fresh))
    with signals() as stop, _bar(len(shards), progress) as advance, ThreadPoolExecutor(threads) as pool, near as turns:
        unread = frozenset(fresh)
        for left, shard in zip(range(len(shards), 0, -1), shards, strict=True):
            if shard in unread:
                next(turns)
                most = None if limit is None else math.ceil((limit - findings.seen) / left)
                _scan_shard(reader, shard, most, pool, findings, stop, kept)
            elif kept is not None:
                _restore_shard(shard, findings, kept)
            advance(findings)
            if stop.signal:
                break
    if kept is not None:
        findings.reused = kept.reused
    findings.stopped = stop.signal
    findings.end(len(shards))
    findings.seconds = time.monotonic() - began
    return findings


def _scan_shard(
    reader: Reader,
    shard: str,
    most: int | None,
    pool: ThreadPoolExecutor,
    findings: Findings,
    stop: Stop,
    kept: Kept | None,
) -> None:
    """Scan at most ``most`` samples of a shard, and keep the results if it is finished."""
    entries = list(enumerate(reader.index(shard)))
    chosen = spread(entries, most)
    whole = len(chosen) == len(entries)
    findings.begin(shard, whole)
    results: list[Scanned] = []
    for number, sample in _scanned(reader, chosen, pool):
        findings.add(number, sample)
        if kept is not None and whole:
            results.append((number, sample))
        if stop.signal:
            return
    if kept is not None and whole:
        kept.save(shard, results)


def _restore_shard(shard: str, findings: Findings, kept: Kept) -> None:
    """Add the kept results of a shard."""
    results = kept.load(shard)
    if results is None:
        raise DatasetError(f"the shard {shard!r} has changed during the check; rerun the command")
    findings.begin(shard, True)
    for number, sample in results:
        findings.add(number, sample)


def scan_sample(reader: Reader, entry: Entry) -> ScannedSample:
    """Read and decode one sample; an error becomes its ``failure``."""
    result = read_image(reader, entry)
    if isinstance(result, Failure):
        return ScannedSample(entry.key, result, advice=reader.advice(entry) if entry.failure else "")
    sample, image = result
    height, width = image.shape[:2]
    return ScannedSample(
        entry.key, None, sample.caption, form_of(sample.image), (height, width), hash64(sample.image), dhash(image),
        sideways=reader.sideways(entry, sample.image), fields=_fields_of(reader, entry),
    )  # fmt: skip


def _fields_of(reader: Reader, entry: Entry) -> tuple[str, ...]:
    """Return the names of the sample's fields with text; none if they cannot be read."""
    try:
        return tuple(reader.fields(entry))
    except SampleError:
        return ()


def form_of(data: bytes) -> str:
    """Return the format of an image file by its first bytes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return "AVIF"
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "other")


def _scanned(
    reader: Reader, entries: Sequence[Numbered], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, ScannedSample]]:
    """Yield the scanned samples in their order; pending ones are canceled when the caller stops."""
    waiting: deque[tuple[int, Future[ScannedSample]]] = deque()
    try:
        for number, entry in entries:
            waiting.append((number, pool.submit(scan_sample, reader, entry)))
            if len(waiting) >= max(AHEAD * THREADS, reader.threads):
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


@contextmanager
def _bar(shards: int, enabled: bool) -> Iterator[Callable[[Findings], None]]:
    """Show completed shards and the numbers of samples and broken samples on standard error.

    Where standard error is not a terminal, it is a line every `PERIOD` seconds.
    """
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("checking"), BarColumn(), MofNCompleteColumn(),
        TextColumn("shards  {task.fields[samples]} samples  {task.fields[broken]} broken"), TimeRemainingColumn(),
        console=console, disable=not (enabled and console.is_terminal),
    )  # fmt: skip
    task = bars.add_task("checking", total=shards, samples=0, broken=0)
    done, printed = 0, time.monotonic()

    def advance(now: Findings) -> None:
        nonlocal done, printed
        done += 1
        bars.update(task, advance=1, samples=now.seen, broken=now.seen - now.usable)
        if enabled and not console.is_terminal and time.monotonic() - printed >= PERIOD:
            printed = time.monotonic()
            line = f"checking: {done}/{shards} shards, {now.seen:,} samples, {now.seen - now.usable:,} broken"
            print(line, file=sys.stderr, flush=True)

    with bars:
        yield advance
