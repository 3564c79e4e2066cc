"""Weights of others: read without running anything in them, named as OpenCLIP names them, held against the model."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clipzoo.errors import CheckpointError, brief

INSIDE = ("state_dict", "model_state_dict", "model", "module")
"""Under which of their keys trainers keep the weights, beside the optimizer and the step."""
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^(?:module\.)+")
"""Parts of a name that torch.compile, FSDP, activation checkpointing and DistributedDataParallel put in."""
WHOLE = ("module.", "model.", "clip.")
"""What every name begins with where the CLIP is an attribute of a trainer's module."""
SIZES = ("input_resolution", "context_length", "vocab_size")
"""Of OpenAI's files; no weights."""
HUGGING_FACE = ("vision_model.", "text_model.")
SHOWN = 3
"""Names of each kind of difference that a message has."""
FAILS = (RuntimeError, OSError, LookupError, TypeError, ValueError, AttributeError, AssertionError, ImportError)
"""What code raises that is given another model's tensors, or a configuration of others."""


def fit(model: nn.Module, path: Path, name: str) -> None:
    """Load the weights of a file into an OpenCLIP model.

    Args:
        model: changed in place; nothing of it is, if the file does not fit.
        path: safetensors; a checkpoint of torch, read with ``weights_only=True``; or big_vision's ``.npz``.
        name: of the model, for messages.

    Raises:
        CheckpointError: the file is damaged, no checkpoint, or of another architecture; the message says how.
    """
    if path.suffix in (".npz", ".npy"):
        try:
            load_big_vision_weights(model, str(path))
        except FAILS as error:
            raise CheckpointError(f"{path} has no weights of {name} in big_vision's form: {brief(error)}") from error
        return
    state = _renamed(model, read(path))
    if wrong := _differences(model.state_dict(), state):
        raise CheckpointError(f"{path} does not fit {name}: {wrong}")
    model.load_state_dict(state)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without what trainers and wrappers put around them.

    Raises:
        CheckpointError: damaged, or no checkpoint.
    """
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({brief(error)}): it is damaged; fetch or copy it again"
        ) from error
    except Exception as error:  # torch raises many kinds on a damaged file
        raise CheckpointError(_unreadable(path, error)) from error
    while inner := _inside(found):
        found = inner
    tensors = {key: value for key, value in _items(found) if torch.is_tensor(value)}
    if not tensors:
        has = (
            f"the keys {', '.join(map(str, list(found)[:SHOWN]))}"
            if isinstance(found, Mapping)
            else type(found).__name__
        )
        raise CheckpointError(
            f"{path} holds no weights but {has or 'nothing'}: give a state dict, or a checkpoint that has one under "
            f"{', '.join(INSIDE)}"
        )
    return _bare(tensors)


def _unreadable(path: Path, error: Exception) -> str:
    said = str(error)
    if "TorchScript" in said:
        return (
            f"{path} is a TorchScript archive, which holds code: save its weights alone, by torch.save(torch.jit.load("
            f"{str(path)!r}).state_dict(), 'weights.pt'), and give that file"
        )
    if kind := re.search(r"GLOBAL (\S+) was not an allowed global", said):
        return (
            f"{path} holds objects of {kind[1]}, and to load these can run any code: if you trust the file, save its "
            f"weights alone, by torch.save(torch.load({str(path)!r}, weights_only=False)['state_dict'], 'weights.pt'), "
            "and give that file"
        )
    return f"{path} is damaged, or no checkpoint of torch ({brief(error)}); fetch or copy it again"


def _inside(found: Any) -> Any:
    """The mapping in which a checkpoint keeps its weights; None where it is they."""
    if not isinstance(found, Mapping):
        return None
    return next((found[name] for name in INSIDE if isinstance(found.get(name), Mapping) and found[name]), None)


def _items(found: Any) -> list[tuple[str, Any]]:
    return [(str(key), value) for key, value in found.items()] if isinstance(found, Mapping) else []


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without wrappers' parts of names, and as float32, in which the student is trained."""
    found = {WRAPPERS.sub("", name): value for name, value in tensors.items() if name not in SIZES}
    while prefix := next((one for one in WHOLE if found and all(name.startswith(one) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def _renamed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As ``open_clip.factory.load_checkpoint`` of 3.3.0 does it: its conversions, and positions for another size.

    Where one of them fails the names and shapes are those of another model, which is told by `_differences`.
    """
    try:
        state = convert_state_dict(model, state)
        if not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        own = model.state_dict()
        for name in ("logit_scale", "logit_bias"):  # a scalar, or a vector of one number
            if name in state and name in own and state[name].numel() == 1:
                state[name] = state[name].reshape(own[name].shape)
        if "logit_bias" in own:
            state.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
        positions = "text.transformer.embeddings.position_ids"  # not in transformers since 4.31
        if positions not in own:
            state.pop(positions, None)
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    except FAILS as error:
        logging.getLogger(__name__).debug("weights are not converted: %s", error)
    return state


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What differs between the model's tensors and those of a file, in words; empty if nothing does."""
    missing, foreign = [n for n in own if n not in given], [n for n in given if n not in own]
    shapes = [n for n in own if n in given and own[n].shape != given[n].shape]
    told = [
        _several(f"{len(names)} {what}", names)
        for what, names in (("missing", missing), ("unexpected", foreign))
        if names
    ]
    if shapes:
        pairs = [f"{n} is {list(given[n].shape)}, not {list(own[n].shape)}" for n in shapes]
        told.append(_several(f"{len(shapes)} of another shape", pairs))
    if not told:
        return ""
    if all(any(name.startswith(part) for name in given) for part in HUGGING_FACE):
        whose = (
            "These are the names of a CLIP of Hugging Face transformers, which OpenCLIP does not load: give the "
            "weights of the same model in OpenCLIP's form"
        )
    else:
        whose = "It is of another architecture: give student.model the one that these weights were trained as"
    return f"of the model's {len(own)} tensors and the file's {len(given)}, {'; '.join(told)}. {whose}"


def _several(what: str, names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what} ({', '.join(names[:SHOWN])}{more})"
