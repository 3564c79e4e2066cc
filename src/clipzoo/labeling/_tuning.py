"""Options for running experts: precision, memory layout and threads."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, ParamSpec, TypeVar, get_args

import torch
from torch.utils import _pytree as pytree

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """Options for running experts.

    All except ``threads`` apply to experts that are torch modules (`Expert.module`), and are recorded in the manifest:
    labels made with other options are refused in the same column.

    Attributes:
        precision: "bf16" and "fp16" run the module under `torch.autocast`; outputs are converted to float32.
        channels_last: use the channels-last memory format, which is faster for convolutions on many devices.
        compile: use `torch.compile`; each new image size costs seconds to minutes once.
        threads: CPU threads within an operator; None for torch's default.
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ExpertError(f"precision={self.precision!r} is unknown. Use one of {', '.join(get_args(Precision))}")
        if self.threads is not None and self.threads < 1:
            raise ExpertError(f"threads={self.threads} is not valid. Give 1 or more, or None for torch's default")

    def card(self, expert: Expert) -> ExpertCard:
        """Return the expert's card with the options that are not defaults, for the manifest of its column."""
        default = Tuning()
        names = ("precision", "channels_last", "compile")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}
        if changed and not _is_module(expert):
            log.warning("%s is not a torch module: %s has no effect on it", expert.card.uri, ", ".join(changed))
            return expert.card
        return replace(expert.card, preprocessing={**expert.card.preprocessing, **changed}) if changed else expert.card

    def tune(self, expert: Expert, device: str) -> None:
        """Apply the options to an expert that was loaded on ``device``."""
        if not _is_module(expert):
            return
        module = expert.module
        assert module is not None, "the expert is loaded"
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        for name in expert.calls:
            call = getattr(module, name)
            if self.compile:
                call = torch.compile(call)
            if self.precision != "fp32":
                call = _cast(call, torch.device(device).type, self.precision)
            setattr(module, name, call)

    @contextmanager
    def fixed_threads(self) -> Iterator[int]:
        """Set the number of torch's threads in the block, and yield it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield torch.get_num_threads()
        finally:
            torch.set_num_threads(before)


def _is_module(expert: Expert) -> bool:
    """Return True if the expert is a torch module, also before it is loaded."""
    return type(expert).module is not Expert.module


def _cast(forward: Callable[P, R], device: str, precision: Precision) -> Callable[P, R]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16

    def single(value: object) -> object:
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    @functools.wraps(forward)
    def cast(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(device, dtype):
            outputs = forward(*args, **kwargs)
        singles: R = pytree.tree_map(single, outputs)
        return singles

    return cast
