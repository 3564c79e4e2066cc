"""Preprocessing and tokenizers that transformers saved: what OpenCLIP has of them, and refusals of all else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from clipzoo.errors import CheckpointError, brief

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the filters that OpenCLIP has -> its names."""

PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""Files of an image processor: transformers 5 writes the first one, with values under ``image_processor``."""

TEXTS = ("a red square", "a big circle")
"""Texts of as many words and letters, which a tokenizer without vocabulary cannot distinguish."""


class Preprocessing(TypedDict):
    """The fields of OpenCLIP's preprocessing that a folder of transformers sets."""

    mean: list[float]
    std: list[float]
    interpolation: str
    resize_mode: str


def preprocessing(folder: Path, kind: str) -> Preprocessing:
    """Return OpenCLIP's preprocessing of a folder; without a processor's files it is transformers' default of the type.

    Args:
        folder: folder that transformers saved.
        kind: ``model_type``, clip or siglip.

    Raises:
        CheckpointError: a file is damaged, or OpenCLIP has no such preprocessing.
    """
    processor = _processor(folder, kind)
    mean, std = normalization(processor, f"hf:{folder}")
    reason = ""
    if processor.resample not in FILTERS:
        reason = f"it resizes with the filter {processor.resample} (resample), not with 2 (bilinear) or 3 (bicubic)"
    mode = _resize_mode(processor)
    if mode is None:
        values = (f"{name} {_value(processor, name)}" for name in ("do_resize", "size", "do_center_crop", "crop_size"))
        reason = (
            f"of its settings {', '.join(values)}, and OpenCLIP crops the center of the shortest side, or squashes "
            "whole images"
        )
    if reason or mode is None:
        raise _refused(f"hf:{folder}", reason)
    return {"mean": mean, "std": std, "interpolation": FILTERS[processor.resample], "resize_mode": mode}


def normalization(processor: BaseImageProcessor, name: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation for pixels from 0 to 1; they are 0 and 1 if the processor does not normalize.

    Raises:
        CheckpointError: the processor changes pixels in another way; ``name`` is that of the model.
    """
    factor = getattr(processor, "rescale_factor", None) or 1 / 255
    if getattr(processor, "do_flip_channel_order", False):
        raise _refused(name, "it swaps red and blue (do_flip_channel_order)")
    if not getattr(processor, "do_rescale", True) or abs(255 * factor - 1) > 1e-3:
        raise _refused(name, "it does not scale pixels to 0 to 1 (do_rescale, rescale_factor)")
    if not hasattr(processor, "do_normalize"):
        raise _refused(name, f"{type(processor).__name__} has no do_normalize, and may normalize in any way")
    if not processor.do_normalize:
        return [0.0] * 3, [1.0] * 3
    mean, std = (_of_channels(getattr(processor, value, None)) for value in ("image_mean", "image_std"))
    if mean is None or std is None or not all(std):
        shown = ", ".join(f"{value} is {_value(processor, value)}" for value in ("image_mean", "image_std"))
        raise _refused(name, f"{shown}, and not one number or three numbers")
    return mean, std


def tokenizer_of(place: str, name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or hub model; none of its code is run.

    Raises:
        CheckpointError: it cannot be loaded, or it has no vocabulary; ``name`` is that of the model.
    """
    from transformers import AutoTokenizer

    fix = "Download the model again, with all files of its tokenizer, such as tokenizer.json and tokenizer_config.json"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        first, second = (tokenizer(text)["input_ids"] for text in TEXTS)
    except Exception as error:  # transformers, tokenizers and huggingface_hub raise many kinds
        raise CheckpointError(f"{name}: transformers cannot load the tokenizer ({brief(error)}). {fix}") from error
    if first == second:  # transformers 5.24 makes a CLIPTokenizer of two tokens if all files are missing
        raise CheckpointError(
            f"{name}: its tokenizer gives different texts the same tokens, since files of it are missing. {fix}"
        )
    return tokenizer


def _processor(folder: Path, kind: str) -> BaseImageProcessor:
    from transformers import AutoImageProcessor, CLIPImageProcessor, SiglipImageProcessor

    if not any((folder / name).is_file() for name in PROCESSORS):
        return CLIPImageProcessor() if kind == "clip" else SiglipImageProcessor()
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, ImportError) as error:
        raise CheckpointError(
            f"hf:{folder}: transformers cannot load the image processor of {' or '.join(PROCESSORS)} "
            f"({brief(error)}). Download these files again"
        ) from error


def _resize_mode(processor: BaseImageProcessor) -> str | None:
    """Return OpenCLIP's name of what a processor does with images of another shape; None if OpenCLIP has none."""
    if not getattr(processor, "do_resize", True):
        return None
    size, crop = (dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size"))
    sides, shortest = (size.get("height"), size.get("width")), size.get("shortest_edge")
    if getattr(processor, "do_center_crop", False):
        cropped = (crop.get("height"), crop.get("width"))
        if shortest and cropped == (shortest, shortest):
            return "shortest"
        if cropped != sides:
            return None
    return "squash" if all(sides) else None


def _of_channels(value: object) -> list[float] | None:
    """Return a number of each channel; None if a value is not one number or three."""
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, Sequence) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        return None
    return [float(v) for v in values]


def _value(processor: BaseImageProcessor, name: str) -> object:
    value = getattr(processor, name, None)
    if value is None or not hasattr(value, "items"):
        return value
    return {key: side for key, side in value.items() if side is not None}


def _refused(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{name}: the preprocessing of its image processor is not supported: {reason}. Correct the file of the "
        "processor if it does not describe how the model was trained, else use another model"
    )
