"""Parts that heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B,C,h,w] at ``size`` (H, W): bilinear, averaged where it shrinks (``antialias``).

    Two matrix products give what ``F.interpolate`` gives. On a GPU its kernels walk over all channels in one thread,
    which for a ResNet's maps takes several times as long as the whole tower, and add atomically on the way back, to
    other bits at every run.
    """
    if x.shape[-2:] == size:
        return x
    rows, columns = (_weights(a, b, x) for a, b in zip(x.shape[-2:], size, strict=True))
    return rows @ (x @ columns.T)


def _weights(before: int, after: int, like: Tensor) -> Tensor:
    """[after, before]: what each old place along an axis gives to each new one."""
    places = torch.eye(before, device=like.device)[None, None]
    return F.interpolate(places, (after, before), mode="bilinear", antialias=True)[0, 0].to(like.dtype)


class Gather(nn.Module):
    """Normalises each tapped map over its channels and stacks them at the size of the finest: [B,ΣC,h,w]."""

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for channels in in_channels)
        self.out_channels = sum(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B,C_i,h_i,w_i] as one [B,ΣC,h,w]."""
        size = max(m.shape[-2] for m in maps), max(m.shape[-1] for m in maps)
        return torch.cat([resize(norm(m), size) for norm, m in zip(self.norms, maps, strict=True)], 1)
