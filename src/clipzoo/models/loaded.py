"""A trained student for inference: ``clipzoo.load``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from clipzoo.errors import CheckpointError, ImageError, brief
from clipzoo.files import AnyPath
from clipzoo.heads import resize
from clipzoo.models.dense import DEFAULT
from clipzoo.models.segments import TEMPLATES, Segments
from clipzoo.models.student import Student
from clipzoo.tasks import get as get_task
from clipzoo.types import ImageArray, View, to_rgb

BATCH = 32

Picture = Image.Image | ImageArray
"""A PIL image (its EXIF orientation is applied) or a uint8 array H×W×3 RGB, of any size."""


Labels = list[Any]
"""Labels of the class that the task of their head has, one per image."""


class Loaded:
    """A student in evaluation mode.

    Attributes:
        model: the OpenCLIP model.
        preprocess: OpenCLIP's evaluation transform, PIL image -> float [3,H,W].
        tokenizer: texts -> int64 [N,L].
        columns: columns that `predict` accepts, one per head.
    """

    def __init__(self, student: Student) -> None:
        self.student = student.eval().requires_grad_(False)
        self.model, self.tokenizer = student.clip, student.tokenizer
        self.preprocess = image_transform_v2(PreprocessCfg(**student.preprocess_cfg), is_train=False)
        self.columns = tuple(student.specs)

    def predict(self, images: Sequence[Picture], name: str) -> Labels:
        """Return labels of ``images``, each at its image's size. Whole images are squashed to the student's size.

        Args:
            images: see `Picture`.
            name: a column, or a task that exactly one column has.

        Raises:
            CheckpointError: no head, or more than one, has that name.
            ImageError: an item is not an image.
        """
        column = self._column(name)
        return self._labels(images, (column,))[column]

    def predict_all(self, images: Sequence[Picture]) -> dict[str, Labels]:
        """Return column -> labels of ``images``, as `predict` does, for all heads together."""
        return self._labels(images, self.columns)

    @torch.no_grad()
    def _labels(self, images: Sequence[Picture], columns: Sequence[str]) -> dict[str, Labels]:
        view = View.whole(self.student.image_size)
        labels: dict[str, Labels] = {column: [] for column in columns}
        for pictures in _batches(images):
            squashed = torch.from_numpy(np.stack([view.image(picture) for picture in pictures]))
            predictions = self.student(squashed.to(self.student.mean.device))["predictions"]
            for column in columns:
                spec = self.student.specs[column]
                task = get_task(spec.task)
                raw = predictions[column].float()[:, : task.channels(spec.convention)]
                for one, picture in zip(raw, pictures, strict=True):
                    labels[column] += task.predict(resize(one[None], picture.shape[:2]), spec.convention)
        return labels

    @torch.no_grad()
    def probabilities(self, images: Sequence[Picture], texts: Sequence[str]) -> Tensor:
        """Return the probabilities of texts for images, float32 [N,K] in [0, 1] on the CPU.

        They are a softmax over the texts at the model's logit scale. A model with a logit bias (SigLIP) gives each text
        a probability of its own, the sigmoid of its logit.
        """
        scale, bias = self.model.logit_scale.exp().cpu(), getattr(self.model, "logit_bias", None)
        logits: Tensor = scale * self.embed_images(images) @ self.embed_texts(texts).T
        return logits.softmax(-1) if bias is None else logits.add(bias.cpu()).sigmoid()

    @torch.no_grad()
    def embed_images(self, images: Sequence[Picture]) -> Tensor:
        """Return unit vectors, float32 [N,D] on the CPU, of images after OpenCLIP's transform."""
        parts = []
        for pictures in _batches(images):
            inputs = torch.stack([self.preprocess(Image.fromarray(picture)) for picture in pictures])
            parts.append(self.model.encode_image(inputs.to(self.student.mean.device), normalize=True).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors, float32 [N,D] on the CPU, of one or several texts."""
        return self.student.encode_text(texts).float().cpu()

    def segment(
        self,
        image: Picture,
        names: Sequence[str],
        templates: Sequence[str] = TEMPLATES,
        size: tuple[int, int] | None = None,
        variant: str = DEFAULT,
    ) -> Segments:
        """Return the most similar of some names for each pixel of one image; see `Student.segment`."""
        return self.student.segment(_pixels(image), names, templates, size, variant)

    def _column(self, name: str) -> str:
        columns = [column for column, spec in self.student.specs.items() if name in (column, spec.task)]
        if len(columns) != 1:
            count = f"{len(columns)} heads have the task" if columns else "no head is named"
            none = "no heads: `clipzoo export RUN --heads` keeps them, and RUN/arms/clipzoo/<seed>/student has them"
            raise CheckpointError(f"{count} {name!r}; the student has {', '.join(self.columns) or none}")
        return columns[0]


def load(path: AnyPath, device: str = "cpu", trust_remote_code: bool = False) -> Loaded:
    """Load a student from a folder of a run (``arms/clipzoo/0/student``), or from an exported one.

    Args:
        path: folder of the student.
        device: device in PyTorch's notation.
        trust_remote_code: allow its tokenizer to run Python code that comes with it.

    Raises:
        CheckpointError: the folder holds no student, a damaged one, or one that would run code that is not trusted.
    """
    student = Student.load(path, trust_remote_code)
    try:
        return Loaded(student.to(device))
    except (RuntimeError, AssertionError) as error:  # torch built without a device asserts
        raise CheckpointError(
            f"the student cannot be moved to {device!r}: {brief(error)}. Choose another device, such as cpu"
        ) from error


def _batches(images: Sequence[Picture] | Picture) -> Iterator[list[ImageArray]]:
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        images = [images]
    if not len(images):
        raise ImageError("no images were given. Give at least one image, in a list")
    for i in range(0, len(images), BATCH):
        yield [_pixels(image) for image in images[i : i + BATCH]]


def _pixels(image: Picture) -> ImageArray:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"{kind} is not an image. Give PIL images or uint8 arrays of shape (height, width, 3)")
    return image
