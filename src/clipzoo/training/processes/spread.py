"""Encodings of a measurement, spread over the processes: the main one measures, all of them encode pictures and texts.

A process encodes whole batches, of the same samples as in one process, so that the numbers are the same to the last
digit.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from clipzoo.training.processes import ranks

T = TypeVar("T")
DIMENSIONS = 5
"""Most dimensions of an encoded batch."""

_leading: list[nn.Module] = []
"""The student that all processes hold, while `lead` runs in the main one."""


class Encoding(Protocol):
    """Batches of pictures or texts to encode. It is pickled, and sent to all processes."""

    def __len__(self) -> int:
        """Return the number of batches."""
        ...

    def encode(self, student: Any, first: int, step: int) -> Iterator[Tensor]:
        """Yield every ``step``-th encoded batch from number ``first``, float32 on the CPU."""
        ...


def lead(student: nn.Module, measure: Callable[[], T]) -> T:
    """Return ``measure()`` in the main process, while the others `follow` with the same student.

    An error ends all processes.
    """
    _leading.append(student)
    try:
        value = measure()
    finally:
        _leading.clear()
    ranks.announce(None)
    return value


def follow(student: nn.Module) -> None:
    """Encode the batches of this process until the measurement of the main one has ended."""
    while (encoding := ranks.receive()) is not None:
        for batch in encoding.encode(student, ranks.rank(), ranks.world_size()):
            _send(batch)


def encoded(student: object, encoding: Encoding) -> Iterator[Tensor]:
    """Yield all encoded batches in order, spread over the processes inside of `lead` with this student."""
    count = ranks.world_size()
    if not any(one is student for one in _leading) or count == 1 or len(encoding) == 1 or not _announced(encoding):
        yield from encoding.encode(student, 0, 1)
        return
    own = encoding.encode(student, 0, count)
    for number in range(len(encoding)):
        yield _receive(number % count) if number % count else next(own)


def _announced(encoding: Encoding) -> bool:
    """Send an encoding to the other processes; return False if it holds a reader that cannot be pickled."""
    try:
        pickle.dumps(encoding)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    ranks.announce(encoding)
    return True


def _send(batch: Tensor) -> None:
    """Send a batch with its order of channels, on which the last digits of means depend."""
    last = not batch.is_contiguous() and batch.is_contiguous(memory_format=torch.channels_last)
    data = batch.permute(0, 2, 3, 1) if last else batch
    shape = [*data.shape, *[0] * (DIMENSIONS - data.ndim)]
    ranks.send(torch.tensor([data.ndim, last, *shape]), 0)
    ranks.send(data.contiguous(), 0)


def _receive(rank: int) -> Tensor:
    ndim, last, *shape = ranks.received(torch.empty(2 + DIMENSIONS, dtype=torch.int64), rank).tolist()
    data = ranks.received(torch.empty(shape[:ndim]), rank)
    return data.permute(0, 3, 1, 2) if last else data
