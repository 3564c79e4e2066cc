"""The terms of the training loss: contrastive on the captions, and each column's own on its pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.heads import resize
from clipzoo.models import Student
from clipzoo.tasks import get as get_task


def terms(student: Student, out: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
    """Named scalar terms, unweighted: ``contrastive`` and one a column.

    Args:
        student: its specs name the columns.
        out: what its forward gave; losses are computed in float32.
        batch: the same batch.
    """
    loss = SigLipLoss() if "logit_bias" in out else ClipLoss()
    features = {name: value.float() for name, value in out.items() if torch.is_tensor(value)}
    named: dict[str, Tensor] = {"contrastive": loss(**features)}
    for column, spec in student.specs.items():
        target = batch.targets[column]
        height, width = target["valid"].shape[-2:]
        raw = resize(out["predictions"][column].float(), (height, width))
        named[column] = get_task(spec.task).loss(raw, target, spec.convention, spec.loss, **spec.loss_options)
    return named
