"""Loading weights of other trainers: nothing in the file is executed, names become OpenCLIP's, shapes are compared."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clipzoo.errors import CheckpointError, brief, counted

INSIDE = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which trainers save the weights, next to the optimizer and the step."""
WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^(?:module\.)+"
    r"|(?:(?<=\bvisual\.)|(?<=\btext\.)|(?<=\btrunk\.)|(?<=\btransformer\.))(?:module\.)+"
)
"""Parts of names that torch.compile, FSDP, activation checkpointing and DistributedDataParallel insert.

Layers deeper inside may be named ``module``, as in timm's IFormer.
"""
WHOLE = ("module.", "model.", "clip.")
"""Prefixes of all names if the CLIP model is an attribute of a trainer's module."""
SIZES = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's files that are not weights."""
HUGGING_FACE = ("vision_model.", "text_model.")
SHOWN = 3
"""Number of names that a message shows per kind of difference."""
FAILS = (RuntimeError, OSError, LookupError, TypeError, ValueError, AttributeError, AssertionError, ImportError)
"""Exceptions of other packages for tensors or configurations that do not fit."""


def fit(model: nn.Module, path: Path, name: str) -> None:
    """Load the weights of a file into an OpenCLIP model.

    Args:
        model: changed in place, unless the file does not fit.
        path: safetensors; a PyTorch checkpoint, read with ``weights_only=True``; or big_vision's ``.npz``.
        name: name of the model in messages.

    Raises:
        CheckpointError: the file is damaged, is not a checkpoint, has values that are not finite, or belongs to another
            architecture; the message lists the differences.
    """
    if path.suffix in (".npz", ".npy"):
        try:
            load_big_vision_weights(model, str(path))
        except FAILS as error:
            raise CheckpointError(
                f"{path} has no weights of {name} in the format of big_vision ({brief(error)}). Give weights of this "
                "model"
            ) from error
        _check_finite(path, name, model.state_dict(), model)
        return
    state = _renamed(model, read(path))
    if differences := _differences(model.state_dict(), state):
        raise CheckpointError(f"{path} does not fit {name}: {differences}")
    _check_finite(path, name, state, model)
    model.load_state_dict(state)


def _check_finite(path: Path, name: str, state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise `CheckpointError` if a parameter is not finite; masks among the buffers may be."""
    wrong = [key for key, _ in model.named_parameters() if not state[key].isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"the weights of {name} in {path} have values that are not finite in "
            f"{_several(counted(len(wrong), 'tensor'), wrong)}: their training diverged, or the file is damaged. Give "
            "an earlier checkpoint, or copy the file again"
        )


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, without the prefixes of trainers and wrappers.

    Raises:
        CheckpointError: the file is damaged, or it is not a checkpoint.
    """
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({brief(error)}): it is damaged. Download or copy it again"
        ) from error
    except Exception as error:  # torch raises many kinds on a damaged file
        raise CheckpointError(_unreadable(path, error)) from error
    while inner := _inside(content):
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if torch.is_tensor(value)}
    if not tensors:
        keys = (
            f"the keys {', '.join(map(str, list(content)[:SHOWN]))}" if isinstance(content, Mapping) and content else ""
        )
        raise CheckpointError(
            f"{path} holds no weights but {keys or type(content).__name__}. Give a state dict, or a checkpoint with "
            f"one under {', '.join(INSIDE)}"
        )
    return _unwrapped(tensors)


def _unreadable(path: Path, error: Exception) -> str:
    text = str(error)
    if "TorchScript" in text:
        return (
            f"{path} is a TorchScript archive, which contains code. Save only its weights with "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pt') and give that file"
        )
    if kind := re.search(r"GLOBAL (\S+) was not an allowed global", text):
        return (
            f"{path} holds objects of {kind[1]}, and loading these can run any code. If you trust the file, load it "
            f"with x = torch.load({str(path)!r}, weights_only=False), look at x for the state dict, save only this, "
            "such as torch.save(x['model'], 'weights.pt') or torch.save(x.state_dict(), 'weights.pt'), and give that "
            "file"
        )
    return f"{path} is damaged, or it is not a PyTorch checkpoint ({brief(error)}). Download or copy it again"


def _inside(content: object) -> object:
    """Return the nested mapping that holds a checkpoint's weights, None if there is none."""
    if isinstance(content, Mapping):
        for name in INSIDE:
            if isinstance(content.get(name), Mapping) and content[name]:
                return content[name]
    return None


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without wrappers' parts of names, in float32, in which the student is trained."""
    state = {WRAPPERS.sub("", name): value for name, value in tensors.items() if name not in SIZES}
    while prefix := _common_prefix(state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _common_prefix(state: Mapping[str, Tensor]) -> str:
    """Return the prefix of `WHOLE` that all names have, else ""."""
    for prefix in WHOLE:
        if state and all(name.startswith(prefix) for name in state):
            return prefix
    return ""


def _renamed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert names and resize position embeddings as ``open_clip.factory.load_checkpoint`` of 3.3.0 does.

    A conversion fails if the weights belong to another model, which `_differences` then reports.
    """
    try:
        state = convert_state_dict(model, state)
        if not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        own = model.state_dict()
        for name in ("logit_scale", "logit_bias"):  # a scalar, or a vector with one element
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
        logging.getLogger(__name__).debug("cannot convert weights: %s", error)
    return state


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return a sentence about the differences between the model's tensors and a file's, "" if there are none."""
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    reshaped = [
        f"{name} is {list(given[name].shape)}, not {list(value.shape)}"
        for name, value in own.items()
        if name in given and value.shape != given[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    parts = [_several(f"{len(names)} {kind}", names) for kind, names in kinds.items() if names]
    if not parts:
        return ""
    if all(any(name.startswith(part) for name in given) for part in HUGGING_FACE):
        fix = (
            "These are the names of a CLIP of Hugging Face transformers, which OpenCLIP does not load. Give the folder "
            "that transformers saved as student.model: hf:FOLDER, without pretrained"
        )
    else:
        fix = "The weights belong to another architecture. Set student.model to the architecture of these weights"
    return f"the model has {len(own)} tensors and the file {len(given)}: {'; '.join(parts)}. {fix}"


def _several(count: str, names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{count} ({', '.join(names[:SHOWN])}{more})"
