"""Heads: their description in a recipe or file, and building them with a trial run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clipzoo import heads, plugins
from clipzoo.errors import ClipzooError, RecipeError
from clipzoo.tasks import Convention, Task
from clipzoo.tasks import get as get_task
from clipzoo.tasks.base import Target


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Description of a head.

    Attributes:
        task: task of its labels.
        convention: convention of its labels.
        name: file of ``clipzoo/heads/`` or installed head; "" selects the task's default.
        options: keyword arguments of the head.
        loss: loss of its training; None selects the task's default. Some losses need additional channels.
        loss_options: keyword arguments of the loss.
        confidence_weight: exponent of the confidence that weights pixels; None gives them equal weight.
        trim: share of each image's pixels that the loss leaves out; 0 is the loss's own default.
    """

    task: str
    convention: Convention
    name: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    loss: str | None = None
    loss_options: Mapping[str, object] = field(default_factory=dict)
    confidence_weight: float | None = None
    trim: float = 0

    def evaluate(self, raw: Tensor, target: Target) -> Tensor:
        """Return the loss of a head's raw output [B,C,H,W] of the size of ``target``, a scalar."""
        options = {**self.loss_options, **({"trim": self.trim} if self.trim else {})}
        return get_task(self.task).loss(raw, target, self.convention, self.loss, **options)

    @torch.no_grad()
    def build(self, maps: Sequence[Tensor]) -> nn.Module:
        """Return the head after a trial run on ``maps``, feature maps [1,C,h,w] of one image, one per tapped layer.

        Raises:
            PluginError: there is no such head, or the task does not offer the loss.
            RecipeError: the head or the loss refuses its options, or returns another shape than required.
        """
        task, name = get_task(self.task), self.name or get_task(self.task).head
        channels = task.raw_channels(self.convention, self.loss)
        if self.loss or self.loss_options:
            self._check_loss(task, channels)
        self._check_noise(task)
        _check_options(f"the head {name}", heads.PLUGINS.load(name).Head, self.options)
        try:
            head = heads.create(name, [m.shape[1] for m in maps], channels, **self.options)
            raw = head.eval()(maps)
        except Exception as error:  # custom heads may raise anything
            raise RecipeError(
                f"the head {name} cannot be made and run{_with(self.options)}: {error}. Correct the head, or its "
                "options"
            ) from error
        if not torch.is_tensor(raw) or raw.ndim != 4 or raw.shape[:2] != (1, channels):
            shape = list(raw.shape) if torch.is_tensor(raw) else type(raw).__name__
            raise RecipeError(
                f"the head {name} returns {shape} for one image. Its forward must return [1, {channels}, h, w]"
            )
        return head.train()

    def _check_noise(self, task: Task[object]) -> None:
        """Raise `RecipeError` if the loss cannot be weighted by confidence or trimmed as described."""
        name = self.loss or next(iter(task.losses(self.convention)), "built in")
        if self.confidence_weight is not None:
            if task.confidences([None], (8, 8)) is None:
                raise RecipeError(
                    f"confidence_weight is {self.confidence_weight:g}, but labels of {self.task} have no confidence. "
                    "Remove confidence_weight"
                )
            if not task.weighs(self.convention, self.loss):
                raise RecipeError(
                    f"confidence_weight is {self.confidence_weight:g}, but the loss {name} has no values per pixel. "
                    "Remove confidence_weight, or define pixels in the file of the loss (docs/extending.md)"
                )
        if self.trim and "trim" in self.loss_options:
            raise RecipeError(
                f"trim is {self.trim:g}, and loss_options.trim {self.loss_options['trim']}. Remove one of them"
            )
        if self.trim and not task.trims(self.convention, self.loss):
            others = " or ".join(o for o in task.offered(self.convention) if task.trims(self.convention, o))
            fix = f"choose the loss {others}, or remove trim" if others else "remove trim"
            raise RecipeError(
                f"trim is {self.trim:g}, but the loss {name} of {self.task} has no values per pixel that could be left "
                f"out: {fix}"
            )

    def _check_loss(self, task: Task[object], channels: int) -> None:
        """Compute the loss of one image without a label, so that its mistakes and those of its options appear now."""
        offered = task.losses(self.convention)
        if not offered and not self.loss:
            raise RecipeError(
                f"the loss of {self.task} has no options, but loss_options are given{_with(self.loss_options)}. Remove "
                "loss_options"
            )
        name = self.loss or offered[0]
        _check_options(f"the loss {name}", task.criterion(self.convention, self.loss), self.loss_options)
        target = task.collate([None], (8, 8))
        with torch.inference_mode(False), torch.enable_grad():
            raw = torch.zeros(1, channels, 8, 8, requires_grad=True)
            try:
                value = task.loss(raw, target, self.convention, self.loss, **self.loss_options)
            except Exception as error:  # custom losses may raise anything
                raise RecipeError(
                    f"the loss {name} fails{_with(self.loss_options)}: {error}. Correct loss_options, or the loss"
                ) from error
        if not (torch.is_tensor(value) and value.ndim == 0 and value.requires_grad and value.item() == 0):
            raise RecipeError(
                f"the loss {name} of images without labels is {value}. It must be a scalar 0 with its graph, such as "
                "(losses * valid).sum() / valid.sum().clamp(min=1)"
            )


def build_head(column: str, spec: HeadSpec, maps: Sequence[Tensor]) -> nn.Module:
    """Return the head of a column; errors name the column.

    Raises:
        RecipeError: the head or its loss cannot be made.
    """
    try:
        return spec.build(maps)
    except ClipzooError as error:
        raise RecipeError(f"the column {column}: {error}") from error


def _check_options(owner: str, function: Callable[..., object], options: Mapping[str, object]) -> None:
    """Raise `RecipeError` for options that a head or a loss, the ``owner``, does not have."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.default is not parameter.empty]
    unknown = [name for name in options if name not in names]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        raise RecipeError(f"{owner} has no option {unknown[0]!r}; {plugins.hint(unknown[0], names)}")


def _with(options: Mapping[str, object]) -> str:
    shown = ", ".join(f"{name}: {value!r}" for name, value in options.items())
    return f" with {shown}" if shown else ""
