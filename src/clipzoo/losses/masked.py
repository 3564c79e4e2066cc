"""Arithmetic under a mask: unknown values are replaced before any computation, so that a NaN does not spread.

Multiplication by the mask would not suffice: 0 · NaN is NaN, in the value and in the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import NamedTuple, ParamSpec, Protocol

import torch
from torch import Tensor


class Whole(Protocol):
    """The whole batch of a step, of which a process sees a part."""

    @property
    def parts(self) -> int:
        """Number of processes, over which gradients are averaged."""

    def total(self, value: Tensor, largest: bool) -> Tensor:
        """Return the sum (or the largest) of a scalar over all parts of the batch."""


P = ParamSpec("P")

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


def image_median(x: Tensor, valid: Tensor) -> Tensor:
    """Return the (lower) median of each image's known pixels, [B,1,1]; 0 if there are none."""
    ordered = torch.where(valid, x, torch.inf).flatten(1).sort(1).values
    count = valid.flatten(1).sum(1, keepdim=True)
    middle = ordered.gather(1, (count - 1).clamp(min=0) // 2)
    return torch.where(count > 0, middle, 0)[:, :, None]


def centered(x: Tensor, valid: Tensor) -> Tensor:
    """Return ``x`` minus the mean of its image's known pixels, [B,H,W]; 0 where unknown."""
    return torch.where(valid, x - image_mean(x, valid), 0)


def batch_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of ``losses`` where ``counted``; 0 with the graph attached if nothing is counted."""
    return divided(torch.where(counted, losses, 0).sum(), counted.sum())


class Pixels(NamedTuple):
    """A loss before its mean: Σ ``values`` / Σ ``counts``, over the whole batch.

    Attributes:
        values: [B,H,W], or [B,K,H,W] for several values per pixel; 0 with zero gradient where unknown.
        counts: bool or weights [B,H,W]; 0 where unknown.
        least: smallest divisor.
        rare: bool [B,H,W], pixels of which trimming removes the same share as of all others; None for one group.
    """

    values: Tensor
    counts: Tensor
    least: float = 1
    rare: Tensor | None = None


def averaged(pixels: Callable[P, Pixels]) -> Callable[P, Tensor]:
    """Return the loss of a function that returns pixels: their mean, a scalar; 0 with the graph attached for none."""

    @wraps(pixels)
    def loss(*args: P.args, **options: P.kwargs) -> Tensor:
        return mean(pixels(*args, **options))

    return loss


def mean(pixels: Pixels, weight: Tensor | None = None, trim: float = 0) -> Tensor:
    """Return the mean of a loss over its pixels.

    Args:
        pixels: values and counts.
        weight: [B,H,W] or [B,1,1], multiplies the values and counts of each pixel.
        trim: share of each image's known pixels, those with the largest values, whose values are left out. The counts
            are those of all known pixels, so that they depend on labels alone.
    """
    values, counts = pixels.values, pixels.counts
    if trim:
        kept = ~worst(values.detach(), counts > 0, trim, pixels.rare)
        values = torch.where(kept, values, 0)
    if weight is not None:
        values = values * (weight if values.ndim == weight.ndim else weight[:, None])
        counts = counts * weight
    return divided(values.sum(), counts.sum(), pixels.least)


def worst(errors: Tensor, known: Tensor, trim: float, rare: Tensor | None = None) -> Tensor:
    """Return the pixels that trimming leaves out, bool [B,H,W]: a share of each image's known pixels, rounded down.

    Args:
        errors: [B,H,W]; of equal ones the first are left out.
        known: bool [B,H,W].
        trim: share with the largest errors, in [0, 1).
        rare: bool [B,H,W], a group of which the same share is left out as of all others.
    """
    if rare is not None:
        return worst(errors, known & rare, trim) | worst(errors, known & ~rare, trim)
    order = torch.where(known, errors, -torch.inf).flatten(1).sort(dim=1, descending=True, stable=True).indices
    count = (trim * known.flatten(1).sum(1, keepdim=True)).floor()
    return (order.argsort(1) < count).view_as(known)
