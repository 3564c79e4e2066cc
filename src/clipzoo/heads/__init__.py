"""Heads: light modules from the student's feature maps to a task's raw prediction; one file per head.

A file exports ``Head``: ``Head(in_channels, out_channels, **options)``, called with a list of maps [B,C,h,w] (one
per tapped layer, shallow to deep, sizes may differ), returns raw [B,out,h',w'].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

from clipzoo.heads.layers import Maps, resize
from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "HeadPlugin", "Maps", "create", "resize"]


class HeadPlugin(Protocol):
    """A module of this folder."""

    Head: Callable[..., nn.Module]


PLUGINS: Registry[HeadPlugin] = Registry("heads", ("Head",), noun="head", option="head of a column")


def create(name: str, in_channels: Sequence[int], out_channels: int, **options: object) -> nn.Module:
    """Return the head of this name for maps of ``in_channels`` each."""
    return PLUGINS.load(name).Head(in_channels, out_channels, **options)
