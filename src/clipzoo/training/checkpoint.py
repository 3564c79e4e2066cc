"""Checkpoints: everything that the next step depends on, written so that a kill at any moment leaves a whole one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clipzoo import files
from clipzoo.errors import CheckpointError, brief

FIELDS: dict[str, type] = {"step": int, "student": dict, "optimizer": dict, "rng": torch.Tensor}
"""What every checkpoint has; ``cuda_rng`` is of some."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values beside ``path``, sync, rename: the file is whole or not there.

    Raises:
        OSError: the disk refuses it; nothing is left of the attempt.
    """
    try:
        with files.whole(path, alone=True) as beside, beside.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's, at the end of a file that the disk has refused
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: Path, lazily: bool = False, needed: Sequence[str] = tuple(FIELDS)) -> dict[str, Any]:
    """Read plain tensors and values; nothing in the file is executed.

    Args:
        path: what `save` wrote.
        lazily: leave the tensors on the disk until they are used.
        needed: fields that must be there.

    Raises:
        CheckpointError: damaged, or no checkpoint.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise CheckpointError(
            f"{path} is no checkpoint ({brief(error)}): it is damaged or cut off; delete it to begin this run anew"
        ) from error
    lacking = [name for name in needed if not (isinstance(state, dict) and isinstance(state.get(name), FIELDS[name]))]
    if lacking:
        raise CheckpointError(
            f"{path} is no checkpoint of clipzoo: it lacks {', '.join(lacking)}; delete it to begin this run anew"
        )
    found: dict[str, Any] = state
    return found


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turns what torch raises, where a checkpoint's state is loaded into another model, into a `CheckpointError`."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is a checkpoint of another model or of other heads ({brief(error)}): restore the recipe that it "
            "was trained by, give another --out, or delete it to begin this run anew"
        ) from error


def step(path: Path) -> int:
    """How many steps a checkpoint has behind it; 0 where there is none. Its tensors are not read."""
    return int(load(path, lazily=True, needed=["step"])["step"]) if path.exists() else 0
