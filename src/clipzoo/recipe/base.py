"""The base of all parts of a recipe, and types of fields."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


def _size(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Report one mistake where pydantic reports one for each form of a size."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"{value!r} is no image size; give a number of pixels, or [height, width]") from None


ImageSize = Annotated[Count | tuple[Count, Count], WrapValidator(_size)]
"""One number of pixels, or (height, width)."""


def height_width(size: ImageSize) -> tuple[int, int]:
    """Return an image size as (height, width)."""
    return (size, size) if isinstance(size, int) else size


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""Numbers that YAML 1.1, unlike 1.2, reads as text, as it wants a point and a sign: ``1e-3``, ``1.0e3``."""


def _numbers(value: JsonValue) -> JsonValue:
    """Return an option in which texts such as ``1e-3`` are numbers."""
    if isinstance(value, dict):
        return {name: _numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value) and math.isfinite(float(value)):
        return float(value)
    return value


Options = dict[str, Annotated[JsonValue, AfterValidator(_numbers)]]
"""Keyword arguments; a recipe can save those that JSON has."""


class Part(BaseModel):
    """A part of a recipe: unknown fields are mistakes, values do not change, and docstrings describe fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
