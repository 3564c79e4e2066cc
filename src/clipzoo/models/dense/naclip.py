"""NACLIP (arXiv 2404.08181): key–key attention with a Gaussian of the distance added, without residual and MLP."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipzoo.models.dense.base import Variant, attention
from clipzoo.types import Size

DEVIATION = 5.0
"""Standard deviation of the Gaussian in patches, that of the paper."""


def attend(q: Tensor, k: Tensor, grid: Size) -> Tensor:
    """Return the softmax of key–key products plus the Gaussian; tokens before the grid have no neighborhood."""
    extra = k.shape[-2] - grid[0] * grid[1]
    return (attention(k, k) + F.pad(_gaussian(grid).to(k), (extra, 0, extra, 0))).softmax(-1)


def _gaussian(grid: Size) -> Tensor:
    """Return exp(−d² / 2σ²) of the distances of all pairs of patches, [h·w,h·w]."""
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float32) for side in grid))
    squared = (places[:, None] - places[None]).square().sum(-1)
    return torch.exp(-squared / (2 * DEVIATION**2))


VARIANT = Variant("naclip", attend, residual=False)
