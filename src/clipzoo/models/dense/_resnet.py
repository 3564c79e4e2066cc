"""Dense embeddings of CLIP's ResNets: every position through the value and output projections of the attention pool."""

from __future__ import annotations

from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor

from clipzoo.models.dense.base import Variant, refused


def check(visual: ModifiedResNet, variant: Variant) -> None:
    """Raise `CheckpointError` if a variant is not defined for a tower."""
    if variant.attend is not None or not variant.pooled:
        raise refused(variant, "a ResNet, whose only attention is its pool", "Use the variant maskclip")


def embeddings(visual: ModifiedResNet, images: Tensor, variant: Variant) -> Tensor:
    """Return embeddings [B,D,h,w], not normalized, of images [B,3,H,W]; as in MaskCLIP, positions are not embedded."""
    x = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    pool = visual.attnpool
    maps: Tensor = pool.c_proj(pool.v_proj(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return maps
