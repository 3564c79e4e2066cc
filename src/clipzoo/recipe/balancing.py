"""The fields of balancing: a scheme by name, and its options."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from clipzoo import plugins
from clipzoo.recipe.base import Options, Part


class BalancingRecipe(Part):
    """Factors on the losses of columns, which the weights of the columns multiply. A name alone is a scheme with its
    default options: `balancing: uncertainty`."""

    name: str = "fixed"
    """`fixed`, `uncertainty`, `gradient_norm`, `equal_scale`, `expert_dropping` (docs/training.md), or a custom scheme
    (docs/extending.md)."""
    options: Options = Field(default_factory=dict)
    """Options of the scheme."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_scheme(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _scheme_is_known(cls, name: str) -> str:
        known = plugins.names("training.balancing")
        if name not in known:
            raise ValueError(f"there is no balancing {name!r}; {plugins.hint(name, known)}")
        return name
