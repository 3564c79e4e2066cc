"""Open-vocabulary segmentation: class names against the dense embeddings of a student, without a probe.

The whole image is squashed to the student's size. The embedding of a class is that of `zero_shot`, of the benchmark's
templates. The cosines are bilinearly resized to the size of the true labels, and the class of the largest one is
predicted. Background classes are prompted by their names, as all others are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from clipzoo.benchmarks import Split
from clipzoo.errors import RecipeError
from clipzoo.evaluation.base import Encoder, frozen
from clipzoo.evaluation.measure import OPEN_VOCABULARY, Scored, shares, stacked
from clipzoo.evaluation.zero_shot import classifier
from clipzoo.models.segments import similarities
from clipzoo.tasks import Convention
from clipzoo.tasks.base import Statistics
from clipzoo.training.processes import spread

TASK = "segmentation"
FIX = "leave open vocabulary out (evaluation.open_vocabulary: null)"
BATCH = 16
"""Images per batch; their similarities to all classes are resized together."""


class DenseEncoder(Encoder, Protocol):
    """A CLIP model with dense embeddings in the space of its texts."""

    def check_dense(self, variant: str) -> None:
        """Raise `CheckpointError` if a variant is not defined for the vision tower."""
        ...

    def encode_dense(self, images: Tensor, variant: str) -> Tensor:
        """Return the embeddings of the patches of images (uint8 [B,H,W,3]), unit vectors [B,D,h,w]."""
        ...


@dataclass(frozen=True)
class _Cosines:
    """The cosines of patches and classes [B,K,h,w], in batches of images."""

    split: Split
    classes: Tensor
    variant: str

    def __len__(self) -> int:
        return -(-len(self.split) // BATCH)

    def encode(self, student: DenseEncoder, first: int, step: int) -> Iterator[Tensor]:
        """Yield every ``step``-th batch from number ``first``."""
        rows = [row for row in range(len(self.split)) if row // BATCH % step == first]
        weights = next(student.parameters(), None) if isinstance(student, nn.Module) else None
        device = torch.device("cpu") if weights is None else weights.device
        for images in self.split.select(rows).batches(BATCH):
            with frozen(student):
                embedded = student.encode_dense(torch.tensor(images, device=device), self.variant)
                cosines = similarities(embedded, self.classes.to(device), (embedded.shape[-2], embedded.shape[-1]))
            yield cosines.cpu()


def named(conventions: Mapping[str, Convention]) -> bool:
    """Return True for true labels of segmentation, task -> convention, whose classes have names, not numbers."""
    names = conventions[TASK].classes if TASK in conventions else ()
    return bool(names) and not all(name.isdecimal() for name in names)


def measurable(split: Split) -> bool:
    """Return True for a split with true labels of segmentation whose classes have names."""
    return named({task: truth.convention for task, truth in split.truth.items()})


def unmeasurable(fix: str = FIX) -> RecipeError:
    """Return the error on a test benchmark without such labels; ``fix`` turns the measurement off."""
    return RecipeError(
        "open vocabulary needs a test benchmark with true labels of segmentation whose classes have names. Give "
        f"another benchmark, or {fix}"
    )


def protocol(variant: str | None) -> dict[str, str]:
    """Return how open-vocabulary segmentation is measured; empty without a variant."""
    if variant is None:
        return {}
    rule = (
        f"{variant}: the class names of the true labels (background classes by their names, too) with the benchmark's "
        "templates, against the dense embeddings of the whole image, squashed to the student's size; cosines "
        "bilinearly resized to the labels; pixels with a known true label"
    )
    return {OPEN_VOCABULARY: rule}


def defined(student: Encoder) -> bool:
    """Return True for a model with dense embeddings in the space of its texts."""
    return getattr(student, "has_text", True) and hasattr(student, "encode_dense")


def evaluate(student: Encoder, data: Split, variant: str) -> Scored:
    """Score mIoU and pixel accuracy of a student on the pixels of a split with a known class.

    Raises:
        RecipeError: the split has no segmentation labels with named classes.
        CheckpointError: the variant is not defined for the student.
    """
    if not measurable(data):
        raise unmeasurable()
    dense = cast(DenseEncoder, student)
    dense.check_dense(variant)
    truth = data.truth[TASK]
    classes = classifier(student, truth.convention.classes, data.templates)
    pictures = replace(data, truth={}, captions=(), targets=(), classnames=(), known=())
    metric = truth.task.metric(truth.convention)
    done: list[Statistics | None] = []
    for cosines in spread.encoded(student, _Cosines(pictures, classes, variant)):
        raw = torch.nn.functional.interpolate(cosines, truth.size, mode="bilinear", align_corners=False)
        labels = truth.labels[len(done) : len(done) + len(raw)]
        done += list(shares(metric, truth.task.predict(raw, truth.convention), labels))
    return Scored(OPEN_VOCABULARY, data.keys, stacked(done), metric, truth.convention)
