"""What evaluation asks of a student, and the three ways in which it looks at one.

Whatever is measured here is frozen: evaluation mode, no gradients, restored afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.benchmarks import BATCH, Split
from clipzoo.errors import CheckpointError


class Student(Protocol):
    """A CLIP model as evaluation sees it."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels of the images that it takes."""
        ...

    def maps(self, images: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """Uint8 [B,H,W,3] -> feature maps [B,C,h,w], one a layer, no class token."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Uint8 [B,H,W,3] -> unit vectors [B,D]."""
        ...

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit vectors [B,D], one a text, in the space of the images' embeddings."""
        ...


def feature_batches(
    student: Student, split: Split, layers: Sequence[int] = (-1,), batch: int = BATCH
) -> Iterator[Tensor]:
    """Feature maps of the images of a split, in order: float32 [B,C,h,w] on the CPU, a batch at a time.

    Several layers are concatenated over C on the finest of their grids; coarser maps are repeated onto it.
    """

    def look(chunk: Tensor) -> Tensor:
        maps = student.maps(chunk, layers=tuple(layers))
        grid = max((m.shape[-2:] for m in maps), key=lambda size: size[0] * size[1])
        return torch.cat([m if m.shape[-2:] == grid else F.interpolate(m, grid) for m in maps], 1)

    return _over_images(student, split, look, batch)


def features(student: Student, split: Split, layers: Sequence[int] = (-1,), batch: int = BATCH) -> Tensor:
    """All of `feature_batches`, float32 [N,C,h,w]."""
    return gathered(feature_batches(student, split, layers, batch), len(split))


def gathered(parts: Iterable[Tensor], count: int) -> Tensor:
    """Parts [B,…] of ``count`` rows as one tensor, the only one that is held.

    It lies in memory as `torch.cat` (2.14) would lay it: means over it depend on that in their last digits.
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


def embed_images(student: Student, split: Split, batch: int = BATCH) -> Tensor:
    """The images of a split -> unit vectors, float32 [N,D] on the CPU."""
    return _finite(gathered(_over_images(student, split, student.encode_image, batch), len(split)), "images")


def embed_texts(student: Student, texts: Sequence[str], batch: int = 4 * BATCH) -> Tensor:
    """Texts -> unit vectors, float32 [N,D] on the CPU."""
    with frozen(student):
        parts = [student.encode_text(list(texts[i : i + batch])) for i in range(0, len(texts), batch)]
    return _finite(torch.cat([part.float().cpu() for part in parts]), "texts")


def _finite(embeddings: Tensor, what: str) -> Tensor:
    bad = int((~embeddings.isfinite().all(1)).sum())
    if bad:
        raise CheckpointError(
            f"{bad} of {len(embeddings)} {what} have embeddings that are not finite: the student's weights are broken, "
            "and ranks of NaN would count as hits; train it again at a lower rate"
        )
    return embeddings


@contextmanager
def frozen(student: Student) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of before comes back."""
    training = isinstance(student, nn.Module) and student.training
    if isinstance(student, nn.Module):
        student.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if isinstance(student, nn.Module):
            student.train(training)


def _over_images(student: Student, split: Split, look: Callable[[Tensor], Tensor], batch: int) -> Iterator[Tensor]:
    weights = next(student.parameters(), None) if isinstance(student, nn.Module) else None
    device = torch.device("cpu") if weights is None else weights.device
    for images in split.batches(batch):
        with frozen(student):
            found = look(torch.tensor(images, device=device)).float().cpu()
        yield found
