"""Pyramid pooling of PSPNet: the map next to its means over grids of 1, 2, 3 and 6 cells.

Zhao et al., "Pyramid Scene Parsing Network" (2017, arXiv 1612.01105), section 3.2, without dropout and auxiliary loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.heads.layers import Gather, resize

GRIDS = (1, 2, 3, 6)
"""Cells per side of each level of the pyramid."""


class Head(nn.Module):
    """Norm, 1×1 to ``width``, pyramid pooling, 3×3, 1×1, bilinear: raw [B,out,h·upscale,w·upscale].

    Args:
        in_channels: channels of each tapped map.
        out_channels: channels of the raw output.
        width: hidden channels; each level of the pyramid has a quarter of them.
        upscale: size of the output relative to the finest map.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, width: int = 512, upscale: int = 2) -> None:
        super().__init__()
        self.gather, self.upscale = Gather(in_channels), upscale
        self.narrow = nn.Conv2d(self.gather.out_channels, width, 1)
        part = max(width // len(GRIDS), 1)
        self.levels = nn.ModuleList(nn.Conv2d(width, part, 1) for _ in GRIDS)
        self.predict = nn.Sequential(
            nn.Conv2d(width + part * len(GRIDS), width, 3, padding=1, bias=False),
            nn.GroupNorm(1, width),
            nn.ReLU(),
            nn.Conv2d(width, out_channels, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return raw [B,out,h·upscale,w·upscale] from ``maps`` [B,C,h,w], one per tapped layer."""
        x = self.gather(maps, self.narrow)
        size = (x.shape[-2], x.shape[-1])
        pooled = [
            resize(F.relu(level(_means(x, cells))), size) for level, cells in zip(self.levels, GRIDS, strict=True)
        ]
        out: Tensor = self.predict(torch.cat([x, *pooled], 1))
        return resize(out, (size[0] * self.upscale, size[1] * self.upscale))


def _means(x: Tensor, cells: int) -> Tensor:
    """Return means [B,C,cells,cells] of cells that cover the map, as `F.adaptive_avg_pool2d` does.

    Two matrix products, which every export can write and whose backward pass is deterministic on a GPU.
    """
    rows, columns = (_shares(side, cells, x) for side in x.shape[-2:])
    return rows @ (x @ columns.T)


def _shares(side: int, cells: int, like: Tensor) -> Tensor:
    """Return the weights [cells,side] of positions along an axis."""
    cell = torch.arange(cells, device=like.device)[:, None]  # a copy from the CPU would let a GPU wait
    start, stop = cell * side // cells, ((cell + 1) * side + cells - 1) // cells
    place = torch.arange(side, device=like.device)
    return (((start <= place) & (place < stop)) / (stop - start)).to(like.dtype)
