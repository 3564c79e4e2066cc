"""Arithmetic under a mask: unknown values are replaced before any computation, so that a NaN does not spread.

Multiplication by the mask would not suffice: 0 · NaN is NaN, in the value and in the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor


class Whole(Protocol):
    """The whole batch of a step, of which a process sees a part."""

    @property
    def parts(self) -> int:
        """Number of processes, over which gradients are averaged."""

    def total(self, value: Tensor, largest: bool) -> Tensor:
        """Return the sum (or the largest) of a scalar over all parts of the batch."""


_WHOLE: ContextVar[Whole | None] = ContextVar("whole", default=None)


@contextmanager
def part_of(whole: Whole) -> Iterator[None]:
    """Normalize the losses in the block by counts of the whole batch instead of those of their own part."""
    token = _WHOLE.set(whole)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def total(value: Tensor, largest: bool = False) -> Tensor:
    """Return the sum (or the largest) of a scalar over all parts of the batch, without gradient.

    Every process calls it equally often for a loss. Without `part_of`, it returns ``value``.
    """
    whole = _WHOLE.get()
    return value if whole is None else whole.total(value.detach(), largest)


def divided(losses: Tensor, count: Tensor, least: float = 1) -> Tensor:
    """Return a sum of losses divided by a count of the whole batch, which is at least ``least``.

    The mean over processes is then the sum over the whole batch divided by its count, no matter how losses are
    distributed over them.
    """
    whole, counted = _WHOLE.get(), total(count).clamp(min=least)
    return losses / counted if whole is None else losses * whole.parts / counted


def known(x: Tensor, valid: Tensor) -> Tensor:
    """Return ``x`` with zeros and zero gradient where not valid, in float32 or higher precision.

    Args:
        x: [B,H,W], or [B,1,H,W], whose channel is dropped.
        valid: bool [B,H,W].
    """
    x = x.squeeze(1) if x.ndim == valid.ndim + 1 else x
    assert x.shape == valid.shape, f"a map of shape {tuple(x.shape)} under a mask of {tuple(valid.shape)}"
    return torch.where(valid, x.to(torch.promote_types(x.dtype, torch.float32)), 0)


def image_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of each image's known pixels, [B,1,1]; 0 if there are none."""
    total = torch.where(valid, x, 0).sum((1, 2), keepdim=True)
    return total / valid.sum((1, 2), keepdim=True).clamp(min=1)


def centered(x: Tensor, valid: Tensor) -> Tensor:
    """Return ``x`` minus the mean of its image's known pixels, [B,H,W]; 0 where unknown."""
    return torch.where(valid, x - image_mean(x, valid), 0)


def batch_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of ``losses`` where ``counted``; 0 with the graph attached if nothing is counted."""
    return divided(torch.where(counted, losses, 0).sum(), counted.sum())
