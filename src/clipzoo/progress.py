"""What a run tells of itself while it goes on; the command line shows it as bars."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what a run is doing."""

    def stage(self, text: str) -> None:
        """A new part of the run begins; ``text`` is a headline."""

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` of ``what``."""


class Silent:
    """Shows nothing."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Nothing."""
