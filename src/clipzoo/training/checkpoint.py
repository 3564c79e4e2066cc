"""Checkpoints: the complete state of a training, written so that a kill at any moment leaves a whole file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clipzoo import files
from clipzoo.errors import CheckpointError, brief
from clipzoo.training import exchange, ranks
from clipzoo.training.job import Job
from clipzoo.training.sharding import Sharding

NAME = "checkpoint.pt"
FIELDS: dict[str, type] = {"step": int, "student": dict, "optimizer": dict, "rng": torch.Tensor}
"""Required fields; ``cuda_rng`` and, of several processes, ``ranks_rng`` are optional."""


class Checkpoints:
    """The checkpoint of one training, and the time since it was written."""

    def __init__(self, job: Job, sharding: Sharding, adam: torch.optim.Optimizer) -> None:
        self.job, self.sharding, self.adam = job, sharding, adam
        self.path = job.out / NAME
        self._written = time.monotonic()

    def due(self, step: int) -> bool:
        """Return True if ``checkpoint_every`` steps or ``checkpoint_minutes`` have passed."""
        settings = self.job.settings
        waited = time.monotonic() - self._written
        return step % settings.checkpoint_every == 0 or waited > 60 * settings.checkpoint_minutes

    def write(self, step: int) -> None:
        """Write the state after ``step`` updates; only the main process does, and all processes call it."""
        states = self.sharding.state(self.adam)
        random = exchange.random_states(self.sharding.device)
        self._written = time.monotonic()
        if ranks.is_main():
            save(self.path, {"step": step, **states, **random})

    def resume(self) -> int:
        """Load the state that an earlier process wrote, else seed the random state; return the number of steps done.

        Raises:
            CheckpointError: the file is damaged, or it belongs to another training.
        """
        if not self.path.exists():
            exchange.seed(self.job.seed)
            return 0
        state = load(self.path, lazily=ranks.world_size() > 1)
        with _fitting(self.path):
            self.sharding.load(self.adam, state)
            exchange.restore_random(state, self.job.seed, self.sharding.device)
        if state["step"] > self.job.steps:
            raise CheckpointError(
                f"{self.path} was written after {state['step']} steps, and this training has {self.job.steps}: it "
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
