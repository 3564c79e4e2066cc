"""Light modules from the student's feature maps to a task's raw prediction; one file a head.

A file exports ``Head``: ``Head(in_channels, out_channels, **options)``, called with a list of maps [B,C,h,w] (one a
tapped layer, shallow to deep, sizes may differ), gives raw [B,out,h',w'].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from clipzoo import plugins
from clipzoo.heads._layers import Maps, resize

__all__ = ["Maps", "create", "resize"]


def create(name: str, in_channels: Sequence[int], out_channels: int, **options: Any) -> nn.Module:
    """The head of this name for maps of ``in_channels`` each."""
    head: nn.Module = plugins.load("heads", name).Head(in_channels, out_channels, **options)
    return head
