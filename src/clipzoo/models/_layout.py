"""Memory format of vision towers: channels last, except where torch corrupts memory with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEW = 64
"""Input channels from which on a convolution is not affected."""


def channels_last(tower: nn.Module) -> None:
    """Convert a tower in place.

    The backward pass of torch 2.14.1 on a CPU writes out of bounds in a convolution of 1×1 pixels with a stride and few
    input channels, if its input or weights are in channels-last order, which can end the process.
    The stem of MobileCLIP's FastViT has one; such convolutions stay in the other order.
    """
    tower.to(memory_format=torch.channels_last)
    for conv in tower.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) != conv.stride and conv.in_channels < FEW:
            conv.weight.data = conv.weight.data.clone(memory_format=torch.contiguous_format)
            conv.register_forward_pre_hook(_contiguous)


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in inputs)
