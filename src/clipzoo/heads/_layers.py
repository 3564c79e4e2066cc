"""Parts that heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gather(nn.Module):
    """Normalises each tapped map over its channels and stacks them at the size of the finest: [B,ΣC,h,w]."""

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for channels in in_channels)
        self.out_channels = sum(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
        normed = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        return torch.cat([m if m.shape[-2:] == size else F.interpolate(m, size, mode="bilinear") for m in normed], 1)
