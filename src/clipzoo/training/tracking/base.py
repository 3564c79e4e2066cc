"""The protocols of trackers, and the run that they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from clipzoo import files
from clipzoo.types import ImageArray

PROJECT = "clipzoo"
IDENTITY = "tracking-id"
"""File with the identity of a training in services that need one."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A training as trackers show it.

    Attributes:
        folder: its folder.
        start: first step that this process executes; values of later steps that an interrupted process has logged are
            obsolete.
        config: settings, plain JSON values.
    """

    folder: Path
    start: int
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``<run>-<arm>-<seed>`` for a training of a run, else the name of its folder."""
        parts = self.folder.absolute().parts
        return "-".join((parts[-4], *parts[-2:])) if parts[-3:-2] == ("arms",) else parts[-1]

    def identity(self) -> str:
        """Return a random name, the same for all processes that resume this training."""
        path = self.folder / IDENTITY
        if not path.exists():
            files.write(path, uuid4().hex[:12].encode())
        return path.read_text()


class Tracker(Protocol):
    """An open tracker; only the main process has one."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers by name."""

    def picture(self, step: int, name: str, image: ImageArray) -> None:
        """Show a picture, uint8 H×W×3 RGB."""

    def close(self) -> None:
        """Finish the files or transfers."""


class TrackerPlugin(Protocol):
    """A module of this folder."""

    REQUIRES: str

    def open(self, run: TrackedRun) -> Tracker:
        """Return the tracker of a run; `RecipeError` if the service refuses it."""
