"""Open-vocabulary segmentation of one image: the similarity of each pixel to each prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.errors import CheckpointError
from clipzoo.models import dense
from clipzoo.tasks.depth import turbo
from clipzoo.types import FloatArray, ImageArray, View

if TYPE_CHECKING:
    from clipzoo.models.student import Student

TEMPLATES = ("a photo of a {c}.",)
TEXTS = 256
"""Texts per batch."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The classes of the pixels of one image.

    Attributes:
        names: of the classes, by id.
        ids: class of the largest similarity, uint16 [H,W].
        similarities: cosine of each pixel and each prompt, float32 [K,H,W].
        probabilities: softmax over the names of the cosines times the model's logit scale, float32 [K,H,W].
    """

    names: tuple[str, ...]
    ids: NDArray[np.uint16]
    similarities: FloatArray
    probabilities: FloatArray

    def heat_map(self, name: str) -> ImageArray:
        """Return the similarities to one name as colors uint8 [H,W,3], blue for the lowest and red for the highest.

        Raises:
            CheckpointError: the name is not one of `names`.
        """
        if name not in self.names:
            raise CheckpointError(f"there is no heat map of {name!r}: the prompts were {', '.join(self.names)}")
        values = self.similarities[self.names.index(name)]
        return turbo((values - values.min()) / max(float(np.ptp(values)), 1e-6))


@torch.no_grad()
def segment(
    student: Student,
    image: ImageArray,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    size: tuple[int, int] | None = None,
    variant: str = dense.DEFAULT,
) -> Segments:
    """Return the most similar of some names for each pixel of an image, at the image's size.

    Args:
        student: of any architecture with the variant.
        image: uint8 [H,W,3] of any size; the whole image is squashed to ``size``.
        names: of the classes, such as ``["chair", "lamp"]``.
        templates: prompts with ``{c}`` in the place of a name; their embeddings are averaged.
        size: as in `Student.encode_dense`.
        variant: as in `Student.encode_dense`.

    Raises:
        CheckpointError: there are no names or templates. `Student.encode_dense` raises others.
    """
    if isinstance(names, str) or not names or isinstance(templates, str) or not templates:
        raise CheckpointError(
            f"names={names!r}, templates={templates!r}: segment needs a list of at least one name and one "
            'template, such as names=["chair", "lamp"], templates=["a photo of a {c}."]'
        )
    training = student.training
    student.eval()
    try:
        squashed = torch.tensor(View.whole(size or student.image_size).image(image), device=student.mean.device)
        classes = class_embeddings(student.encode_text, names, templates)
        cosines = similarities(student.encode_dense(squashed[None], variant, size), classes, image.shape[:2])
    finally:
        student.train(training)
    return segments(cosines[0], names, float(student.clip.logit_scale.exp()))


def class_embeddings(
    encode: Callable[[Sequence[str]], Tensor], names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """Return the normalized mean of the normalized template embeddings of each name, unit vectors [K,D]."""
    texts = [template.replace("{c}", name) for name in names for template in templates]
    parts = [encode(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
    return F.normalize(torch.cat(parts).reshape(len(names), len(templates), -1).mean(1), dim=-1)


def similarities(dense: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the cosines of dense embeddings [B,D,h,w] and classes [K,D], bilinearly resized, float32 [B,K,H,W]."""
    cosines = torch.einsum("bdhw,kd->bkhw", dense.float(), classes.float())
    return F.interpolate(cosines, size, mode="bilinear", align_corners=False)


def segments(cosines: Tensor, names: Sequence[str], scale: float) -> Segments:
    """Return the segments of one image from its similarities [K,H,W] and the model's logit scale."""
    ids = cosines.argmax(0).cpu().numpy().astype(np.uint16)
    probabilities = (scale * cosines).softmax(0).cpu().numpy()
    return Segments(tuple(names), ids, cosines.cpu().numpy(), probabilities)
