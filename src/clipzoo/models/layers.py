"""The layers of a student's towers by parameter name, shallow to deep: for locking and layer-wise learning rates."""

from __future__ import annotations

import re
from collections.abc import Callable

from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.models import group_parameters
from torch import nn

from clipzoo.errors import RecipeError
from clipzoo.models.student import Student

Place = tuple[int, ...]
"""Order of a layer in its tower; parameters of one layer have equal places."""

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_STEMS = ("conv1.", "class_embedding", "ln_pre.", "positional_embedding", "token_embedding", "cls_emb")
_TEXT = ("token_embedding", "positional_embedding", "cls_emb", "transformer", "ln_final", "text_projection")
"""Attributes of ``open_clip.CLIP`` that are its text tower (3.3.0)."""

UNKNOWN = (
    "the layers of a tower of type {} are not known, so that it has one learning rate and can be locked only as a "
    "whole. Set training.layer_decay: 1, and training.unlocked_image_layers and unlocked_text_layers to 0 or null"
)


def depths(student: Student, part: str) -> dict[str, int]:
    """Return parameter of a tower -> depth of its layer, counted from 0.

    OpenCLIP's transformers have the layers that its ``lock`` and ``lock_text_tower`` count: embeddings, each block (the
    final norm and a pooling belong to the last one), projection. ResNets have stem, four stages and pooling; timm's
    towers the groups of their ``group_matcher``; Hugging Face's text towers embeddings and each block.

    Args:
        student: its parameters' names are the keys. ``logit_scale`` and ``logit_bias`` belong to no layer.
        part: ``image`` or ``text``.

    Raises:
        RecipeError: the layers of such a tower are not known.
    """
    clip = student.clip
    if part == "image":
        return _ranked(clip.visual, "clip.visual.")
    if hasattr(clip, "text"):
        return _ranked(clip.text, "clip.text.")
    named = [name for name, _ in clip.named_parameters() if name.startswith(_TEXT)]
    return _numbered({f"clip.{name}": _transformer(name, len(clip.transformer.resblocks)) for name in named})


def _ranked(tower: nn.Module, prefix: str) -> dict[str, int]:
    """Return the depth of each parameter of a tower that is a module; ``prefix`` leads to it."""
    place = _places(tower)
    return _numbered({f"{prefix}{name}": place(name) for name, _ in tower.named_parameters()})


def _numbered(places: dict[str, Place]) -> dict[str, int]:
    depth = {place: number for number, place in enumerate(sorted(set(places.values())))}
    return {name: depth[place] for name, place in places.items()}


def _places(tower: object) -> Callable[[str], Place]:
    """Return the function from a parameter's name to the place of its layer."""
    if isinstance(tower, VisionTransformer | TextTransformer):
        blocks = len(tower.transformer.resblocks)
        return lambda name: _transformer(name, blocks)
    if isinstance(tower, ModifiedResNet):
        return _resnet
    if isinstance(tower, TimmModel) and hasattr(tower.trunk, "group_matcher"):
        groups: dict[str, int] = group_parameters(tower.trunk, tower.trunk.group_matcher(), reverse=True)
        last = max(groups.values())  # the projection belongs to the last group
        return lambda name: (groups.get(name.removeprefix("trunk."), last),)
    if isinstance(tower, HFTextEncoder):
        return _hugging_face(tower)
    raise RecipeError(UNKNOWN.format(type(tower).__name__))


def _transformer(name: str, blocks: int) -> Place:
    if block := _BLOCK.match(name):
        return (1, int(block[1]))
    if name.startswith(_STEMS):
        return (0,)
    return (2,) if name.startswith(("proj", "text_projection")) else (1, blocks - 1)


def _resnet(name: str) -> Place:
    stage = re.match(r"layer(\d)\.", name)
    return (int(stage[1]),) if stage else (5,) if name.startswith("attnpool.") else (0,)


def _hugging_face(tower: HFTextEncoder) -> Callable[[str], Place]:
    """Embeddings are the first layer; pooling and projection belong to the last block, as for OpenCLIP's ``lock``."""
    encoder = getattr(tower.transformer, "encoder", tower.transformer)
    names = arch_dict[tower.config.model_type]["config_names"]  # that of BERT names neither
    blocks = getattr(encoder, names.get("layer_attr", "layer"), None)
    embeddings = getattr(tower.transformer, names.get("token_embeddings_attr", "embeddings"), None)
    if blocks is None or embeddings is None:
        raise RecipeError(UNKNOWN.format(f"{type(tower).__name__} ({tower.config.model_type})"))
    places: dict[int, Place] = {id(p): (1, number) for number, block in enumerate(blocks) for p in block.parameters()}
    places |= {id(p): (0,) for p in embeddings.parameters()}
    by_name = {name: places.get(id(p), (1, len(blocks) - 1)) for name, p in tower.named_parameters()}
    return by_name.__getitem__
