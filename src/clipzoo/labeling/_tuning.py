"""How experts are run: precision, layout and threads of those that are torch modules, and what to do without memory."""

from __future__ import annotations

import functools
import gc
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch.utils import _pytree as pytree

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|failed to allocate memory", re.IGNORECASE)
"""What torch's allocator of the CPU and ONNX Runtime say, whose errors are of no class of their own."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How experts are run.

    All but ``threads`` is for experts that are torch modules (`Expert.module`), and stands in the manifest of their
    columns: labels made otherwise are refused there.

    Attributes:
        precision: "bf16" and "fp16" run the module under `torch.autocast`; what it gives is made float32 again.
        channels_last: the layout of images in memory that convolutions on many devices are faster in.
        compile: by `torch.compile`; each new size of image costs seconds to minutes once.
        threads: of the CPU within an operator; None is torch's choice.
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ExpertError(f"precision={self.precision!r}: it is one of {', '.join(get_args(Precision))}")
        if self.threads is not None and self.threads < 1:
            raise ExpertError(f"threads={self.threads}: give 1 or more, or leave it to torch")

    def card(self, expert: Expert) -> ExpertCard:
        """The expert's card with what is not as usual, for the manifest of its column."""
        usual = Tuning()
        names = ("precision", "channels_last", "compile")
        told = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)}
        if told and not _is_module(expert):
            log.warning("%s is no torch module: %s does not touch it", expert.card.uri, ", ".join(told))
            return expert.card
        return replace(expert.card, preprocessing={**expert.card.preprocessing, **told}) if told else expert.card

    def tune(self, expert: Expert, device: str) -> None:
        """Set up an expert that was loaded on ``device``."""
        if not _is_module(expert):
            return
        module = expert.module
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        if self.compile:
            module.forward = torch.compile(module.forward)
        if self.precision != "fp32":
            module.forward = _cast(module.forward, torch.device(device).type, self.precision)

    @contextmanager
    def fixed_threads(self) -> Iterator[int]:
        """The number of threads that torch uses in the block."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield torch.get_num_threads()
        finally:
            torch.set_num_threads(before)


def _is_module(expert: Expert) -> bool:
    """Known before it is loaded."""
    return type(expert).module is not Expert.module


def _cast(forward: Any, device: str, precision: Precision) -> Any:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16

    def single(value: Any) -> Any:
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    @functools.wraps(forward)
    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype):
            found = forward(*args, **kwargs)
        return pytree.tree_map(single, found)

    return cast


def out_of_memory(error: BaseException) -> bool:
    """Whether an expert failed because there was no memory, of the device or of the machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(_NO_MEMORY.search(str(error)))


def release() -> None:
    """Give back what nothing uses any more."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where CUDA is not in use
