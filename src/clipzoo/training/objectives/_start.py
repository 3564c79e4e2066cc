"""The start of a training, kept frozen: anchors compare the student with it on the same views."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.models import Student
from clipzoo.training.precision import autocast


class Start:
    """A frozen copy of the student's CLIP model, in evaluation mode.

    The embeddings and maps of a batch are computed once for all anchors. Every epoch draws other views, so
    nothing is kept from one batch to the next.

    Args:
        student: before its first step.
        precision: of its forward pass, as in ``training.precision``.
    """

    def __init__(self, student: Student, precision: str = "fp32") -> None:
        frozen = Student(copy.deepcopy(student.clip), student.tokenizer, student.config, layers=student.layers)
        frozen.returns_maps = True
        self.student = frozen.to(student.mean.device).requires_grad_(False).eval()
        self.precision = precision
        self._images: Tensor | None = None
        self._outputs: tuple[Tensor, list[Tensor]] | None = None

    def __call__(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Return the start's embeddings [B,D] and tapped maps [B,C,h,w] of a batch."""
        if self._outputs is None or self._images is not batch.images:
            with torch.no_grad(), autocast(self.precision, batch.images.device):
                outputs = self.student(batch.images)
            self._images, self._outputs = batch.images, (outputs["image_features"], list(outputs["maps"]))
        return self._outputs
