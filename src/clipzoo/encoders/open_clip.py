"""OpenCLIP: ``open_clip:ViT-B-16/openai``, ``open_clip:hf-hub:ORG/NAME``, or the folder of a student.

The part after the slash is the pretrained tag; without one, the weights are random. A folder is one that OpenCLIP reads
(``local-dir:``), such as ``RUN/arms/clipzoo/0/student`` or an export. ``size=512`` interpolates the positions of a ViT;
``norm=yes`` gives maps after the final norm, which ResNets do not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from clipzoo import files
from clipzoo.encoders.base import ImageEncoder, Options, check_size, patch_of
from clipzoo.errors import CheckpointError
from clipzoo.evaluation.base import Encoder
from clipzoo.models import Student, check_model, interpolate_positions
from clipzoo.types import Size

Tower: TypeAlias = VisionTransformer | ModifiedResNet | TimmModel

STRIDE = 32
"""Pixels of an image for each position of a ResNet's maps."""


class OpenClip(ImageEncoder):
    """A student, or any model of OpenCLIP; ``random`` is true for random weights."""

    random = False

    def __init__(self, student: Student, options: Options, uri: str) -> None:
        visual = student.clip.visual
        self.resized = options.size not in (None, student.image_size)
        if options.size and self.resized:
            _resize(visual, options.size, uri)
        cfg = student.preprocess_cfg
        super().__init__(student.image_size, cfg["mean"], cfg["std"], student.crop, *_shape(visual))
        self.student, self.norm = student, options.norm

    def maps(self, images: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """Return feature maps [B,C,h,w]; see `Encoder.maps`."""
        wanted = self.indices(layers)
        if not self.norm and not self.resized:
            return self.student.maps(images, layers)
        order = sorted({*wanted})
        out = self.student.clip.visual.forward_intermediates(
            self.normalize(images), indices=order, normalize_intermediates=self.norm, intermediates_only=True
        )
        return [out["image_intermediates"][order.index(layer)] for layer in wanted]

    def encode_image(self, images: Tensor) -> Tensor:
        """Return embeddings, unit vectors [B,D]."""
        return self.student.encode_image(images)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return embeddings of texts, unit vectors [B,D]."""
        return self.student.encode_text(texts)

    def check_dense(self, variant: str) -> None:
        """Raise `CheckpointError` if a variant of `encode_dense` is not defined for the vision tower."""
        self.student.check_dense(variant)

    def encode_dense(self, images: Tensor, variant: str) -> Tensor:
        """Return the embeddings of patches in the space of texts, unit vectors [B,D,h,w]."""
        return self.student.encode_dense(images, variant)


def check(name: str, options: Mapping[str, str]) -> None:
    """Raise `CheckpointError` if OpenCLIP has no such model or tag, or an option is unknown."""
    Options.parse(options, f"open_clip:{name}")
    if ":" not in name and not Path(name).expanduser().is_dir():
        model, _, tag = name.partition("/")
        if "/" in tag or model in ("", ".", ".."):
            raise CheckpointError(f"{files.missing(Path(name))}. Give the folder of a student, or NAME/TAG of OpenCLIP")
        try:
            check_model(model, tag or None)
        except CheckpointError as error:
            raise CheckpointError(f"there is no folder {name!r}, and {error}") from error


def create(name: str, options: Mapping[str, str]) -> Encoder:
    """Return the encoder; see `clipzoo.encoders.create`."""
    uri = f"open_clip:{name}"
    chosen = Options.parse(options, uri)
    if Path(name).expanduser().is_dir():
        student = Student.create(f"local-dir:{Path(name).expanduser()}")
    elif ":" in name:
        student = Student.create(name)
    else:
        model, _, tag = name.partition("/")
        with torch.random.fork_rng([]):  # random weights are the same in every command
            torch.manual_seed(0)
            student = Student.create(model, tag or None, random=not tag)
        encoder = OpenClip(student.eval(), chosen, uri).eval()
        encoder.random = not tag
        return encoder
    return OpenClip(student.eval(), chosen, uri).eval()


def _shape(visual: Tower) -> tuple[int, int]:
    """Return the number of layers, and the pixels that sides of inputs are multiples of."""
    if hasattr(visual, "transformer"):
        return len(visual.transformer.resblocks), int(visual.patch_size[0])
    if hasattr(visual, "trunk"):
        return len(visual.trunk.feature_info), patch_of(visual.trunk)
    return 5, STRIDE


def _resize(visual: Tower, size: Size, uri: str) -> None:
    """Set the input size of a vision tower; positions are interpolated, bicubic with antialiasing."""
    if not hasattr(visual, "trunk") or hasattr(getattr(visual.trunk, "patch_embed", None), "patch_size"):
        check_size(size, _shape(visual)[1], uri)
    if hasattr(visual, "trunk"):
        try:
            visual.set_input_size(size)
        except Exception as error:  # timm raises many kinds
            raise CheckpointError(f"{uri}: this tower cannot be set to size={size[0]}x{size[1]}: {error}") from error
    elif hasattr(visual, "transformer"):
        grid = size[0] // visual.patch_size[0], size[1] // visual.patch_size[1]
        visual.positional_embedding = _positions(visual.positional_embedding, visual.grid_size, grid)
        visual.grid_size = grid
    else:
        before, own = visual.image_size, visual.attnpool.positional_embedding
        height, width = (before, before) if isinstance(before, int) else before
        grids = [(h // STRIDE, w // STRIDE) for h, w in ((height, width), size)]
        visual.attnpool.positional_embedding = _positions(own, *grids)
    visual.image_size = size


def _positions(own: Tensor, before: Size, after: Size) -> nn.Parameter:
    """Return position embeddings [1+h·w,C] of another grid; the first one is that of the class or mean token."""
    whole = torch.cat([own[:1], interpolate_positions(own[1:], before, after)])
    return nn.Parameter(whole.detach(), requires_grad=False)
