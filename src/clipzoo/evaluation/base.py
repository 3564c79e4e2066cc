"""The interface of models that are evaluated, and their features, image embeddings and text embeddings.

A model is in evaluation mode and without gradients while it is used here; its mode is restored afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.benchmarks import BATCH, Split
from clipzoo.errors import CheckpointError
from clipzoo.training.processes import spread


class Encoder(Protocol):
    """A CLIP model with feature maps.

    Scores are kept with the digest of the weights of a `torch.nn.Module`. Any other model is recognized by its URI
    alone: measure changed weights in another ``--out``.

    An encoder may also have ``crop`` ("whole", "center" or "padded") and ``kept``, the part of an image that its
    preprocessing keeps; ``has_text = False`` without a text tower; and ``depth`` and ``patch``, the number of layers of
    `maps` and the pixels that the sides of its images are multiples of.
    """

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the input images, in pixels."""
        ...

    def maps(self, images: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """Return the feature maps [B,C,h,w] of images (uint8 [B,H,W,3]), one for each layer, without class token."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the embeddings of images (uint8 [B,H,W,3]), unit vectors [B,D]."""
        ...

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the embeddings of texts in the space of the image embeddings, unit vectors [B,D]."""
        ...


@dataclass(frozen=True)
class _Pictures:
    """The images of a split in batches: feature maps of ``layers``, or embeddings if that is None."""

    split: Split
    layers: tuple[int, ...] | None
    batch: int

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch)

    def encode(self, student: Encoder, first: int, step: int) -> Iterator[Tensor]:
        """Yield every ``step``-th batch from number ``first``."""
        weights = next(student.parameters(), None) if isinstance(student, nn.Module) else None
        device = torch.device("cpu") if weights is None else weights.device
        rows = [row for row in range(len(self.split)) if row // self.batch % step == first]
        split = self.split if step == 1 else self.split.select(rows)
        for images in split.batches(self.batch):
            with frozen(student):
                encoded = self._encode(student, torch.tensor(images, device=device)).float().cpu()
            yield encoded

    def _encode(self, student: Encoder, images: Tensor) -> Tensor:
        if self.layers is None:
            return student.encode_image(images)
        maps = student.maps(images, layers=self.layers)
        grid = max((m.shape[-2:] for m in maps), key=lambda size: size[0] * size[1])
        return torch.cat([m if m.shape[-2:] == grid else F.interpolate(m, grid) for m in maps], 1)


@dataclass(frozen=True)
class _Texts:
    """Texts in batches of embeddings."""

    texts: tuple[str, ...]
    batch: int

    def __len__(self) -> int:
        return -(-len(self.texts) // self.batch)

    def encode(self, student: Encoder, first: int, step: int) -> Iterator[Tensor]:
        """Yield every ``step``-th batch from number ``first``."""
        for start in range(first * self.batch, len(self.texts), step * self.batch):
            with frozen(student):
                encoded = student.encode_text(list(self.texts[start : start + self.batch])).float().cpu()
            yield encoded


def feature_batches(
    student: Encoder, split: Split, layers: Sequence[int] = (-1,), batch: int = BATCH
) -> Iterator[Tensor]:
    """Yield the feature maps of the images of a split, in order: float32 [B,C,h,w] on the CPU.

    Several layers are concatenated over C on the finest of their grids; coarser maps are repeated onto it.
    """
    return spread.encoded(student, _pictures(split, tuple(layers), batch))


def _pictures(split: Split, layers: tuple[int, ...] | None, batch: int) -> _Pictures:
    """Return pictures without labels, classes and captions, which other processes do not need."""
    return _Pictures(replace(split, truth={}, captions=(), targets=(), classnames=(), known=()), layers, batch)


def features(student: Encoder, split: Split, layers: Sequence[int] = (-1,), batch: int = BATCH) -> Tensor:
    """Return the feature maps of all images of a split, float32 [N,C,h,w]; see `feature_batches`."""
    return gathered(feature_batches(student, split, layers, batch), len(split))


def gathered(parts: Iterable[Tensor], count: int) -> Tensor:
    """Concatenate parts [B,…] with ``count`` rows in all, while only one part is in memory.

    The memory format is that of `torch.cat` (2.14), since means depend on it in their last digits.
    """
    whole, at = torch.empty(0), 0
    for part in parts:
        if not at:
            last = not part.is_contiguous() and part.is_contiguous(memory_format=torch.channels_last)
            form = torch.channels_last if last else torch.contiguous_format
            whole = torch.empty((count, *part.shape[1:]), memory_format=form)
        whole[at : at + len(part)] = part
        at += len(part)
    assert at == count
    return whole


def embed_images(student: Encoder, split: Split, batch: int = BATCH) -> Tensor:
    """Return the embeddings of the images of a split, unit vectors, float32 [N,D] on the CPU."""
    return _finite(gathered(spread.encoded(student, _pictures(split, None, batch)), len(split)), "images")


def embedding_batches(student: Encoder, split: Split, batch: int = BATCH) -> Iterator[Tensor]:
    """Yield the embeddings of the images of a split in batches, as `embed_images` returns them."""
    for encoded in spread.encoded(student, _pictures(split, None, batch)):
        yield _finite(encoded, "images")


def embed_texts(student: Encoder, texts: Sequence[str], batch: int = 4 * BATCH) -> Tensor:
    """Return the embeddings of texts, unit vectors, float32 [N,D] on the CPU."""
    return _finite(torch.cat(list(spread.encoded(student, _Texts(tuple(texts), batch)))), "texts")


def _finite(embeddings: Tensor, what: str) -> Tensor:
    bad = int((~embeddings.isfinite().all(1)).sum())
    if bad:
        raise CheckpointError(
            f"{bad} of {len(embeddings)} {what} have embeddings that are not finite. The weights of the student are "
            "broken, and NaN would count as hits. Train it again at a lower learning rate"
        )
    return embeddings


@contextmanager
def frozen(student: Encoder) -> Iterator[None]:
    """Use a model in evaluation mode and without gradients, and restore its mode afterwards."""
    training = isinstance(student, nn.Module) and student.training
    if isinstance(student, nn.Module):
        student.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if isinstance(student, nn.Module):
            student.train(training)


def preprocessing_of(model: Encoder) -> str:
    """Return size, crop, mean and deviation of a model's images as text."""
    numbers = {name: getattr(model, name).flatten().tolist() for name in ("mean", "std") if hasattr(model, name)}
    kept = {"crop": getattr(model, "crop", "whole"), "kept": getattr(model, "kept", 1.0)}
    return json.dumps({"size": [*model.image_size], **kept, **numbers}, sort_keys=True)


def weights_of(model: Encoder) -> str:
    """Return the SHA-256 of the weights of a model; "" if it is not a module of PyTorch."""
    if not isinstance(model, nn.Module):
        return ""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
