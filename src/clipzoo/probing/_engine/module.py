"""The trained part of a probe: from the maps of a frozen tower to a task's raw output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipzoo import heads
from clipzoo.heads import resize
from clipzoo.probing.base import FOUR, Preset
from clipzoo.tasks.base import Convention, Task
from clipzoo.types import Size

EPSILON = 0.1
"""Added to the weights of bins."""
UPSCALE = 4
"""Factor by which a linear probe enlarges the outputs of bins."""


def layers_of(preset: Preset, depth: int) -> tuple[int, ...]:
    """Return the layers that a preset taps in a tower of ``depth`` layers."""
    if preset.layers == FOUR:
        return tuple(max(depth * (i + 1) // 4 - 1, 0) for i in range(4))
    assert isinstance(preset.layers, tuple)
    return preset.layers


class ProbeModule(nn.Module):
    """A head on maps [B,C_i,h_i,w_i], with batch norm before it and bins of depth after it where the preset says so.

    Args:
        preset: of the probe.
        task: of the probe.
        convention: of the labels.
        in_channels: channels of each map.
    """

    def __init__(self, preset: Preset, task: Task[object], convention: Convention, in_channels: Sequence[int]) -> None:
        super().__init__()
        out = preset.bins.count if preset.bins else task.raw_channels(convention, preset.loss)
        self.outputs, self.linear = out, preset.head == "linear"
        if self.linear:
            total = sum(in_channels)
            self.norm: nn.Module = nn.BatchNorm2d(total) if preset.batch_norm else nn.Identity()
            convolution = nn.Conv2d(total, out, 1)
            nn.init.normal_(convolution.weight, std=0.01)
            self.head: nn.Module = convolution
        else:
            self.head = heads.create(preset.head, in_channels, out, **preset.head_options)
        if preset.bins:
            bins = torch.linspace(preset.bins.low, preset.bins.high, preset.bins.count)
            self.register_buffer("bins", bins.view(1, -1, 1, 1), persistent=False)
        self.binned = preset.bins is not None
        self.bins: Tensor

    def forward(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        """Return raw [B,C,H,W] at ``size``; depth is computed from bins at the head's resolution, then resized."""
        if self.linear:
            finest = max((one.shape[-2:] for one in maps), key=lambda shape: shape[0] * shape[1])
            stacked = torch.cat([resize(one, (finest[0], finest[1])) for one in maps], 1)
            raw = self.head(self.norm(stacked))
            if self.binned:  # as DINOv2's depth heads, which enlarge maps four times before their convolution
                raw = resize(raw, (UPSCALE * finest[0], UPSCALE * finest[1]))
        else:
            raw = self.head(list(maps))
        return resize(self._depth(raw) if self.binned else raw, size)

    def _depth(self, raw: Tensor) -> Tensor:
        """Return log meters [B,1,H,W] of the outputs of the bins [B,N,H,W]."""
        weights = raw.float().relu() + EPSILON
        meters = (weights * self.bins).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return meters.log()
