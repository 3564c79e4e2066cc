"""``hf:FOLDER``: a CLIP or SigLIP that transformers saved, converted to the OpenCLIP model of the same architecture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from clipzoo import files
from clipzoo.errors import CheckpointError, brief
from clipzoo.model_schemes import SOURCE
from clipzoo.model_schemes._transformers import normalization, preprocessing, tokenizer_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import (
        CLIPConfig,
        CLIPTextConfig,
        CLIPVisionConfig,
        PreTrainedConfig,
        PreTrainedModel,
        SiglipConfig,
    )

__all__ = ["normalization", "resolve", "tokenizer_of"]

Values = dict[str, object]

SHOWN = 3
"""Number of tensors that a message names."""

LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
BLOCK = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
TIMM_BLOCK = {
    "layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # fmt: skip
"""Modules of transformers' blocks -> those of OpenCLIP and of timm."""

CLIP_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
}
SIGLIP_NAMES = {
    "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp": "visual.trunk.attn_pool.mlp",
}
"""Beginnings of names in transformers (5.24) -> those of OpenCLIP (3.3)."""

TOWERS = {
    (768, 12, 12, 16): "vit_base_patch16_siglip_224",
    (768, 12, 12, 32): "vit_base_patch32_siglip_256",
    (1024, 24, 16, 16): "vit_large_patch16_siglip_256",
    (1152, 27, 16, 14): "vit_so400m_patch14_siglip_224",
    (1152, 27, 16, 16): "vit_so400m_patch16_siglip_256",
    (1536, 40, 16, 16): "vit_giantopt_patch16_siglip_256",
}
"""Width, depth, heads and patch size of SigLIP's image towers -> timm's name, which ends with the image size."""

WEIGHTS, INDEX = ("model.safetensors", "pytorch_model.bin"), ".index.json"
"""Files of transformers with weights, the preferred one first, and the ending of a list of several files."""

_KEPT: list[TemporaryDirectory[str]] = []
"""Converted folders, which are deleted when the process ends."""


def resolve(model: str) -> str:
    """Return the OpenCLIP folder of ``hf:FOLDER``, as ``local-dir:PATH``; it is converted once per process.

    Raises:
        CheckpointError: the folder is not a CLIP or SigLIP that OpenCLIP has.
    """
    folder = Path(model.partition(":")[2]).expanduser()
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{model}: {folder} is not a folder with a config.json. Download a model of the Hugging Face Hub first: "
            f"hf download ORG/NAME --local-dir {folder}"
        )
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return f"local-dir:{_converted(folder.resolve(), tuple((f.name, f.stat().st_mtime_ns) for f in files))}"


@cache
def _converted(folder: Path, state: tuple[tuple[str, int], ...]) -> Path:
    """Return a new folder with the converted model; ``state`` has the times of its files."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    try:  # not by AutoConfig, which asks whether to run the code of other models
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        clip = CLIPConfig.from_pretrained(folder) if kind == "clip" else None
        siglip = SiglipConfig.from_pretrained(folder) if kind == "siglip" else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read ({brief(error)}). Download it again") from error
    if clip:
        model, names = _clip(folder, clip), CLIP_NAMES
        tensors = _read(folder, CLIPModel, clip)
    elif siglip:
        model, names = _siglip(folder, siglip), SIGLIP_NAMES
        tensors = _read(folder, SiglipModel, siglip)
    else:
        raise _refused(folder, f"its model_type is {kind!r}, not clip or siglip")
    described = {"model_cfg": model, "preprocess_cfg": preprocessing(folder, kind)}
    tokenizer = tokenizer_of(str(folder), f"hf:{folder}")
    _KEPT.append(TemporaryDirectory(prefix="clipzoo-hf-"))
    out = Path(_KEPT[-1].name)
    tokenizer.save_pretrained(out)
    converted = {name: value.contiguous() for name, value in _renamed(tensors, names)}
    save_file(converted, out / "open_clip_model.safetensors")
    files.write(out / "open_clip_config.json", json.dumps(described, indent=2).encode())
    files.write(out / SOURCE, f"hf:{folder}".encode())
    return out


def _read(folder: Path, kind: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, Tensor]:
    """Return the tensors of a folder; raise `CheckpointError` unless they are those of its configuration."""
    import torch

    state = _saved(folder)
    try:
        with torch.device("meta"):
            expected = kind(config).state_dict()
    except (ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder}/config.json describes no model ({brief(error)}). Download it again") from error
    state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    _check_tensors(folder, expected, state)
    return state


def _saved(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of ``model.safetensors``, else of ``pytorch_model.bin``, in one or several files."""
    import torch
    from safetensors.torch import load_file

    name = next((one for one in WEIGHTS if any((folder / f"{one}{end}").is_file() for end in ("", INDEX))), WEIGHTS[0])
    try:
        parts, index = {name}, folder / f"{name}{INDEX}"
        if index.is_file():
            parts = {Path(part).name for part in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        state: dict[str, Tensor] = {}
        for path in (folder / part for part in sorted(parts)):
            safe = name == WEIGHTS[0]
            state |= load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a damaged file, or one with code
        raise CheckpointError(
            f"{folder} has no readable {' or '.join(WEIGHTS)} ({brief(error)}). Download it again, or save the model "
            "with save_pretrained of transformers"
        ) from error
    return {key: value for key, value in state.items() if torch.is_tensor(value)}


def _check_tensors(folder: Path, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    different = {
        "missing": expected.keys() - state.keys() - {name for name in expected if name.endswith("position_ids")},
        "unknown": state.keys() - expected.keys(),
        "of another shape": {
            name
            for name in expected.keys() & state.keys()
            if expected[name].shape != state[name].shape and expected[name].numel() + state[name].numel() > 2
        },
    }
    found = [f"{len(names)} {how} ({_several(names)})" for how, names in different.items() if names]
    if found:
        raise CheckpointError(
            f"{folder} cannot be converted to OpenCLIP: its tensors are not those of its config.json: "
            f"{'; '.join(found)}. Save the whole model with save_pretrained of transformers, adapters merged into it"
        )


def _several(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:SHOWN]) + (f", and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


# Configurations --------------------------------------------------------------------------------------------


def _clip(folder: Path, config: CLIPConfig) -> Values:
    vision, text = config.vision_config, config.text_config
    acts = {vision.hidden_act, text.hidden_act}
    if len(acts) > 1 or not acts <= {"quick_gelu", "gelu"}:
        raise _refused(folder, f"its activations are {', '.join(sorted(acts))}, and OpenCLIP has one of both towers")
    pooled: Values = {}
    if text.eos_token_id not in (2, text.vocab_size - 1):  # 2 means the highest id in transformers
        pooled = {"pool_type": "eos", "eos_id": text.eos_token_id}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": acts == {"quick_gelu"},
        "vision_cfg": {
            **_transformer(vision), "image_size": vision.image_size, "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
        },
        "text_cfg": {**_text(text), **pooled},
    }  # fmt: skip


def _siglip(folder: Path, config: SiglipConfig) -> Values:
    vision, text = config.vision_config, config.text_config
    shape = (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.patch_size)
    if shape not in TOWERS:
        raise _refused(
            folder, "timm has no SigLIP tower of width {}, depth {}, {} heads and patches of {} pixels".format(*shape)
        )
    tanh = {"act_kwargs": {"approximate": "tanh"}} if text.hidden_act == "gelu_pytorch_tanh" else {}
    return {
        "embed_dim": text.projection_size,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": _tower(shape, vision.image_size), "timm_pool": "map", "timm_proj": "none",
            "image_size": vision.image_size,
        },
        "text_cfg": {
            **_text(text), **tanh, "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True,
            "proj_bias": True, "pool_type": "last",
        },
    }  # fmt: skip


def _tower(shape: tuple[int, int, int, int], size: int) -> str:
    """Return timm's name of a tower, that of the image size if there is one: OpenCLIP makes a tower at its own size."""
    import timm

    sized = f"{TOWERS[shape].rpartition('_')[0]}_{size}"
    return sized if timm.is_model(sized) else TOWERS[shape]


def _text(text: CLIPTextConfig) -> Values:
    return {
        **_transformer(text), "heads": text.num_attention_heads, "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size, "hf_tokenizer_name": "tokenizer of this folder", "tokenizer_kwargs": {},
    }  # fmt: skip


def _transformer(config: CLIPTextConfig | CLIPVisionConfig) -> Values:
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "norm_kwargs": {"eps": config.layer_norm_eps},
    }


# Tensors ---------------------------------------------------------------------------------------------------


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under OpenCLIP's names; queries, keys and values are one tensor there, or queries apart."""
    import torch

    siglip = names is SIGLIP_NAMES
    for name, value in state.items():
        tower, _, rest = name.partition(".")
        if match := LAYER.fullmatch(rest):
            yield from _of_block(tower, match, state, name, siglip)
        elif name in ("text_projection.weight", "visual_projection.weight"):
            yield ("text_projection" if name.startswith("text") else "visual.proj"), value.T
        elif name in ("logit_scale", "logit_bias"):
            yield name, value.reshape(())
        elif match := re.fullmatch(r"vision_model\.head\.attention\.in_proj_(weight|bias)", name):
            width = len(value) // 3
            yield f"visual.trunk.attn_pool.q.{match[1]}", value[:width]
            yield f"visual.trunk.attn_pool.kv.{match[1]}", value[width:]
        else:
            known = next((start for start in names if name == start or name.startswith(f"{start}.")), None)
            new = name if known is None else names[known] + name.removeprefix(known)
            yield new, torch.unsqueeze(value, 0) if new == "visual.trunk.pos_embed" else value


def _of_block(
    tower: str, match: re.Match[str], state: Mapping[str, Tensor], name: str, siglip: bool
) -> Iterator[tuple[str, Tensor]]:
    import torch

    number, module, kind = match.groups()
    timm = siglip and tower == "vision_model"
    prefix = {"text_model": "text." if siglip else "", "vision_model": "visual.trunk." if siglip else "visual."}[tower]
    block = f"{prefix}blocks.{number}" if timm else f"{prefix}transformer.resblocks.{number}"
    if module == "self_attn.q_proj":
        parts = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
        yield f"{block}.attn.{f'qkv.{kind}' if timm else f'in_proj_{kind}'}", torch.cat(parts)
    elif module not in ("self_attn.k_proj", "self_attn.v_proj"):
        yield f"{block}.{(TIMM_BLOCK if timm else BLOCK)[module]}.{kind}", state[name]


def _refused(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be converted to OpenCLIP: {reason}. Use a CLIP or SigLIP of OpenAI's or Google's "
        "architecture, or weights in OpenCLIP's format"
    )
