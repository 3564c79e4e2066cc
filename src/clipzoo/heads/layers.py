"""Parts that heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps [B,C,h,w] to ``size`` (H, W), bilinear with antialiasing.

    Two matrix products give the result of ``F.interpolate``. Its GPU kernels process all channels in one thread, which
    for a ResNet's maps takes several times as long as the whole tower, and their backward pass adds atomically, with
    different bits in every run.
    """
    if x.shape[-2:] == size:
        return x
    rows, columns = (_weights(a, b, x) for a, b in zip(x.shape[-2:], size, strict=True))
    return rows @ (x @ columns.T)


def _weights(before: int, after: int, like: Tensor) -> Tensor:
    """Return the weights [after, before] of old positions for new positions along an axis."""
    places = torch.eye(before, device=like.device)[None, None]
    return F.interpolate(places, (after, before), mode="bilinear", antialias=True)[0, 0].to(like.dtype)


class Maps(list[Tensor]):
    """A student's tapped maps [B,C_i,h_i,w_i], shallow to deep; the first step of all heads is computed once."""

    _stacked: Tensor | None = None  # not a cached_property, at which torch.compile breaks its graph

    @property
    def stacked(self) -> Tensor:
        """Normalized maps (mean 0, deviation 1), resized to the finest and stacked, [B,ΣC,h,w]."""
        if self._stacked is None:
            size = max(m.shape[-2] for m in self), max(m.shape[-1] for m in self)
            self._stacked = torch.cat([resize(F.group_norm(m, 1), size) for m in self], 1)
        return self._stacked


class Gather(nn.Module):
    """Normalizes each tapped map over its channels, stacks them at the size of the finest and projects them.

    The weights of the norms are merged into those of the projection, which resizing permits: the remaining work on maps
    does not depend on the head.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for channels in in_channels)
        self.out_channels = sum(in_channels)

    def forward(self, maps: Sequence[Tensor], project: nn.Conv2d) -> Tensor:
        """Project maps [B,C_i,h_i,w_i] to [B,out,h,w] by ``project``, a 1×1 convolution of ΣC channels."""
        weight, bias = (torch.cat([getattr(norm, name) for norm in self.norms]) for name in ("weight", "bias"))
        shift = F.conv2d(bias[None, :, None, None], project.weight, project.bias).flatten()
        stacked = (maps if isinstance(maps, Maps) else Maps(maps)).stacked
        return F.conv2d(stacked, project.weight * weight[:, None, None], shift)
