"""Pictures of predictions next to labels and images, for trackers (``training.pictures_every``)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.heads import resize
from clipzoo.models import HeadSpec, Student
from clipzoo.tasks import get as get_task
from clipzoo.tasks.base import Target
from clipzoo.types import ImageArray

COUNT = 4
"""Most samples in a picture."""
UNKNOWN = 128
"""Gray level of pixels without a label."""


@torch.no_grad()
def pictures(student: Student, batch: Batch) -> dict[str, ImageArray]:
    """Return column -> picture, uint8 RGB: one row per sample with a label: image, label, prediction.

    Leaves the student in evaluation mode; no random number is drawn. All processes call it: those without a label
    predict a sample, too, since a forward pass of FSDP2 gathers the weights from all of them.
    """
    student.eval()
    found = {}
    for column, target in batch.targets.items():
        rows = target["valid"].flatten(1).any(1).nonzero().flatten()[:COUNT]
        images = batch.images[rows] if len(rows) else batch.images[:1]
        raw = student(images)["predictions"][column].float()
        if len(rows):
            chosen = {name: values[rows] for name, values in target.items()}
            found[column] = _compared(student.specs[column], images, chosen, raw)
    return found


def _compared(spec: HeadSpec, images: Tensor, target: Target, raw: Tensor) -> ImageArray:
    """Return the rows of `pictures`.

    Args:
        spec: the head of the column.
        images: uint8 [N,H,W,3].
        target: of the same N samples.
        raw: the head's output [N,C,h,w].
    """
    task, valid = get_task(spec.task), target["valid"]
    raw = resize(raw, (valid.shape[-2], valid.shape[-1]))[:, : task.channels(spec.convention)]
    labels = task.predict(task.oracle(target, spec.convention), spec.convention)
    predictions = task.predict(raw, spec.convention)
    rows = []
    for image, known, label, prediction in zip(
        images.cpu().numpy(), valid.cpu().numpy(), labels, predictions, strict=True
    ):
        shown = task.render(label, spec.convention).copy()
        shown[~known] = UNKNOWN
        parts = [image, _sized(shown, image), _sized(task.render(prediction, spec.convention), image)]
        rows.append(np.concatenate(parts, 1))
    return np.concatenate(rows)


def _sized(picture: ImageArray, image: ImageArray) -> ImageArray:
    """Return a picture at the size of an image."""
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST))
