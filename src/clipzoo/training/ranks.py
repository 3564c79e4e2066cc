"""The rank of this process among those of a training; only the main one writes files."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from torch import distributed

from clipzoo.errors import RecipeError

T = TypeVar("T")


def rank() -> int:
    """Return the rank of this process; 0 without torch.distributed."""
    return distributed.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes; 1 without torch.distributed."""
    return distributed.get_world_size() if _initialized() else 1


def is_main() -> bool:
    """Return True in the process that writes records, checkpoints and results."""
    return rank() == 0


def gathered(value: T) -> list[T]:
    """Return the values of all ranks; every rank must call this."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def check_single_process() -> None:
    """Raise `RecipeError` if a launcher such as torchrun started several processes."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count.isdecimal() and int(count) > 1:
        raise RecipeError(
            f"WORLD_SIZE is {count} in the environment: a launcher such as torchrun started {count} processes. Several "
            "processes are not supported yet, and each would repeat the whole run. Run the same command without "
            "torchrun, or unset WORLD_SIZE"
        )


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()
