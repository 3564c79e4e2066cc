"""Losses: pure functions (prediction, target, valid) -> scalar; one file per loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from clipzoo.losses.masked import Pixels, averaged, batch_mean, divided, known, mean, part_of, total
from clipzoo.plugins import Registry

__all__ = [
    "PLUGINS", "InstalledLoss", "LossPlugin", "Pixels", "averaged", "batch_mean", "divided", "evaluate", "known",
    "mean", "part_of", "total",
]  # fmt: skip


class LossPlugin(Protocol):
    """A module of this folder.

    The optional ``EXTRA_CHANNELS`` is the number of channels that the loss needs in addition to the prediction's. The
    optional ``pixels`` has the arguments of ``loss`` and returns `Pixels`, whose mean is the loss: such a loss can be
    weighted by confidence and trimmed. A loss may have an option ``trim`` instead.
    """

    loss: Callable[..., Tensor]


class InstalledLoss(LossPlugin, Protocol):
    """A loss of another package."""

    learns: Callable[[str, Any], bool]
    """(task, convention) -> True if the loss is for such labels."""


PLUGINS: Registry[LossPlugin] = Registry("losses", ("loss",), ("learns",), noun="loss", option="loss of a column")


def evaluate(
    file: LossPlugin,
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    weight: Tensor | None = None,
    trim: float = 0,
    **options: object,
) -> Tensor:
    """Return the loss of a module of this folder, weighted and trimmed.

    Args:
        file: the module.
        prediction: argument of its loss.
        target: argument of its loss.
        valid: bool [B,H,W].
        weight: weight of each pixel, [B,H,W] or [B,1,1]; None for equal weights.
        trim: share of each image's known pixels that is left out; see `mean`.
        options: options of the loss.
    """
    pixels: Callable[..., Pixels] | None = getattr(file, "pixels", None)
    if pixels is None:
        return file.loss(prediction, target, valid, **options, **({"trim": trim} if trim else {}))
    if weight is None and not trim:
        return file.loss(prediction, target, valid, **options)
    return mean(pixels(prediction, target, valid, **options), weight, trim)
