"""The head of DeepLabV3 as torchvision has it: atrous convolutions of several rates on one map.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation" (2017, arXiv 1706.05587).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipzoo.heads.layers import resize


class Head(nn.Module):
    """torchvision's ``DeepLabHead`` on the tapped maps, stacked at the size of the finest, then bilinear.

    Group norm replaces its batch norm, and dropout is left out, so that no output depends on other images or on chance.

    Args:
        in_channels: channels of each tapped map.
        out_channels: channels of the raw output.
        rates: of the atrous convolutions.
        upscale: size of the output relative to the finest map.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, rates: Sequence[int] = (12, 24, 36), upscale: int = 2
    ) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        self.upscale = upscale
        self.head: nn.Module = _independent(DeepLabHead(sum(in_channels), out_channels, tuple(rates)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return raw [B,out,h·upscale,w·upscale] from ``maps`` [B,C,h,w], one per tapped layer."""
        size = max(one.shape[-2] for one in maps), max(one.shape[-1] for one in maps)
        out: Tensor = self.head(torch.cat([resize(one, size) for one in maps], 1))
        return resize(out, (size[0] * self.upscale, size[1] * self.upscale))


def _independent(module: nn.Module) -> nn.Module:
    """Replace batch norm and dropout in a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        elif isinstance(child, nn.Dropout):
            setattr(module, name, nn.Identity())
        else:
            _independent(child)
    return module
