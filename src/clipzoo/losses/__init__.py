"""Pure functions (prediction, target, valid) -> scalar; one file a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from clipzoo.losses.masked import batch_mean, known
from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "InstalledLoss", "LossPlugin", "batch_mean", "known"]


class LossPlugin(Protocol):
    """A module of this folder.

    ``EXTRA_CHANNELS``, where a module has it, is the number of channels that it needs beside the prediction's.
    """

    loss: Callable[..., Tensor]


class InstalledLoss(LossPlugin, Protocol):
    """A loss of another package, which tasks do not list."""

    learns: Callable[[str, Any], bool]
    """(task, convention) -> whether it learns such labels."""


PLUGINS: Registry[LossPlugin] = Registry("losses", ("loss",), ("learns",))
