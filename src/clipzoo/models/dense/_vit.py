"""Dense embeddings of OpenCLIP's vision transformers.

The attention of a block is ``nn.MultiheadAttention`` in open_clip_torch 3.3.0, and OpenCLIP's own ``Attention`` with
parameters of the same names and shapes in 4.2.0.dev0.
"""

from __future__ import annotations

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from clipzoo.models.dense.base import Variant, grid_of, heads_of, mixed, refused
from clipzoo.types import Size


def check(visual: VisionTransformer, variant: Variant) -> None:
    """Raise `CheckpointError` if a variant is not defined for a tower."""
    last = visual.transformer.resblocks[-1]
    if visual.attn_pool is not None:
        raise refused(variant, "a ViT with CoCa's attentional pooler", "Use a model without it")
    if not isinstance(last, ResidualAttentionBlock):
        raise refused(variant, f"the blocks {type(last).__name__} of this ViT", "Use a model with standard blocks")


def embeddings(visual: VisionTransformer, images: Tensor, variant: Variant) -> Tensor:
    """Return embeddings [B,D,h,w], not normalized, of images [B,3,H,W]."""
    x = visual._embeds(images)
    *earlier, last = visual.transformer.resblocks
    for block in earlier:
        x = block(x)
    grid = images.shape[-2] // visual.patch_size[0], images.shape[-1] // visual.patch_size[1]
    tokens = visual.ln_post(_last(last, x, grid, variant)[:, 1:])
    return grid_of(tokens if visual.proj is None else tokens @ visual.proj, grid)


def _last(block: ResidualAttentionBlock, x: Tensor, grid: Size, variant: Variant) -> Tensor:
    attn = block.attn
    projected = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    q, k, v = (heads_of(part, attn.num_heads) for part in projected)
    y: Tensor = block.ls_1(attn.out_proj(mixed(variant, q, k, v, grid)))
    if not variant.residual:
        return y
    x = x + y
    whole: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return whole
