"""Shared by encoders of other libraries: normalization of images, options, and tokens as maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clipzoo.errors import CheckpointError
from clipzoo.plugins import hint
from clipzoo.types import Size

Crop = Literal["whole", "center", "padded"]


@dataclass(frozen=True)
class Options:
    """Options of a model's URI.

    Attributes:
        size: (H, W) of the input images instead of the model's own, from ``size=518`` or ``size=384x512``.
        norm: apply the tower's final norm to the maps, from ``norm=yes``.
    """

    size: Size | None = None
    norm: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, str], uri: str) -> Options:
        """Return the options of a URI; raise `CheckpointError` for an unknown one."""
        for name in options:
            if name not in ("size", "norm"):
                raise CheckpointError(f"{uri}: there is no option {name!r}; {hint(name, ['size', 'norm'])}")
        if options.get("norm", "no") not in ("yes", "no"):
            raise CheckpointError(f"{uri}: norm={options['norm']}: write norm=yes or norm=no")
        return cls(_size(options.get("size"), uri), options.get("norm") == "yes")


def _size(text: str | None, uri: str) -> Size | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side) <= 8192 for side in sides):
        raise CheckpointError(f"{uri}: size={text} is not a size; write size=518, or size=384x512 (H×W)")
    return int(sides[0]), int(sides[-1])


def check_size(size: Size, patch: int, uri: str) -> None:
    """Raise `CheckpointError` if the sides of an image are not multiples of the pixels of a position."""
    if size[0] % patch or size[1] % patch:
        near = "x".join(str(max(round(side / patch), 1) * patch) for side in size)
        raise CheckpointError(
            f"{uri}: size={size[0]}x{size[1]} does not fit this model, whose maps have one position per {patch} "
            f"pixels. Give multiples of {patch}, such as size={near}"
        )


def patch_of(tower: object) -> int:
    """Return the pixels for each position of a tower of timm; 32 for one without patches."""
    patch = getattr(getattr(tower, "patch_embed", None), "patch_size", None) or 32  # XCiT has one number
    return int(patch if isinstance(patch, int) else patch[0])


class ImageEncoder(nn.Module):
    """A vision tower with the mean and deviation of its preprocessing.

    Attributes:
        image_size: (H, W) of the input images, in pixels.
        crop: part of an image that its own preprocessing keeps.
        kept: share of the sides of that part that remains after a further center crop.
        depth: number of layers that `maps` accepts.
        patch: sides of its inputs are multiples of this number of pixels.
        has_text: False for a model without text tower; zero-shot and retrieval are not measured then.
        masked: the padding of texts is masked.
    """

    has_text = True
    kept = 1.0
    masked = False

    def __init__(
        self, image_size: Size, mean: Sequence[float], std: Sequence[float], crop: Crop, depth: int, patch: int
    ) -> None:
        super().__init__()
        self.image_size, self.crop, self.depth, self.patch = image_size, crop, depth, patch
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 [B,H,W,3] to normalized float [B,3,H,W]."""
        return (images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0 - self.mean) / self.std

    def indices(self, layers: Sequence[int]) -> list[int]:
        """Return layers counted from 0; raise `CheckpointError` if there are no such layers."""
        if not all(-self.depth <= layer < self.depth for layer in layers):
            raise CheckpointError(f"the model has layers 0 to {self.depth - 1}, not all of {list(layers)}")
        return [layer % self.depth for layer in layers]


class TextlessEncoder(ImageEncoder):
    """A vision tower alone."""

    has_text = False

    def encode_text(self, texts: list[str]) -> Tensor:
        """Raise `CheckpointError`: there is no text tower."""
        raise CheckpointError("this model has no text tower, so it cannot embed texts")


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
