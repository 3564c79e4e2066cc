"""Checkpoints: everything that the next step depends on, written so that a kill at any moment leaves a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipzoo import files
from clipzoo.errors import CheckpointError


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


def load(path: Path, lazily: bool = False) -> dict[str, Any]:
    """Read plain tensors and values; nothing in the file is executed.

    Args:
        path: what `save` wrote.
        lazily: leave the tensors on the disk until they are used.

    Raises:
        CheckpointError: damaged, or no checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise CheckpointError(f"{path} is no checkpoint ({error}); delete it to begin this run anew") from error
    return state


def step(path: Path) -> int:
    """How many steps a checkpoint has behind it; 0 where there is none. Its tensors are not read."""
    return int(load(path, lazily=True)["step"]) if path.exists() else 0
