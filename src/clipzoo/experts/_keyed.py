"""What experts share that predict nothing: they look labels up by a sample's key, or make them of other labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import Expert, ExpertInput
from clipzoo.types import ImageArray

Size = tuple[int, int]
"""(H, W)."""


class SampleExpert(Expert):
    """An expert to which a picture alone says nothing."""

    needs_sample = True
    batch_size = 1

    def load(self, device: str = "cpu") -> None:
        """Nothing is loaded."""

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """Always raises: a picture alone names no label."""
        raise ExpertError(f"{self.card.uri} finds labels by whole samples; call predict_inputs(inputs)")


class KeyedExpert(SampleExpert):
    """Labels that exist already."""

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[Any]:
        """The label of each sample.

        Raises:
            SampleError: there is none, it cannot be read, or does not fit its image or what was answered.
        """
        return [self.look_up(sample.key, (sample.image.shape[0], sample.image.shape[1])) for sample in inputs]

    @abstractmethod
    def place(self, key: str) -> str | None:
        """Where the label of the sample with this key is: a name of its own; None if there is none."""

    @abstractmethod
    def look_up(self, key: str, size: Size) -> Any:
        """The label of one sample whose image has ``size`` (H, W).

        Raises:
            SampleError: see `predict_inputs`.
        """


def inside(key: str) -> None:
    """Raise `SampleError` if a key, taken as a path below a folder, leads out of it."""
    if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
        raise SampleError(f"the key leads out of the folder: {key!r}")


def same_aspect(label: Size, image: Size, where: str) -> None:
    """Raise `SampleError` unless a label of one (H, W) can show the whole of an image of another."""
    (h, w), (H, W) = label, image
    if abs(h * W - w * H) > max(H, W):  # more than a pixel off
        raise SampleError(
            f"the label's aspect is not the image's: {w}×{h} for {W}×{H}, in {where}; labels show the whole image "
            "as it is displayed, turned by its EXIF orientation"
        )
