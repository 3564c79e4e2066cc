"""Shared by encoders of other libraries: normalization of images, options, and tokens as maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from clipzoo.errors import CheckpointError
from clipzoo.plugins import hint
from clipzoo.types import Size

SIZE = "size"
"""Option of encoders whose input size may differ from that of their training: a side, or HxW, in pixels."""


class ImageEncoder(nn.Module):
    """A vision tower with the mean and deviation of its preprocessing.

    Attributes:
        image_size: (H, W) of the input images, in pixels.
        crop: part of an image that its own preprocessing keeps.
        has_text: False for a model without text tower; zero-shot and retrieval are not measured then.
    """

    has_text = True

    def __init__(
        self, image_size: Size, mean: Sequence[float], std: Sequence[float], crop: Literal["whole", "center"] = "center"
    ) -> None:
        super().__init__()
        self.image_size, self.crop = image_size, crop
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 [B,H,W,3] to normalized float [B,3,H,W]."""
        return (images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0 - self.mean) / self.std


class TextlessEncoder(ImageEncoder):
    """A vision tower alone."""

    has_text = False

    def encode_text(self, texts: list[str]) -> Tensor:
        """Raise `CheckpointError`: there is no text tower."""
        raise CheckpointError("this model has no text tower, so it cannot embed texts")


def size_option(options: Mapping[str, str], default: Size, uri: str) -> Size:
    """Return the (H, W) of the option ``size``; raise `CheckpointError` for any other option or value."""
    for name in options:
        if name != SIZE:
            raise CheckpointError(f"{uri}: there is no option {name!r}; {hint(name, [SIZE])}")
    if SIZE not in options:
        return default
    sides = options[SIZE].lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side) <= 8192 for side in sides):
        raise CheckpointError(f"{uri}: size={options[SIZE]} is not a size; write size=518, or size=384x512 (H×W)")
    return int(sides[0]), int(sides[-1])


def as_map(tokens: Tensor, size: Size, patch: int) -> Tensor:
    """Return the patch tokens of [B,N,C] as [B,C,h,w]; tokens before them (class, registers) are dropped.

    Raises:
        CheckpointError: there are fewer tokens than patches.
    """
    h, w = size[0] // patch, size[1] // patch
    if tokens.shape[1] < h * w:
        raise CheckpointError(
            f"the tower returns {tokens.shape[1]} tokens for {h}×{w} patches of {patch} pixels: its tokens are not a "
            "map of the image"
        )
    return tokens[:, -h * w :].transpose(1, 2).reshape(len(tokens), -1, h, w)
