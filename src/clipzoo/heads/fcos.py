"""The head of FCOS (Tian, Shen, Chen and He 2019, arXiv 1904.01355, §3.1) at one stride, with one tower for classes
and one for boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.heads.layers import Gather

WHERE = 5
"""Channels of the second tower: four distances and centerness. The first predicts the classes."""

RARE = 0.01
"""Initial probability of each class (Lin et al. 2017, arXiv 1708.02002, §4.1)."""


class Head(nn.Module):
    """Norm, 1×1 to ``width``, two towers of ``depth`` 3×3 with group norm, 3×3 to ``upscale``² pixels per token.

    With ``upscale`` 2, tokens of 16 pixels have stride 8, the finest of FCOS.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, width: int = 128, depth: int = 2, upscale: int = 2
    ) -> None:
        super().__init__()
        self.gather = Gather(in_channels)
        self.narrow = nn.Conv2d(self.gather.out_channels, width, 1)
        classes = out_channels - WHERE
        if classes < 1:
            raise ValueError(
                f"the head fcos needs classes and {WHERE} box channels, not {out_channels} channels in all"
            )
        self.what, self.where = (_tower(width, depth, n * upscale**2) for n in (classes, WHERE))
        bias = self.what[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias, -math.log((1 - RARE) / RARE))
        self.upscale = upscale

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return raw [B,out,h·upscale,w·upscale] from ``maps`` [B,C,h,w], one per tapped layer."""
        gathered = self.gather(maps, self.narrow)
        return torch.cat([F.pixel_shuffle(tower(gathered), self.upscale) for tower in (self.what, self.where)], 1)


def _tower(width: int, depth: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        groups = math.gcd(32, width)
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(groups, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, out, 3, padding=1))
