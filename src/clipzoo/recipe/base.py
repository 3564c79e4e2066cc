"""The base of all parts of a recipe, and types of fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

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


class Part(BaseModel):
    """A part of a recipe: unknown fields are mistakes, values do not change, and docstrings describe fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
