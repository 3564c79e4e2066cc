"""Files of a student's folder: tensors, the tokenizer, and descriptions of heads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file
from torch import nn

from clipzoo import files
from clipzoo.errors import CheckpointError, brief
from clipzoo.models._open_clip import HEADS, ModelConfig, Tokenizer
from clipzoo.models._preprocessing import CONFIG, Preprocessing
from clipzoo.models._weights import FAILS
from clipzoo.models.head_spec import HeadSpec
from clipzoo.tasks import Convention

WEIGHTS = "open_clip_model.safetensors"
ADDED = ("confidence_weight", "trim")
"""Fields of heads that are written only if they are set: other files can be read by older versions."""


def write_model(folder: Path, clip: nn.Module, config: ModelConfig, preprocess: Preprocessing) -> None:
    """Write the weights and the configuration of an OpenCLIP model."""
    _write_tensors(folder / WEIGHTS, clip)
    described = {"model_cfg": config, "preprocess_cfg": _jsonable(preprocess)}
    files.write(folder / CONFIG, json.dumps(described, indent=2).encode())


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer's files, if it has any."""
    if not hasattr(tokenizer, "save_pretrained"):
        return
    with TemporaryDirectory() as scratch:  # transformers would write through links
        tokenizer.save_pretrained(scratch)
        _complete_auto_map(Path(scratch, "tokenizer_config.json"))
        for path in Path(scratch).iterdir():
            files.write(folder / path.name, path.read_bytes())


def write_heads(folder: Path, layers: Sequence[int], specs: Mapping[str, HeadSpec], heads: nn.Module) -> None:
    """Write the tapped layers, the description of each head, and the weights of all heads."""
    described = {}
    for column, spec in specs.items():
        values = {name: value for name, value in asdict(spec).items() if value or name not in ADDED}
        described[column] = {**values, "convention": spec.convention.to_json()}
    text = json.dumps({"layers": layers, "heads": described}, indent=2)
    files.write(folder / f"{HEADS}.json", text.encode())
    if specs:
        _write_tensors(folder / f"{HEADS}.safetensors", heads)


def read_heads(path: Path) -> tuple[Sequence[int], dict[str, HeadSpec]]:
    """Return the tapped layers and heads of ``clipzoo_heads.json``; the last layer and no heads if it is missing.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return (-1,), {}
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        specs = {}
        for column, values in described["heads"].items():
            convention = Convention.from_json(values["convention"])
            specs[column] = HeadSpec(**{**values, "convention": convention})
        return [int(layer) for layer in described["layers"]], specs
    except FAILS as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {brief(error)}). Restore the folder from a copy, or export "
            "the student again"
        ) from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise `OSError` for disk errors that libraries in Rust report: safetensors 0.8.0, tokenizers 0.23.3."""
    try:
        yield
    except Exception as error:  # tokenizers raises no other type
        number = re.search(r"os error (\d+)", str(error))
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _complete_auto_map(path: Path) -> None:
    """Make a tokenizer's own code loadable: transformers 5.24.0 writes one class name and reads a pair (slow, fast)."""
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    auto_map = config.get("auto_map", {})
    name = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else None
    if isinstance(name, str):
        config["auto_map"] = {**auto_map, "AutoTokenizer": [None, name]}  # the fast one is preferred, of any class
        files.write(path, json.dumps(config, indent=2, ensure_ascii=False).encode())


def _write_tensors(path: Path, module: nn.Module) -> None:
    """Write a module's tensors as safetensors; the file is complete or absent."""
    tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
    with files.atomic(path, exclusive=True) as draft:
        save_file(tensors, draft)


def _jsonable(values: Mapping[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
