"""Losses: pure functions (prediction, target, valid) -> scalar; one file per loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from clipzoo.losses.masked import batch_mean, divided, known, part_of, total
from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "InstalledLoss", "LossPlugin", "batch_mean", "divided", "known", "part_of", "total"]


class LossPlugin(Protocol):
    """A module of this folder.

    The optional ``EXTRA_CHANNELS`` is the number of channels that the loss needs in addition to the prediction's.
    """

    loss: Callable[..., Tensor]


class InstalledLoss(LossPlugin, Protocol):
    """A loss of another package."""

    learns: Callable[[str, Any], bool]
    """(task, convention) -> True if the loss is for such labels."""


PLUGINS: Registry[LossPlugin] = Registry("losses", ("loss",), ("learns",))
