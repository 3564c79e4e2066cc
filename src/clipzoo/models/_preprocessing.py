"""OpenCLIP's preprocessing of a model: its fields, and the values that clipzoo and OpenCLIP accept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypedDict, cast

from open_clip import list_pretrained_tags_by_model
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg

from clipzoo.errors import CheckpointError

CONFIG = "open_clip_config.json"
FIELDS = ("mean", "std", "interpolation", "resize_mode")
"""Fields in which OpenCLIP's pretrained weights differ; the size is that of the model."""

CHOICES = {
    "mode": ("RGB",), "interpolation": ("bicubic", "bilinear", "random"),
    "resize_mode": ("shortest", "longest", "squash"),
}  # fmt: skip
"""Values that OpenCLIP (3.3) accepts."""


CROPS: dict[str, Literal["whole", "center", "padded"]] = {
    "squash": "whole",
    "shortest": "center",
    "longest": "padded",
}
"""OpenCLIP's ``resize_mode`` -> part of an image that it keeps."""


class Preprocessing(TypedDict, total=False):
    """OpenCLIP's preprocessing of a model, the fields of its ``PreprocessCfg``."""

    size: int | tuple[int, int]
    mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int


def of_file(model: str, weights: Path) -> Mapping[str, object]:
    """Return the preprocessing of a file with weights of an OpenCLIP model; OpenCLIP's default has the other fields.

    It is that of ``open_clip_config.json`` next to the file, else the fields in which all tags of the model agree.
    """
    tags = list(_of_tags(model).values())
    return _beside(weights) or {field: tags[0][field] for field in FIELDS if tags and field not in _differing(tags)}


def uncertain(model: str, pretrained: str | None) -> str | None:
    """Return a note if weights are a file of unknown preprocessing, because the tags of its model differ, else None."""
    if ":" in model or not pretrained or get_pretrained_cfg(model, pretrained) or _beside(Path(pretrained)):
        return None
    tags = _of_tags(model)
    differing = _differing(list(tags.values()))
    if not differing:
        return None
    kinds = {_shown(values, differing): tag for tag, values in reversed(tags.items())}
    others = "; ".join(f"{tag} has {kind}" for kind, tag in reversed(kinds.items()))
    return (
        f"the preprocessing of {pretrained} is not known, because the weights of {model} in OpenCLIP differ: {others}. "
        f"OpenCLIP's default is used: {_shown(asdict(PreprocessCfg()), differing)}. If this is wrong for the file, put "
        f"an {CONFIG} with the right preprocess_cfg next to it"
    )


def _beside(weights: Path) -> Mapping[str, object]:
    """Return the preprocessing in the configuration next to a file; empty if there is none."""
    config = weights.parent / CONFIG
    text = config.read_text(encoding="utf-8") if config.is_file() else "{}"
    own: Mapping[str, object] = json.loads(text).get("preprocess_cfg") or {}
    return own


def _differing(tags: Sequence[Mapping[str, object]]) -> list[str]:
    return [field for field in FIELDS if len({str(values[field]) for values in tags}) > 1]


def _of_tags(model: str) -> dict[str, dict[str, object]]:
    """Return pretrained tag -> preprocessing, for all tags of a model."""
    default = asdict(PreprocessCfg())
    tags = {tag: default | get_pretrained_cfg(model, tag) for tag in list_pretrained_tags_by_model(model)}
    return {tag: {field: values[field] for field in FIELDS} for tag, values in tags.items()}


def _shown(values: Mapping[str, object], fields: Sequence[str]) -> str:
    rounded = {
        field: [round(one, 3) for one in value] if isinstance(value := values[field], tuple) else value
        for field in fields
    }
    return ", ".join(f"{field} {value}" for field, value in rounded.items())


def checked(values: Preprocessing, name: str) -> Preprocessing:
    """Return a preprocessing in which mean and standard deviation have a number for each channel.

    Raises:
        CheckpointError: OpenCLIP has no such value; ``name`` is that of the model.
    """
    given: dict[str, object] = {**values}
    for field, choices in CHOICES.items():
        if given.get(field, choices[0]) not in choices:
            raise _refused(name, field, given[field], f"OpenCLIP has {', '.join(choices)}")
    for field in ("mean", "std"):
        if field in given:
            given[field] = _of_channels(given[field], field, name)
    return cast(Preprocessing, given)


def _of_channels(value: object, field: str, name: str) -> object:
    """Return three numbers for one; a list of three is returned as it is."""
    numbers = [value] if isinstance(value, int | float) else value
    if not isinstance(numbers, Sequence) or len(numbers) not in (1, 3):
        raise _refused(name, field, value, "it is one number, or three")
    if not all(isinstance(number, int | float) for number in numbers) or (field == "std" and not all(numbers)):
        raise _refused(name, field, value, "it is one number, or three" + " except 0" * (field == "std"))
    return value if numbers is value and len(numbers) == 3 else [float(numbers[0])] * 3


def _refused(name: str, field: str, value: object, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{name}: preprocess_cfg.{field} is {value!r}, and {reason}. Correct it in open_clip_config.json"
    )
