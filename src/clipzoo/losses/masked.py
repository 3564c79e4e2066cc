"""Arithmetic under a mask: unknown values are replaced before any computation, so that a NaN does not spread.

Multiplication by the mask would not suffice: 0 · NaN is NaN, in the value and in the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)
