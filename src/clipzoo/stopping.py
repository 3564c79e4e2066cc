"""How a run is stopped by a signal: it ends at the next place where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


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
