"""Exponential moving average of the student's weights (``training.ema``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from clipzoo.models import Student
from clipzoo.training.processes.sharding import like, local


class Average:
    """Averages of the trained parameters and of floating-point buffers, such as the statistics of batch norms.

    Under FSDP2 each process averages its shards.

    Args:
        student: its present weights are the first averages.
        decay: share of an average that an update keeps.
    """

    def __init__(self, student: Student, decay: float) -> None:
        self.decay = decay
        locked = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
        state = student.state_dict().items()  # shares its memory with the student
        self._live = {name: value for name, value in state if value.is_floating_point() and name not in locked}
        self._averages = {name: value.clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the student's weights."""
        torch._foreach_lerp_(_shards(self._averages), _shards(self._live), 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Write the averages into the student."""
        torch._foreach_copy_(_shards(self._live), _shards(self._averages))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the student the averages as its weights in a ``with`` block."""
        with torch.no_grad():
            weights = {name: value.clone() for name, value in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(_shards(self._live), _shards(weights))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name in the student; under FSDP2 they are sharded."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages, on any number of processes; `KeyError` if one is missing."""
        for name, value in self._averages.items():
            local(value).copy_(local(like(value, state[name])))


def _shards(values: Mapping[str, Tensor]) -> list[Tensor]:
    return [local(value) for value in values.values()]
