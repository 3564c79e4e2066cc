"""A student's image tower as a model of timm: its architecture, arguments and weights (timm 1.0.31).

OpenCLIP's ViTs and ResNets are converted by timm's own filters for OpenAI's weights. Towers that OpenCLIP takes from
timm keep their names; a linear projection becomes the classifier.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import save_file
from timm.models import byobnet, vision_transformer
from torch import Tensor, nn

from clipzoo import files
from clipzoo.export.base import refused
from clipzoo.models import ModelConfig, Student

Convert = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]
"""Function of timm: state of OpenCLIP, model of timm -> state of that model."""

RESNETS = {
    (3, 4, 6, 3): "resnet50_clip", (3, 4, 23, 3): "resnet101_clip", (4, 6, 10, 6): "resnet50x4_clip",
    (6, 8, 18, 8): "resnet50x16_clip", (3, 15, 36, 10): "resnet50x64_clip",
}  # fmt: skip
"""Blocks per stage -> timm's name. Other depths cannot be written as arguments of timm's models."""

NORMS: dict[float, dict[str, object]] = {1e-5: {}, 1e-6: {"norm_layer": "layernorm"}}
"""``eps`` of the norms of a ViT -> arguments of timm, whose CLIPs have 1e-5 and whose ``layernorm`` has 1e-6."""

CROPS = {"squash": "squash", "shortest": "center", "longest": "border"}
"""OpenCLIP's ``resize_mode`` -> timm's ``crop_mode``."""


@dataclass(frozen=True)
class Tower:
    """A model of timm that gives a student's image embeddings.

    Attributes:
        model: with the weights.
        architecture: its name in timm.
        arguments: further arguments of ``timm.create_model``.
    """

    model: nn.Module
    architecture: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """The number of outputs of the classifier; 0 if the pooled features are the embeddings."""
        return int(self.model.num_classes)  # type: ignore[arg-type]


def tower_of(student: Student, target: str) -> Tower:
    """Return the image tower as a model of timm.

    Raises:
        CheckpointError: timm has no such model; ``target`` is named.
    """
    visual = student.clip.visual
    if isinstance(visual, VisionTransformer):
        return _vit(student, visual, target)
    if isinstance(visual, ModifiedResNet):
        return _resnet(student, visual, target)
    if isinstance(visual, TimmModel):
        return _of_timm(student, visual, target)
    raise refused(target, f"its image tower is OpenCLIP's {type(visual).__name__}, and timm has no such model")


def check_vit(visual: VisionTransformer, target: str) -> None:
    """Raise `CheckpointError` unless a ViT is one of OpenAI's architecture."""
    reasons = {
        "it pools by attention": visual.attn_pool is not None,
        f"it pools with {visual.pool_type!r} instead of the class token": visual.pool_type != "tok",
        "it has no norm before the transformer": isinstance(visual.ln_pre, nn.Identity),
        "it has no projection": visual.proj is None,
        **_block_reasons(visual.transformer),
    }
    if found := [reason for reason, is_so in reasons.items() if is_so]:
        raise refused(target, f"its image tower is not OpenAI's ViT: {found[0]}")


def _block_reasons(transformer: nn.Module) -> dict[str, bool]:
    block = cast(nn.ModuleList, transformer.resblocks)[0]
    norm = cast(nn.LayerNorm, block.ln_1)
    return {
        f"its blocks are {type(block).__name__}": type(block).__name__ != "ResidualAttentionBlock",
        "its blocks have layer scale": not isinstance(getattr(block, "ls_1", nn.Identity()), nn.Identity),
        "its norms have no weight or bias": norm.weight is None or norm.bias is None,
    }


def check_blocks(transformer: nn.Module, target: str) -> None:
    """Raise `CheckpointError` unless the blocks of a text transformer are OpenAI's."""
    if found := [reason for reason, is_so in _block_reasons(transformer).items() if is_so]:
        raise refused(target, f"its text tower is not OpenAI's transformer: {found[0]}")


def activation(block: nn.Module, names: tuple[str, str, str]) -> str:
    """Return the name of a block's activation out of ``names`` of QuickGELU, GELU and GELU's tanh approximation."""
    gelu = cast(nn.Module, block.mlp).gelu
    if isinstance(gelu, QuickGELU):
        return names[0]
    return names[2] if getattr(gelu, "approximate", "none") == "tanh" else names[1]


def _vit(student: Student, visual: VisionTransformer, target: str) -> Tower:
    check_vit(visual, target)
    if (eps := visual.ln_post.eps) not in NORMS:
        raise refused(target, f"the norms of its image tower have an eps of {eps:g}, and timm's 1e-05 or 1e-06")
    block = visual.transformer.resblocks[0]
    arguments = {
        "img_size": list(student.image_size),
        "patch_size": list(visual.patch_size),
        "embed_dim": visual.conv1.out_channels,
        "depth": len(visual.transformer.resblocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": _ratio(block.mlp.c_fc),
        "act_layer": activation(block, ("quick_gelu", "gelu", "gelu_tanh")),
        **NORMS[eps],
    }
    return _filled("vit_base_patch16_clip_224", arguments, visual, vision_transformer.checkpoint_filter_fn, target)


def _ratio(layer: nn.Linear) -> float:
    """Return the ``mlp_ratio`` that timm, which truncates, multiplies to the width of an MLP."""
    width, hidden = layer.in_features, layer.out_features
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _resnet(student: Student, visual: ModifiedResNet, target: str) -> Tower:
    depths = tuple(len(stage) for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4))
    pool, width = visual.attnpool, visual.conv3.out_channels
    if depths not in RESNETS:
        known = ", ".join("-".join(map(str, one)) for one in RESNETS)
        raise refused(
            target, f"its image tower is a ResNet of {'-'.join(map(str, depths))} blocks, and timm has only {known}"
        )
    name = RESNETS[depths]
    stem = byobnet.model_cfgs[name].stem_chs[-1]
    if pool.k_proj.in_features // pool.num_heads != 64:
        raise refused(target, f"its attention pool has {pool.num_heads} heads, and timm's have 64 channels each")
    arguments = {"img_size": list(student.image_size), "width_factor": width / stem}
    return _filled(name, arguments, visual, byobnet.checkpoint_filter_fn, target)


def _filled(name: str, arguments: dict[str, object], visual: nn.Module, convert: Convert, target: str) -> Tower:
    """Return a model with the weights of one of OpenCLIP's towers."""
    classes = visual.output_dim
    model = timm.create_model(name, num_classes=classes, **arguments)
    state = convert({f"visual.{key}": value for key, value in visual.state_dict().items()}, model)
    return _loaded(model, state, name, arguments, target)


def _loaded(
    model: nn.Module, state: Mapping[str, Tensor], name: str, arguments: dict[str, object], target: str
) -> Tower:
    own = model.state_dict()
    if own.keys() != state.keys() or any(own[key].shape != state[key].shape for key in own):
        raise refused(target, f"timm's {name} has other tensors than the tower that OpenCLIP made")
    model.load_state_dict(state)
    return Tower(model.eval(), name, arguments)


def _of_timm(student: Student, visual: TimmModel, target: str) -> Tower:
    name = student.config["vision_cfg"]["timm_model_name"]
    layers = list(visual.head)
    if ":" in name:
        raise refused(target, f"its image tower is {name}, and only models of timm itself are exported")
    projection = next((layer for layer in layers if isinstance(layer, nn.Linear)), None)
    if others := [type(layer).__name__ for layer in layers if not isinstance(layer, nn.Linear | nn.Dropout)]:
        raise refused(
            target, f"OpenCLIP adds {' and '.join(others)} to its image tower, and timm's {name} has no such layer"
        )
    trunk = visual.trunk
    classes = projection.out_features if projection is not None else int(trunk.num_classes)
    arguments = _arguments(student.config, trunk)
    size, grid = [*student.image_size], arguments.get("img_size")
    if grid not in (None, size):
        raise refused(target, f"its image tower has positions for {grid} pixels, and its images have {size}")
    model = timm.create_model(name, num_classes=classes, **arguments)
    state = dict(trunk.state_dict())
    if projection is not None:
        classifier = model.pretrained_cfg["classifier"]
        bias = projection.bias if projection.bias is not None else torch.zeros(classes)
        state |= {f"{classifier}.weight": projection.weight, f"{classifier}.bias": bias}
    return _loaded(model, state, name, arguments, target)


def _arguments(config: ModelConfig, trunk: nn.Module) -> dict[str, object]:
    """Return the arguments of a trunk that differ from those of its name: image size and pooling."""
    arguments: dict[str, object] = {}
    if (size := getattr(getattr(trunk, "patch_embed", None), "img_size", None)) is not None:
        arguments["img_size"] = list(size)
    if pool := config["vision_cfg"].get("timm_pool", "avg"):
        arguments["global_pool"] = pool
    return arguments


def write_tower(tower: Tower, student: Student, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` as timm and transformers read them."""
    own = cast(Mapping[str, object], tower.model.pretrained_cfg)
    preprocess = student.preprocess_cfg
    described = {
        "architecture": tower.architecture,
        "num_classes": tower.classes,
        "num_features": tower.model.num_features,
        "model_args": tower.arguments,
        "pretrained_cfg": {
            "tag": "clipzoo",
            "custom_load": False,
            "input_size": [3, *student.image_size],
            "fixed_input_size": own.get("fixed_input_size", False),
            "interpolation": "bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
            "crop_pct": 1.0,
            "crop_mode": CROPS[preprocess["resize_mode"]],
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "num_classes": tower.classes,
            "pool_size": None,
            "first_conv": own.get("first_conv"),
            "classifier": own.get("classifier"),
        },
    }
    files.write(folder / "config.json", (json.dumps(described, indent=2) + "\n").encode())
    write_tensors(folder / "model.safetensors", tower.model.state_dict())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors with the marker that transformers requires."""
    state = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    with files.atomic(path) as beside:
        save_file(state, beside, metadata={"format": "pt"})
