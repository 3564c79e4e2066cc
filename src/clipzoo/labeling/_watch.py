"""What watches a run: signals, the budget of errors."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from clipzoo.errors import ClipzooError, DatasetError, ExpertError, kind_of

EARLIEST = 100
"""The budget is not judged on fewer samples than these, unless there are no more."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal; its state is whole and the same call goes on with it."""


@dataclass
class Stop:
    """Whether a signal asked the run to end."""

    signal: str = ""

    def check(self) -> None:
        """Raise `Interrupted` if one did."""
        if self.signal:
            raise Interrupted(self.signal)


@contextmanager
def signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM set the yielded flag once; a second one acts as it did before.

    Only the main thread may handle signals; elsewhere the flag is never set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number).name
        signal.signal(number, before[number])

    for asked in (signal.SIGINT, signal.SIGTERM):
        before[asked] = signal.getsignal(asked) or signal.SIG_DFL
        signal.signal(asked, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Budget:
    """The share of samples of a column that may fail, counted over the column's committed shards and this run."""

    column: str
    allowed: float
    seen: int = 0
    failed: int = 0
    by_sample: int = 0  # failures that no expert had a part in
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # kind of reason -> the first in full

    def count(self, error: str) -> None:
        """Count a failure by its kind."""
        self.failed += 1
        self.reasons[kind_of(error)] += 1
        self.examples.setdefault(kind_of(error), error)

    def note(self, error: str = "", by_sample: bool = False) -> None:
        """Count a sample, with its reason if it failed; the budget is judged when enough have been seen."""
        self.seen += 1
        if error:
            self.count(error)
            self.by_sample += by_sample
            if self.seen >= EARLIEST:
                self.judge()

    def since(self, before: Budget) -> Budget:
        """What was counted since ``before``, a copy of this budget, was made."""
        return replace(
            self,
            seen=self.seen - before.seen,
            failed=self.failed - before.failed,
            by_sample=self.by_sample - before.by_sample,
            reasons=self.reasons - before.reasons,
        )

    def add(self, other: Budget) -> None:
        """Count what another one of the same column has counted."""
        self.seen += other.seen
        self.failed += other.failed
        self.by_sample += other.by_sample
        self.reasons += other.reasons
        self.examples = {**other.examples, **self.examples}

    def judge(self) -> None:
        """Raise `DatasetError` or `ExpertError`, whoever caused most failures, if too many samples failed."""
        if self.failed <= self.allowed * self.seen:
            return
        cause: type[ClipzooError] = DatasetError if 2 * self.by_sample > self.failed else ExpertError
        raise cause(
            f"labelling stopped: {self.failed} of {self.seen} samples of {self.column} failed "
            f"({self.failed / self.seen:.1%}), more than max_failures={self.allowed:g} allows:\n"
            + "\n".join(f"  {count} × {self.examples[kind]}" for kind, count in self.reasons.most_common(10))
            + "\nWhat was in work was dropped, what is committed is kept. Mend the cause and run the same again, with "
            "--retry-failed if an expert is mended, or allow more by --max-failures, in a recipe labeling.max_failures."
        )
