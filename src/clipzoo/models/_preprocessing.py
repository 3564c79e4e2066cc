"""OpenCLIP's preprocessing of a model: its fields, and the values that clipzoo and OpenCLIP accept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, cast

from clipzoo.errors import CheckpointError

CHOICES = {
    "mode": ("RGB",), "interpolation": ("bicubic", "bilinear", "random"),
    "resize_mode": ("shortest", "longest", "squash"),
}  # fmt: skip
"""Values that OpenCLIP (3.3) accepts."""


class Preprocessing(TypedDict, total=False):
    """OpenCLIP's preprocessing of a model, the fields of its ``PreprocessCfg``."""

    size: int | tuple[int, int]
    mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int


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
