"""Dense embeddings in the joint space of images and texts, one variant of the last attention per file.

A file exports ``VARIANT``, a `Variant`. Towers are those of OpenCLIP: its ViT, its ResNets, and timm's ViT.
"""

from __future__ import annotations

import copy
from types import ModuleType, SimpleNamespace
from typing import Protocol

import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from clipzoo.errors import CheckpointError
from clipzoo.models import _sizes
from clipzoo.models.dense import _resnet, _timm, _vit
from clipzoo.models.dense.base import Variant
from clipzoo.plugins import Registry
from clipzoo.types import Size

__all__ = ["DEFAULT", "PLUGINS", "Variant", "VariantPlugin", "check", "embeddings", "resized"]

DEFAULT = "maskclip"
TOWERS = ((VisionTransformer, _vit), (ModifiedResNet, _resnet), (TimmModel, _timm))


class VariantPlugin(Protocol):
    """A module of this folder."""

    VARIANT: Variant


PLUGINS: Registry[VariantPlugin] = Registry(
    "models.dense", ("VARIANT",), noun="variant of open vocabulary", option="--open-vocabulary"
)


def check(visual: nn.Module, name: str) -> None:
    """Raise `CheckpointError` if a variant is not defined for a vision tower, `PluginError` if there is none."""
    variant = PLUGINS.load(name).VARIANT
    _tower(visual).check(visual, variant)


def embeddings(visual: nn.Module, images: Tensor, name: str = DEFAULT) -> Tensor:
    """Return the embeddings of patches or positions, unit vectors [B,D,h,w].

    Args:
        visual: vision tower of OpenCLIP, in evaluation mode, at the size of the images.
        images: normalized, float [B,3,H,W].
        name: of the variant.

    Raises:
        CheckpointError: the variant is not defined for the tower.
    """
    check(visual, name)
    raw: Tensor = _tower(visual).embeddings(visual, images, PLUGINS.load(name).VARIANT)
    return F.normalize(raw, dim=1)


def resized(visual: nn.Module, size: Size | None) -> nn.Module:
    """Return a vision tower for images of another size (H, W), with the same weights and interpolated positions.

    Raises:
        CheckpointError: the tower does not support the size.
    """
    holder = SimpleNamespace(visual=visual)
    if size is None or isinstance(visual, ModifiedResNet) or _sizes.size_of(holder) == size:
        return visual  # positions of a ResNet's attention pool are not used
    shared = {id(one): one for one in (*visual.parameters(), *visual.buffers())}
    holder.visual = copy.deepcopy(visual, shared)
    _sizes.resize(holder, size, "the model")
    resized: nn.Module = holder.visual
    return resized


def _tower(visual: nn.Module) -> ModuleType:
    for kind, module in TOWERS:
        if isinstance(visual, kind):
            return module
    raise CheckpointError(
        f"open vocabulary: {type(visual).__name__} has no dense embeddings in the joint space. Use a ViT, a ResNet or "
        "a timm ViT of OpenCLIP"
    )
