"""Stopping a run by a signal, at the next point where no work is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

REQUESTS = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Signals that ask a run to stop: Ctrl-C, the end of a job, and Slurm's warning before it (``sbatch --signal``)."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal; its state is complete, and the same call resumes it.

    Args:
        text: the message.
        signal: name of the signal.
    """

    def __init__(self, text: str = "", signal: str = "SIGINT") -> None:
        super().__init__(text)
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells report it: 130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + signal.Signals[self.signal].value


@dataclass
class Stop:
    """A request to stop; ``signal`` is the name of the signal, "" if there was none."""

    signal: str = ""

    def check(self) -> None:
        """Raise `Interrupted` if a stop was requested."""
        if self.signal:
            raise Interrupted(self.signal, self.signal)


@contextmanager
def signals() -> Iterator[Stop]:
    """Record SIGINT, SIGTERM or SIGUSR1 in the yielded `Stop`; a second signal has its previous effect.

    Only the main thread can handle signals; in other threads no stop is recorded.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number).name
        signal.signal(number, before[number])

    for one in [signal.Signals[name] for name in REQUESTS if hasattr(signal, name)]:
        before[one] = signal.getsignal(one) or signal.SIG_DFL
        signal.signal(one, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
