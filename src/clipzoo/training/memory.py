"""The memory of one training step on one process, estimated before any training.

Weights, gradients, the two moments of AdamW, the average of the weights and the start of the anchors are counted.
Activations are what autograd keeps of two small forward passes on the CPU, extrapolated to the images of a process. The
peak is higher, because the backward pass allocates tensors that it does not keep: on an H100 by 8 % (ViT-B-16, float32)
to 19 % (bf16, three heads) of the activations; torch.compile saves some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from clipzoo.data import Batch
from clipzoo.models import Student
from clipzoo.recipe import TrainingRecipe
from clipzoo.tasks import get as get_task
from clipzoo.training import objectives
from clipzoo.training.job import Job
from clipzoo.training.precision import DTYPES
from clipzoo.training.processes.sharding import blocks
from clipzoo.training.updates import optimizer

FLOAT = 4
"""Bytes of a weight, a gradient, each of AdamW's moments, an average and a logit."""
COPIES = 4
"""Matrices of logits in memory at a time: those of images and of texts, and their logarithms of the softmax."""


@dataclass(frozen=True, slots=True)
class Memory:
    """An estimate of the memory of one step on one process, in bytes.

    Attributes:
        parameters: number of weights of the student.
        state: weights, gradients and AdamW's moments; under FSDP2 the share of a process.
        activations: what the forward pass of a process's images, or of a chunk of them, keeps for the backward pass.
        average: of ``training.ema``, as a share under FSDP2.
        start: of ``training.anchors``, whole on every process.
        gathered: what FSDP2 holds whole at a time, of the root and of two blocks.
        logits: of the contrastive loss.
    """

    parameters: int
    state: int
    activations: int
    average: int = 0
    start: int = 0
    gathered: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.state + self.activations + self.average + self.start + self.gathered + self.logits


def estimate(student: Student, strides: Mapping[str, int], settings: TrainingRecipe, processes: int = 1) -> Memory:
    """Estimate the memory of a training step.

    Args:
        student: on the CPU, with its heads; its locked parameters are marked.
        strides: column -> image pixels per target pixel, of all heads.
        settings: of the training.
        processes: that share a batch.
    """
    student.train()
    optimizer.freeze(student, Job(settings, rate=1.0, steps=1, out=Path()))
    total = sum(p.numel() for p in student.parameters())
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    sharded = settings.sharding == "fsdp2" and processes > 1
    share = processes if sharded else 1
    own = math.ceil(settings.batch_size / processes)
    rows = min(settings.contrastive_rows or own, own)
    return Memory(
        parameters=total,
        state=FLOAT * (total + 3 * trained) // share,
        activations=_activations(student, strides, settings, math.ceil(own / settings.accumulate)),
        average=FLOAT * trained // share if settings.ema else 0,
        start=FLOAT * sum(p.numel() for p in student.clip.parameters()) if settings.anchors else 0,
        gathered=_gathered(student) if sharded else 0,
        logits=COPIES * FLOAT * rows * settings.batch_size if settings.contrastive_weight else 0,
    )


def _gathered(student: Student) -> int:
    """Return the bytes of the units of FSDP2 that are whole at a time: weights, gradients and a buffer of these."""
    units = [sum(p.numel() for p in block.parameters()) for block in blocks(student)]
    root = sum(p.numel() for p in student.parameters()) - sum(units)
    return FLOAT * 3 * (root + 2 * max(units, default=0))


def _activations(student: Student, strides: Mapping[str, int], settings: TrainingRecipe, images: int) -> int:
    """Return the bytes that autograd keeps of this number of images."""
    forward, weights = partial(_forward, student, strides, settings), list(student.parameters())

    def of_all() -> int:
        one, two = (kept_bytes(partial(forward, count), weights) for count in (1, 2))
        return one + (two - one) * (images - 1)

    whole = of_all()
    if not settings.activation_checkpointing:
        return whole
    towers = blocks(student)
    student.clip.set_grad_checkpointing(True)
    with _inputs(towers) as sizes:
        outside = of_all()
    student.clip.set_grad_checkpointing(False)
    inputs = sum(sizes) // 3  # of one image and of two
    return outside + inputs * images + max(whole - outside, 0) // max(len(towers), 1)


@contextmanager
def _inputs(modules: Iterable[nn.Module]) -> Iterator[list[int]]:
    """Collect the bytes of the first input of modules, which checkpointing of activations keeps."""
    sizes: list[int] = []

    def collect(module: nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            sizes.append(given[0].nbytes)

    hooks = [module.register_forward_pre_hook(collect) for module in modules]
    yield sizes
    for hook in hooks:
        hook.remove()


def kept_bytes(compute: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward pass of ``compute()``, without those of ``weights``."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()  # referenced until it is counted, so that no storage is reused
    del result
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    return sum(size for place, size in kept.items() if place not in own)


def _forward(student: Student, strides: Mapping[str, int], settings: TrainingRecipe, count: int) -> dict[str, Tensor]:
    """Return the loss terms of black pictures without labels: masks change values, not what autograd keeps."""
    H, W = max(settings.height_widths or (student.image_size,), key=math.prod)
    captions = ["a picture"] * count
    targets = {
        name: get_task(spec.task).collate([None] * count, (H // strides[name], W // strides[name]))
        for name, spec in student.specs.items()
    }
    images = torch.zeros(count, H, W, 3, dtype=torch.uint8)
    batch = Batch(images, student.tokenize(captions), captions, targets, [])
    half = settings.precision in DTYPES  # both have the same bytes; auto is at most that of fp32
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = student(batch.images, batch.tokens)
    return objectives.terms(objectives.build(student), out, batch)
