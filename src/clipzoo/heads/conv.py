"""A small convolutional head, which combines neighboring tokens before mapping them to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.heads.layers import Gather


class Head(nn.Module):
    """Norm, 1×1 to ``width``, 3×3, GELU, 1×1 to ``upscale``² pixels per token, pixel shuffle."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, width: int = 128, upscale: int = 4) -> None:
        super().__init__()
        self.gather = Gather(in_channels)
        self.mix = nn.Sequential(
            nn.Conv2d(self.gather.out_channels, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.project = nn.Conv2d(width, out_channels * upscale**2, 1)
        self.upscale = upscale

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return raw [B,out,h·upscale,w·upscale] from ``maps`` [B,C,h,w], one per tapped layer."""
        narrow = self.mix[0]
        assert isinstance(narrow, nn.Conv2d)
        return F.pixel_shuffle(self.project(self.mix[1:](self.gather(maps, narrow))), self.upscale)
