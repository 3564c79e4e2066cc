"""Checkpoints of a sharded training: each process writes its shards, and any number of processes reads them.

The file of the checkpoint has the format of one process, but tensors without values (of torch's ``meta`` device) in the
place of sharded ones, and the name of a folder with those. The folder is written by `torch.distributed.checkpoint` as
safetensors: its usual format has pickled metadata, which could run code (torch 2.14).
"""

from __future__ import annotations

import secrets
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from clipzoo import files
from clipzoo.errors import CheckpointError, brief
from clipzoo.training.processes import ranks

FIELD, PREFIX, DRAFT = "shards", "shards-", ".draft"
"""Field of a checkpoint with the folder's name; start of that name; end of it while it is written."""

Reference = Callable[[str], object]
"""Key of a tensor -> one that is sharded alike, if there is one."""


def write(folder: Path, states: dict[str, Any], step: int) -> dict[str, Any]:
    """Write the shards of all processes, which call this; return the states without them, and the new folder's name.

    Raises:
        OSError: the disk of any process refuses it.
    """
    name = ranks.agreed(f"{PREFIX}{step}-{secrets.token_hex(4)}")
    draft = folder / (name + DRAFT)
    writer = HuggingFaceStorageWriter(str(draft), save_distributed=True)
    try:
        state_dict_saver.save(_collected(states, DTensor), storage_writer=writer, process_group=ranks.control())
    except CheckpointException as error:
        if isinstance(cause := _cause(error), OSError):
            raise cause from error
        raise
    if ranks.is_main():
        files.sync_folder(draft)
        draft.rename(folder / name)
        files.sync_folder(folder)
    return {**_without_values(states), FIELD: name}


def fill(path: Path, state: dict[str, Any], reference: Reference = lambda key: None) -> dict[str, Any]:
    """Return the state of a checkpoint with its sharded tensors: as shards of this process, if ``reference`` has them.

    Raises:
        CheckpointError: the folder is missing or damaged.
    """
    name = state.get(FIELD)
    if name is None:
        return state
    if not (isinstance(name, str) and name.startswith(PREFIX) and Path(name).name == name):
        raise CheckpointError(f"{path} names {name!r} as the folder of its shards, which is not one. Delete {path}")
    wanted = _collected({key: value for key, value in state.items() if key != FIELD}, Tensor)
    tensors = {key: _empty(value, reference(key)) for key, value in wanted.items() if value.is_meta}
    folder = path.parent / name
    try:
        files.check_inside(path.parent, name, CheckpointError)
        with warnings.catch_warnings():  # torch warns that one process reads; each reads what it needs
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            state_dict_loader.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (CheckpointException, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}, which holds the shards of {path.name}, cannot be read ({brief(_cause(error))}): it is missing "
            "or damaged. Restore it, or delete both to restart this training"
        ) from error
    filled: dict[str, Any] = _replaced({k: v for k, v in state.items() if k != FIELD}, tensors)
    return filled


def _cause(error: BaseException) -> BaseException:
    """Return the first error of any process, which torch wraps with those of the others."""
    causes = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else []
    return causes[0] if causes else error


def prune(folder: Path, named: set[object]) -> None:
    """Delete folders of shards that no checkpoint names; the main process calls it."""
    for path in folder.glob(f"{PREFIX}*"):
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def _collected(tree: Any, kind: type[Tensor], key: str = "") -> dict[str, Tensor]:
    """Return key -> tensor of a kind in nested dictionaries and lists; names along the way are joined by ``/``."""
    if isinstance(tree, kind):
        return {key: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found: dict[str, Tensor] = {}
    for name, value in items:
        found |= _collected(value, kind, f"{key}/{name}" if key else str(name))
    return found


def _without_values(tree: Any) -> Any:
    """Return nested dictionaries and lists with tensors without values in the place of sharded ones."""
    if isinstance(tree, DTensor):
        return torch.empty(tree.shape, dtype=tree.dtype, device="meta")
    if isinstance(tree, dict):
        return {name: _without_values(value) for name, value in tree.items()}
    return [_without_values(value) for value in tree] if isinstance(tree, list) else tree


def _replaced(tree: Any, tensors: dict[str, Tensor], key: str = "") -> Any:
    """Return nested dictionaries and lists with the tensors of these keys."""
    if key in tensors:
        return tensors[key]
    if isinstance(tree, dict):
        return {name: _replaced(value, tensors, f"{key}/{name}" if key else str(name)) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_replaced(value, tensors, f"{key}/{number}") for number, value in enumerate(tree)]
    return tree


def _empty(value: Tensor, reference: object) -> Tensor:
    """Return a tensor to fill: sharded as the reference, if that is and has the same shape, else whole on the CPU."""
    if isinstance(reference, DTensor) and reference.shape == value.shape:
        return torch.empty_like(reference, dtype=value.dtype)
    return torch.empty(value.shape, dtype=value.dtype)
