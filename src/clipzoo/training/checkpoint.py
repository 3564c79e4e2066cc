"""Checkpoints: the complete state of a training, written so that a kill at any moment leaves a whole file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from clipzoo import files
from clipzoo.errors import CheckpointError, brief
from clipzoo.models import Student
from clipzoo.training import ranks
from clipzoo.training.job import Job

NAME = "checkpoint.pt"
FIELDS: dict[str, type] = {"step": int, "student": dict, "optimizer": dict, "rng": torch.Tensor}
"""Required fields; ``cuda_rng`` is optional."""


class Part(Protocol):
    """A further part of the state of a training: plain values and tensors."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Continue from a state."""


class Checkpoints:
    """The checkpoint of one training, and the time since it was written; ``parts`` are saved with it by name."""

    def __init__(self, job: Job, student: Student, adam: torch.optim.Optimizer) -> None:
        self.job, self.student, self.adam = job, student, adam
        self.path = job.out / NAME
        self.parts: dict[str, Part] = {}
        self._written = time.monotonic()

    def due(self, step: int) -> bool:
        """Return True if ``checkpoint_every`` steps or ``checkpoint_minutes`` have passed."""
        settings = self.job.settings
        waited = time.monotonic() - self._written
        return step % settings.checkpoint_every == 0 or waited > 60 * settings.checkpoint_minutes

    def write(self, step: int, path: Path | None = None) -> None:
        """Write the state after ``step`` updates, by default as the checkpoint; only the main process does."""
        if not ranks.is_main():
            return
        state = {
            "step": step,
            "student": self.student.state_dict(),
            "optimizer": self.adam.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        } | {name: part.state_dict() for name, part in self.parts.items()}
        save(path or self.path, state)
        self._written = self._written if path else time.monotonic()

    def resume(self) -> int:
        """Load the state that an earlier process wrote, else seed the random state; return the number of steps done.

        Raises:
            CheckpointError: the file is damaged, or it belongs to another training.
        """
        if not self.path.exists():
            torch.manual_seed(self.job.seed)
            return 0
        return self.restore(self.path)

    def restore(self, path: Path) -> int:
        """Load a state that `write` wrote, and return its number of steps; `CheckpointError` as in `resume`."""
        state = load(path)
        with _fitting(path):
            self.student.load_state_dict(state["student"])
            self.adam.load_state_dict(state["optimizer"])
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            torch.set_rng_state(state["rng"])
        if state.get("cuda_rng") and torch.cuda.device_count() == len(state["cuda_rng"]):
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        if state["step"] > self.job.steps:
            raise CheckpointError(
                f"{path} was written after {state['step']} steps, and this training has {self.job.steps}: it "
                "belongs to another training. Delete it to restart this training"
            )
        return int(state["step"])


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to a temporary file, sync it and rename it to ``path``.

    Raises:
        OSError: the disk refuses it; no partial file remains.
    """
    try:
        with files.whole(path, alone=True) as draft, draft.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's, at the end of a file that the disk has refused
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: Path, lazily: bool = False, needed: Sequence[str] = tuple(FIELDS)) -> dict[str, Any]:
    """Return the tensors and plain values of a checkpoint; nothing in the file is executed.

    Args:
        path: file that `save` wrote.
        lazily: leave the tensors on the disk until they are used.
        needed: required fields.

    Raises:
        CheckpointError: the file is damaged, or it is not a checkpoint.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({brief(error)}): it is damaged or truncated. Delete it to restart "
            "this training"
        ) from error
    missing = [name for name in needed if not (isinstance(state, dict) and isinstance(state.get(name), FIELDS[name]))]
    if missing:
        raise CheckpointError(
            f"{path} is not a checkpoint of clipzoo: {', '.join(missing)} missing. Delete it to restart this training"
        )
    fields: dict[str, Any] = state
    return fields


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Raise `CheckpointError` where torch fails to load a checkpoint's state into another model."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} belongs to another model or to other heads ({brief(error)}). Restore the recipe that it was "
            "trained with, choose another folder with --out, or delete it to restart this training"
        ) from error


def step(path: Path) -> int:
    """Return the number of steps of a checkpoint, 0 if there is none. Its tensors are not read."""
    return int(load(path, lazily=True, needed=["step"])["step"]) if path.exists() else 0
