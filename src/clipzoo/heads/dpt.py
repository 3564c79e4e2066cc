"""A light DPT head: a pyramid of tapped layers, fused from coarse to fine.

Ranftl, Bochkovskiy and Koltun, "Vision Transformers for Dense Prediction" (2021, arXiv 2103.13413), section 3, with
bilinear resampling instead of strided and transposed convolutions, so that a head accepts maps of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from clipzoo.heads.layers import resize


class Head(nn.Module):
    """Reassemble each tapped map at its level of the pyramid, fuse the levels, upscale, predict.

    Maps of different sizes (ResNet, ConvNeXt) already form a pyramid. Of n maps of one size (ViT), the second to last
    keeps its size, each shallower one gets twice the size of the next, and the last half: ×4, ×2, ×1, ×½ for four.

    Args:
        in_channels: channels of each tapped map, shallow to deep.
        out_channels: channels of the raw output.
        width: hidden channels.
        upscale: size of the output relative to the finest level.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, width: int = 128, upscale: int = 2) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Sequential(nn.GroupNorm(1, c), nn.Conv2d(c, width, 1)) for c in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_channels)
        self.lateral = nn.ModuleList(_Residual(width) for _ in in_channels[:-1])  # the deepest starts the sum
        self.fuse = nn.ModuleList(nn.Sequential(_Residual(width), nn.Conv2d(width, width, 1)) for _ in in_channels)
        self.predict = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1), nn.GELU(), nn.Conv2d(width // 2, out_channels, 1)
        )
        self.upscale = upscale

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return raw [B,out,H·upscale,W·upscale] with H, W of the finest level; ``maps`` [B,C,h,w] per tapped layer."""
        levels = [
            smooth(resize(project(m), size))
            for project, smooth, m, size in zip(self.project, self.smooth, maps, _pyramid(maps), strict=True)
        ]
        fused: Tensor = self.fuse[-1](levels[-1])
        for level, lateral, fuse in reversed(list(zip(levels[:-1], self.lateral, self.fuse[:-1], strict=True))):
            fused = fuse(resize(fused, _size(level)) + lateral(level))
        height, width = _size(fused)
        out: Tensor = self.predict(resize(fused, (height * self.upscale, width * self.upscale)))
        return out


class _Residual(nn.Module):
    """Two 3×3 convolutions, each after its activation, around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolution = [layer for _ in range(2) for layer in (nn.GELU(), nn.Conv2d(width, width, 3, padding=1))]
        self.body = nn.Sequential(*convolution)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _pyramid(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Return the size (H, W) of each level."""
    sizes = [_size(m) for m in maps]
    if len(set(sizes)) > 1:
        return sizes
    first = max(len(maps) - 2, 0)
    factors = [2.0 ** (first - i) for i in range(len(maps))]
    return [(max(int(h * f), 1), max(int(w * f), 1)) for (h, w), f in zip(sizes, factors, strict=True)]


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
