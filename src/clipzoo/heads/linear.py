"""A linear head: each token is mapped linearly to a block of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.heads.layers import Gather


class Head(nn.Module):
    """Norm, 1×1 convolution to ``upscale``² pixels per token, pixel shuffle: raw [B,out,h·upscale,w·upscale]."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, upscale: int = 4) -> None:
        super().__init__()
        self.gather = Gather(in_channels)
        self.project = nn.Conv2d(self.gather.out_channels, out_channels * upscale**2, 1)
        self.upscale = upscale

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return raw [B,out,h·upscale,w·upscale] from ``maps`` [B,C,h,w], one per tapped layer."""
        return F.pixel_shuffle(self.gather(maps, self.project), self.upscale)
