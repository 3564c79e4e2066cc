"""Dense embeddings of timm's vision transformers (timm 1.0.31): SigLIP's attention pool, or class token and average."""

from __future__ import annotations

from open_clip.timm_model import TimmModel
from timm.layers import AttentionPoolLatent
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from clipzoo.models.dense.base import Variant, grid_of, heads_of, mixed, refused
from clipzoo.types import Size


def check(visual: TimmModel, variant: Variant) -> None:
    """Raise `CheckpointError` if a variant is not defined for a tower."""
    trunk = visual.trunk
    if type(trunk) is not VisionTransformer:
        raise refused(variant, f"timm's {type(trunk).__name__}", "Use a model with timm's VisionTransformer")
    last, pool = trunk.blocks[-1], trunk.attn_pool
    if not (type(last) is Block and type(last.attn) is Attention):
        raise refused(variant, f"the blocks of timm's {trunk.default_cfg.get('architecture')}", "Use another model")
    if pool is None and trunk.global_pool not in ("token", "avg"):
        raise refused(variant, f"a timm tower with the pooling {trunk.global_pool!r}", "Use another model")
    if pool is not None and (not isinstance(pool, AttentionPoolLatent) or pool.pos_embed is not None):
        raise refused(variant, f"timm's {type(pool).__name__} of this tower", "Use another model")
    if pool is not None and not variant.pooled:
        raise refused(variant, "a tower that ends in an attention pool", "Use maskclip, sclip or naclip")


def embeddings(visual: TimmModel, images: Tensor, variant: Variant) -> Tensor:
    """Return embeddings [B,D,h,w], not normalized, of images [B,3,H,W]."""
    trunk = visual.trunk
    x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images))))
    *earlier, last = trunk.blocks
    for block in earlier:
        x = block(x)
    grid = trunk.patch_embed.dynamic_feat_size((images.shape[-2], images.shape[-1]))
    pooled = trunk.attn_pool is not None
    x = last(x) if pooled and variant.attend is None else _last(last, x, grid, variant)
    tokens = trunk.norm(x)[:, trunk.num_prefix_tokens :]
    if pooled:
        tokens = _values(trunk.attn_pool, tokens)
    return grid_of(visual.head(trunk.head(trunk.fc_norm(tokens))), grid)


def _last(block: Block, x: Tensor, grid: Size, variant: Variant) -> Tensor:
    attn, tokens = block.attn, block.norm1(x)
    q, k, v = (heads_of(part, attn.num_heads) for part in attn.qkv(tokens).chunk(3, -1))
    y = attn.norm(mixed(variant, attn.q_norm(q), attn.k_norm(k), v, grid))
    if attn.gate is not None:
        y = y * attn.gate(tokens).sigmoid()
    y = block.ls1(attn.proj(y))
    if not variant.residual:
        values: Tensor = y
        return values
    x = x + y
    whole: Tensor = x + block.ls2(block.mlp(block.norm2(x)))
    return whole


def _values(pool: AttentionPoolLatent, tokens: Tensor) -> Tensor:
    """Return what the pool would return for one token alone, [B,N,C] for tokens [B,N,C]."""
    y: Tensor = pool.proj(pool.kv(tokens).chunk(2, -1)[1])
    return y if pool.mlp is None else y + pool.mlp(pool.norm(y))
