"""The progress of a run: throughput, times, failures, remaining time, and slowdowns."""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clipzoo.progress import PERIOD
from clipzoo.store import create_file
from clipzoo.store.manifest import writing
from clipzoo.types import Failure

log = logging.getLogger(__name__)

T = TypeVar("T")

DATA, WRITING, COMMIT = "data", "writing", "commit"
"""Time of the labeling thread apart from experts: waiting for images, for encoded labels, and for the disk."""

RECENT, BEFORE, SLOW, LOOK_BACK = 3, 5, 0.5, 200
"""A slowdown is `RECENT` shards below the share `SLOW` of the median of at least `BEFORE` earlier shards.

At most `LOOK_BACK` shards are compared.
"""


class Meter:
    """Counts and times of the labeling thread, for one or several shards.

    Attributes:
        samples: number of samples to label.
        images: number of samples read so far.
        elapsed: wall-clock seconds.
        seconds: `DATA`, `WRITING`, `COMMIT`, or name of a column -> seconds.
        labeled: column -> images given to its expert.
        failures: column -> samples without a label.
        failed: key -> kind of its first failure.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.samples = self.images = 0
        self.elapsed = 0.0
        self.seconds: dict[str, float] = dict.fromkeys((DATA, WRITING, COMMIT, *columns), 0.0)
        self.labeled = dict.fromkeys(columns, 0)
        self.failures = dict.fromkeys(columns, 0)
        self.failed: dict[str, str] = {}
        self._began = time.perf_counter()

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        """Measure the time of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - began

    def waited(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and measure the time spent waiting for them."""
        iterator, end = iter(items), object()
        while True:
            with self.time(what):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def fail(self, column: str, key: str, failure: Failure) -> None:
        """Count a failure."""
        self.failures[column] += 1
        self.failed.setdefault(key, failure.kind)

    def stop(self) -> None:
        """End the measurement of the shard."""
        self.elapsed = time.perf_counter() - self._began

    def add(self, other: Meter) -> None:
        """Add the counts of another meter, without its failed keys."""
        self.images += other.images
        self.elapsed += other.elapsed
        for what, seconds in other.seconds.items():
            self.seconds[what] += seconds
        for column in other.columns:
            self.labeled[column] += other.labeled[column]
            self.failures[column] += other.failures[column]

    def shares(self) -> dict[str, float]:
        """Return the shares of the measured time in [0, 1]: waiting for data, experts, writing."""
        spent = {
            "waiting for data": self.seconds[DATA],
            "experts": sum(self.seconds[column] for column in self.columns),
            "writing": self.seconds[WRITING] + self.seconds[COMMIT],
        }
        return {what: seconds / (sum(spent.values()) or 1.0) for what, seconds in spent.items()}

    def rate(self, column: str) -> float:
        """Return the throughput of an expert while it runs, in images/s; 0 if it has not run."""
        return self.labeled[column] / self.seconds[column] if self.seconds[column] else 0.0


Pace = tuple[float, dict[str, float]]


@dataclass
class Drift:
    """Detects a lasting slowdown."""

    paces: deque[Pace] = field(default_factory=lambda: deque(maxlen=LOOK_BACK))
    """For each shard: images/s, and seconds per image by activity."""
    slow: bool = False

    def note(self, meter: Meter) -> str:
        """Add a shard, and return a warning at the start of each slowdown, else ""."""
        if not meter.images or not meter.elapsed:
            return ""
        pace = meter.images / meter.elapsed
        self.paces.append((pace, {what: share / pace for what, share in meter.shares().items()}))
        paces = list(self.paces)
        recent, before = paces[-RECENT:], paces[:-RECENT]
        usual = statistics.median(pace for pace, _ in before) if len(before) >= BEFORE else 0.0
        was, self.slow = self.slow, max(pace for pace, _ in recent) < SLOW * usual
        return self._warning(recent, before, usual) if self.slow and not was else ""

    @staticmethod
    def _warning(recent: Sequence[Pace], before: Sequence[Pace], usual: float) -> str:
        def grown(what: str) -> float:
            now, then = (statistics.median(spent[what] for _, spent in paces) for paces in (recent, before))
            return now - then

        what = max(recent[0][1], key=grown)
        return (
            f"labeling has slowed down to {statistics.median(pace for pace, _ in recent):.1f} images/s over the last "
            f"{len(recent)} shards, from {usual:.1f}. The largest increase is in {what}: {1000 * grown(what):.0f} ms "
            "per image. Check for other processes, a slower disk or network, and larger images"
        )


class Progress:
    """A display on standard error, and a log of one JSON line per shard.

    Args:
        columns: names of the columns that are written.
        shards: number of shards to label.
        shown: show the display.
        log: file to which lines are added, if given.
    """

    def __init__(self, columns: Sequence[str], shards: int, shown: bool = False, log: Path | None = None) -> None:
        self.total, self.shards, self.done = Meter(columns), shards, 0
        self.reasons: Counter[str] = Counter()
        """Kind of failure -> samples. A sample that fails in several columns counts once."""
        self.note = ""
        """Further text of the display."""
        self._why: list[Text] = []
        self._now: Meter | None = None
        self._log, self._drift = log, Drift()
        self._began = time.perf_counter()
        self._live = Live(get_renderable=self._render, console=Console(stderr=True)) if shown else None
        self._lines, self._ended = Thread(target=self._print_lines, name="progress", daemon=True), Event()

    def __enter__(self) -> Progress:
        if self._log is not None:
            create_file(self._log)
        self._began = time.perf_counter()
        if self._live is not None:
            self._live.start()
            if not self._live.console.is_terminal:  # rich prints only the end there
                self._lines.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._live is not None:
            if self._lines.is_alive():
                self._lines.join()
            self._live.stop()
            if not self._live.console.is_terminal:
                self._live.console.line()  # rich ends the line only on terminals
        if self.done:
            self.total.elapsed = time.perf_counter() - self._began  # workers' seconds overlap
            reasons = dict(self.reasons.most_common())
            self._write("end", self.total, failures=sum(reasons.values()), reasons=reasons)

    def begin(self) -> Meter:
        """Return the meter of the next shard, which the display shows."""
        if self._now is None and not self.done:
            self._began = time.perf_counter()  # do not count the quick check
        self._now = Meter(self.total.columns)
        return self._now

    def shard(self, name: str, meter: Meter) -> None:
        """Add a committed shard."""
        self._now = None
        self.done += 1
        self.total.add(meter)
        self.reasons.update(meter.failed.values())
        self._why = [Text(f"  {count:,} × {reason}") for reason, count in self.reasons.most_common(5)]
        self._write("shard", meter, shard=name, failures=len(meter.failed))
        if warning := self._drift.note(meter):
            log.warning(warning)

    def _left(self) -> float | None:
        """Return the estimated remaining seconds."""
        done = float(self.done)
        if (now := self._now) is not None and now.samples:
            done += now.images / now.samples
        return (time.perf_counter() - self._began) * (self.shards - done) / done if done else None

    def _write(self, event: str, meter: Meter, **values: object) -> None:
        if self._log is None:
            return
        experts = {
            column: {
                "images": meter.labeled[column],
                "images_per_second": round(meter.rate(column), 3),
                "seconds": round(meter.seconds[column], 6),
                "failures": meter.failures[column],
            }
            for column in meter.columns
            if meter.labeled[column] or meter.failures[column]
        }
        line = {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "event": event,
            **values,
            "images": meter.images,
            "seconds": round(meter.elapsed, 4),
            "images_per_second": round(meter.images / meter.elapsed, 3) if meter.elapsed else None,
            "shares": {what: round(share, 4) for what, share in meter.shares().items()},
            "experts": experts,
            "shards_done": self.done,
            "shards": self.shards,
            "seconds_left": round(left, 1) if (left := self._left()) is not None else None,
        }
        with writing(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _current(self) -> Meter:
        """Return the counts so far, with those of the shard in work."""
        current = Meter(self.total.columns)
        for meter in (self.total, self._now):
            if meter is not None:
                current.add(meter)
        return current

    def _counts(self, current: Meter) -> list[str]:
        """Return shards, images, throughput, failures, remaining time and note."""
        now, left = self._now, self._left()
        failed = sum(self.reasons.values()) + (len(now.failed) if now is not None else 0)
        rate = current.images / max(time.perf_counter() - self._began, 1e-9)
        return [
            f"{self.done}/{self.shards} shards", f"{current.images:,} images", f"{rate:.1f}/s", f"{failed:,} failed",
            f"{timedelta(seconds=round(left))} left" if left else "", self.note,
        ]  # fmt: skip

    def _print_lines(self) -> None:
        """Print a line every `PERIOD` seconds, until the end."""
        while not self._ended.wait(PERIOD):
            print("labeling:", ", ".join(filter(None, self._counts(self._current()))), file=sys.stderr, flush=True)

    def _render(self) -> RenderableType:
        """Return the current state; called by the display's thread."""
        current = self._current()
        head = Table.grid(padding=(0, 1))
        head.add_row("labeling", ProgressBar(max(self.shards, 1), self.done, width=24), *self._counts(current))
        time_goes = " · ".join(f"{what} {share:.0%}" for what, share in current.shares().items())
        rows = Table.grid(padding=(0, 2))
        for column in current.columns:
            failures = f"{current.failures[column]:,} failed" if current.failures[column] else ""
            rows.add_row(f"  {column}", f"{current.rate(column):.1f} images/s", failures)
        return Group(head, f"  {time_goes}", rows, *self._why)
