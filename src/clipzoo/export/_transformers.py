"""A student's towers as models of transformers (5.24): OpenAI's architecture as CLIP, SigLIP's as Siglip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from open_clip import CLIP
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)

from clipzoo.export._timm_tower import activation, check_blocks, check_vit
from clipzoo.export.base import refused
from clipzoo.models import Student

TextTower: TypeAlias = CLIP | TextTransformer

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
"""Names of QuickGELU, GELU, and GELU's tanh approximation."""

HIGHEST = 2
"""With this ``eos_token_id``, CLIPTextModel pools at the highest token id, as OpenCLIP does (modeling_clip.py)."""

BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
"""Modules of OpenCLIP's blocks -> those of transformers."""

TIMM_BLOCK = {
    "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # fmt: skip


def whole_model(student: Student, tokens: dict[str, int | None]) -> PreTrainedModel | None:
    """Return a model with both towers; None if transformers has no class for the two together.

    Args:
        student: to convert.
        tokens: ``bos_token_id``, ``eos_token_id`` and ``pad_token_id`` of its tokenizer.
    """
    if isinstance(student.clip.visual, VisionTransformer):
        return _clip(student, tokens)
    if _is_siglip(student):
        return _siglip(student, tokens)
    return None


def text_model(student: Student, tokens: dict[str, int | None]) -> PreTrainedModel:
    """Return the text tower as `CLIPTextModelWithProjection`.

    Raises:
        CheckpointError: it has another architecture.
    """
    text = text_tower(student)
    model = CLIPTextModelWithProjection(_text_config(student, tokens))
    state = {f"text_model.{name}": value for name, value in _text_state(text)}
    model.load_state_dict({**state, "text_projection.weight": text.text_projection.T})
    return model.eval()


def text_tower(student: Student) -> TextTower:
    """Return the module with OpenCLIP's text transformer: the model itself, or its ``text`` if it is custom."""
    return getattr(student.clip, "text", student.clip)


def _text_config(student: Student, tokens: dict[str, int | None]) -> CLIPTextConfig:
    text = text_tower(student)
    if not hasattr(text, "transformer") or not hasattr(text.transformer, "resblocks"):
        raise refused("hf", f"its text tower is {type(text).__name__}, not a transformer of OpenCLIP")
    check_blocks(text.transformer, "hf")
    pool = getattr(text, "pool_type", None) or text.text_pool_type
    reasons = {
        "it has no causal mask": text.attn_mask is None,
        f"it pools with {pool!r}": pool not in ("argmax", "eos"),
        "it has a class token": getattr(text, "cls_emb", None) is not None,
        "its projection is missing or has a bias": not isinstance(text.text_projection, Tensor),
    }
    if found := [reason for reason, is_so in reasons.items() if is_so]:
        raise refused("hf", f"its text tower is not OpenAI's transformer: {found[0]}")
    eos = _end(text, pool, tokens["eos_token_id"])
    block = text.transformer.resblocks[0]
    return CLIPTextConfig(
        vocab_size=text.token_embedding.num_embeddings,
        hidden_size=text.token_embedding.embedding_dim,
        intermediate_size=block.mlp.c_fc.out_features,
        projection_dim=text.text_projection.shape[1],
        num_hidden_layers=len(text.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        max_position_embeddings=text.positional_embedding.shape[0],
        hidden_act=activation(block, ACTIVATIONS),
        layer_norm_eps=text.ln_final.eps,
        **{**tokens, "eos_token_id": eos},
    )


def _end(text: TextTower, pool: str, eos: int | None) -> int:
    """Return the ``eos_token_id`` with which CLIPTextModel pools at the same token as OpenCLIP."""
    if pool == "argmax":
        highest: int = text.token_embedding.num_embeddings - 1
        return highest if eos == highest else HIGHEST
    own = int(getattr(text, "eos_id", None) or text.text_eos_id)
    if own == HIGHEST:
        raise refused("hf", f"its texts end with the token {HIGHEST}, at which CLIPTextModel pools differently")
    return own


def _clip(student: Student, tokens: dict[str, int | None]) -> PreTrainedModel:
    visual, text = student.clip.visual, text_tower(student)
    check_vit(visual, "hf")
    height, width = student.image_size
    if height != width:
        raise refused("hf", f"its images are {height}×{width}, and CLIPModel has square ones", "Export with --to timm")
    if len({*visual.patch_size}) > 1:
        patch = "×".join(map(str, visual.patch_size))
        raise refused("hf", f"its patches are {patch}, and CLIPModel has square ones", "Export with --to timm")
    block = visual.transformer.resblocks[0]
    vision = CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=block.mlp.c_fc.out_features,
        projection_dim=visual.proj.shape[1],
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=height,
        patch_size=visual.patch_size[0],
        hidden_act=activation(block, ACTIVATIONS),
        layer_norm_eps=visual.ln_post.eps,
    )
    config = CLIPConfig(
        text_config=_text_config(student, tokens).to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=visual.proj.shape[1],
    )
    model = CLIPModel(config)
    state = {f"text_model.{name}": value for name, value in _text_state(text)}
    state |= {f"vision_model.{name}": value for name, value in _vision_state(visual)}
    state |= {
        "text_projection.weight": text.text_projection.T,
        "visual_projection.weight": visual.proj.T,
        "logit_scale": student.clip.logit_scale.reshape(()),
    }
    model.load_state_dict(state)
    return model.eval()


def _text_state(text: TextTower) -> Iterator[tuple[str, Tensor]]:
    yield "embeddings.token_embedding.weight", text.token_embedding.weight
    yield "embeddings.position_embedding.weight", text.positional_embedding
    yield from _norm("final_layer_norm", text.ln_final)
    yield from _blocks(text.transformer.resblocks)


def _vision_state(visual: VisionTransformer) -> Iterator[tuple[str, Tensor]]:
    yield "embeddings.class_embedding", visual.class_embedding
    yield "embeddings.patch_embedding.weight", visual.conv1.weight
    yield "embeddings.position_embedding.weight", visual.positional_embedding
    yield from _norm("pre_layrnorm", visual.ln_pre)
    yield from _norm("post_layernorm", visual.ln_post)
    yield from _blocks(visual.transformer.resblocks)


def _norm(name: str, norm: nn.LayerNorm) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", norm.weight
    yield f"{name}.bias", norm.bias


def _blocks(
    blocks: Iterable[nn.Module], names: dict[str, str] = BLOCK, qkv: str = "attn.in_proj_"
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of blocks; queries, keys and values are one tensor in OpenCLIP and timm."""
    for number, block in enumerate(blocks):
        for key, value in block.state_dict().items():
            module, _, kind = key.rpartition(".")
            if key.startswith(qkv):
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    yield f"encoder.layers.{number}.self_attn.{letter}_proj.{key.removeprefix(qkv)}", part
            else:
                yield f"encoder.layers.{number}.{names[module]}.{kind}", value


# SigLIP ----------------------------------------------------------------------------------------------------


def _is_siglip(student: Student) -> bool:
    visual, text = student.clip.visual, text_tower(student)
    trunk = getattr(visual, "trunk", None)
    return (
        isinstance(visual, TimmModel)
        and isinstance(trunk, TimmVisionTransformer)
        and _is_plain(trunk.attn_pool)
        and trunk.cls_token is None
        and trunk.reg_token is None
        and isinstance(trunk.norm_pre, nn.Identity)
        and trunk.num_classes == 0
        and not list(visual.head)
        and getattr(text, "pool_type", "") == "last"
        and text.attn_mask is None
        and isinstance(text.text_projection, nn.Linear)
        and student.image_size[0] == student.image_size[1]
        and len({*trunk.patch_embed.patch_size}) == 1
    )


def _is_plain(pool: object) -> bool:
    """Return True for an attention pool as SigLIP has it: one learned query, without positions and norms inside."""
    return (
        isinstance(pool, AttentionPoolLatent)
        and pool.latent_len == 1
        and pool.pos_embed is None
        and isinstance(pool.q, nn.Linear)
        and isinstance(pool.q_norm, nn.Identity)
        and isinstance(pool.proj, nn.Linear)
    )


def _siglip(student: Student, tokens: dict[str, int | None]) -> PreTrainedModel:
    trunk, text = student.clip.visual.trunk, text_tower(student)
    check_blocks(text.transformer, "hf")
    if isinstance(student.tokenizer, SimpleTokenizer):
        raise refused(
            "hf",
            "its text tower reads padding, which OpenAI's tokenizer writes as token 0 in OpenCLIP and as another token "
            "in transformers",
        )
    block, layer = text.transformer.resblocks[0], trunk.blocks[0]
    text_config = {
        "vocab_size": text.token_embedding.num_embeddings,
        "hidden_size": text.token_embedding.embedding_dim,
        "intermediate_size": block.mlp.c_fc.out_features,
        "projection_size": text.text_projection.out_features,
        "num_hidden_layers": len(text.transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "max_position_embeddings": text.positional_embedding.shape[0],
        "hidden_act": activation(block, ACTIVATIONS),
        "layer_norm_eps": text.ln_final.eps,
        **tokens,
    }
    vision_config = {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": layer.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": layer.attn.num_heads,
        "image_size": student.image_size[0],
        "patch_size": trunk.patch_embed.patch_size[0],
        "hidden_act": "gelu_pytorch_tanh" if _is_tanh(layer.mlp.act) else "gelu",
        "layer_norm_eps": trunk.norm.eps,
    }
    model = SiglipModel(SiglipConfig(text_config=text_config, vision_config=vision_config))
    state = {f"text_model.{name}": value for name, value in _text_state(text)}
    state |= {f"text_model.head.{name}": value for name, value in text.text_projection.state_dict().items()}
    state |= {f"vision_model.{name}": value for name, value in _siglip_vision_state(trunk)}
    bias = student.clip.logit_bias
    state |= {
        "logit_scale": student.clip.logit_scale.reshape(1),
        "logit_bias": torch.zeros(1) if bias is None else bias.reshape(1),
    }
    model.load_state_dict(state)
    return model.eval()


def _is_tanh(layer: nn.Module) -> bool:
    return getattr(layer, "approximate", "none") == "tanh" or type(layer).__name__ == "GELUTanh"


def _siglip_vision_state(trunk: TimmVisionTransformer) -> Iterator[tuple[str, Tensor]]:
    yield "embeddings.patch_embedding.weight", trunk.patch_embed.proj.weight
    yield "embeddings.patch_embedding.bias", trunk.patch_embed.proj.bias
    yield "embeddings.position_embedding.weight", trunk.pos_embed[0]
    yield from _norm("post_layernorm", trunk.norm)
    yield from _blocks(trunk.blocks, TIMM_BLOCK, "attn.qkv.")
    pool = trunk.attn_pool
    yield "head.probe", pool.latent
    for kind in ("weight", "bias"):
        yield f"head.attention.in_proj_{kind}", torch.cat([getattr(pool.q, kind), getattr(pool.kv, kind)])
        yield f"head.attention.out_proj.{kind}", getattr(pool.proj, kind)
    yield from _norm("head.layernorm", pool.norm)
    for key, value in pool.mlp.state_dict().items():
        if re.match(r"fc[12]\.", key):
            yield f"head.mlp.{key}", value
