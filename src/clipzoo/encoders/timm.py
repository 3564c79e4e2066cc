"""timm: ``timm:vit_base_patch14_dinov2.lvd142m``, ``timm:hf-hub:ORG/NAME`` or ``timm:local-dir:PATH``.

A vision tower of any architecture that has ``forward_intermediates``; weights are those of the name. ``size=518`` sets
the input size. Maps are taken before the final norm, as those of students are; ``norm=yes`` takes them after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Protocol, TypedDict

import torch.nn.functional as F
from torch import Tensor

from clipzoo.encoders.base import Crop, Options, TextlessEncoder, check_size, patch_of
from clipzoo.errors import CheckpointError, brief
from clipzoo.evaluation.base import Encoder
from clipzoo.plugins import hint
from clipzoo.types import Size


class _Model(Protocol):
    """A model of timm with feature maps."""

    feature_info: Sequence[object]

    def __call__(self, images: Tensor) -> Tensor:
        """Return pooled features [B,D]."""

    def forward_intermediates(
        self, images: Tensor, *, indices: Sequence[int], norm: bool, intermediates_only: bool, output_fmt: str
    ) -> list[Tensor]:
        """Return feature maps."""


class _Config(TypedDict):
    """timm's preprocessing of a model."""

    input_size: tuple[int, int, int]
    crop_mode: str
    crop_pct: float
    mean: Sequence[float]
    std: Sequence[float]


class Timm(TextlessEncoder):
    """A model of timm with pooled features as embeddings."""

    def __init__(self, model: _Model, size: Size, norm: bool, config: _Config) -> None:
        crop: Crop = "whole" if config["crop_mode"] == "squash" else "center"
        super().__init__(size, config["mean"], config["std"], crop, len(model.feature_info), patch_of(model))
        self.model, self.norm = model, norm
        side = config["input_size"][1]
        self.kept = side / floor(side / config["crop_pct"])  # timm 1.0.31, transforms_imagenet_eval

    def maps(self, images: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """Return feature maps [B,C,h,w]; see `Encoder.maps`."""
        wanted = self.indices(layers)
        order = sorted({*wanted})
        maps = self.model.forward_intermediates(
            self.normalize(images), indices=order, norm=self.norm, intermediates_only=True, output_fmt="NCHW"
        )
        return [maps[order.index(layer)] for layer in wanted]

    def encode_image(self, images: Tensor) -> Tensor:
        """Return pooled features, unit vectors [B,D]."""
        return F.normalize(self.model(self.normalize(images)), dim=-1)


def check(name: str, options: Mapping[str, str]) -> None:
    """Raise `CheckpointError` if timm has no such architecture, or an option is unknown."""
    import timm

    Options.parse(options, f"timm:{name}")
    architecture = name.partition(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        raise CheckpointError(f"timm:{name}: timm has no such model; {hint(architecture, timm.list_models())}")


def create(name: str, options: Mapping[str, str]) -> Encoder:
    """Return the encoder; see `clipzoo.encoders.create`."""
    import timm
    from timm.data.config import resolve_model_data_config

    uri = f"timm:{name}"
    chosen = Options.parse(options, uri)
    try:
        plain = timm.create_model(name, pretrained=False, num_classes=0)
        config: _Config = resolve_model_data_config(plain)
        native = (int(config["input_size"][1]), int(config["input_size"][2]))
        if chosen.size and _sized(plain):
            check_size(chosen.size, patch_of(plain), uri)
        size = chosen.size or native
        resized = {"img_size": size} if _sized(plain) and size != native else {}
        model = timm.create_model(name, pretrained=True, num_classes=0, **resized)
    except CheckpointError:
        raise
    except Exception as error:  # timm and huggingface_hub raise many kinds
        raise CheckpointError(f"{uri}: timm cannot load this model: {brief(error)}") from error
    if not hasattr(model, "forward_intermediates"):
        raise CheckpointError(f"{uri}: {type(model).__name__} has no forward_intermediates, so it returns no maps")
    return Timm(model.eval(), size, chosen.norm, config).eval()


def _sized(model: object) -> bool:
    """Return True if a model is made for one input size, as ViTs are."""
    return hasattr(model, "patch_embed") and getattr(model.patch_embed, "img_size", None) is not None
