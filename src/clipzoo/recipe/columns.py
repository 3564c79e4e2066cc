"""The fields of a column: an expert or existing labels, and how the student learns from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from clipzoo import plugins
from clipzoo.errors import RecipeError
from clipzoo.recipe.base import Count, Options, Part


class ColumnRecipe(Part):
    """One expert's labels in training. Name either the ``expert`` that makes them or an existing ``column``."""

    expert: str | None = None
    """URI of the expert that makes the labels (docs/experts.md)."""
    column: str | None = None
    """``<task>/<slug>`` of existing labels in the store."""
    online: bool = False
    """The expert labels the pictures of each batch during training, and nothing is stored (docs/training.md)."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of this loss, relative to that of the contrastive loss (``training.contrastive_weight``, 1)."""
    head: str = "conv"
    """Head that predicts the labels: a file of ``clipzoo/heads/``, or a custom head (docs/extending.md)."""
    head_options: Options = Field(default_factory=dict)
    """Keyword arguments of the head."""
    loss: str | None = None
    """Loss of this column: one that ``clipzoo tasks TASK`` lists, or a custom loss; null selects the task's default."""
    loss_options: Options = Field(default_factory=dict)
    """Keyword arguments of the loss."""
    confidence_weight: Annotated[float, Field(gt=0)] | None = None
    """Exponent of confidence weights: the loss of a pixel is multiplied by the confidence of its label, or of its box,
    to this power; null gives all pixels equal weight (docs/training.md)."""
    trim: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of each image's labeled pixels, those with the largest loss, that have no gradient, 0 to 0.5
    (docs/training.md)."""
    stride: Count = 2
    """Image pixels per target pixel, along each side."""
    min_confidence: float | None = None
    """Labels below this confidence are not used; it applies to experts that report a confidence."""
    where: str | None = None
    """Condition on the statistics of used labels, such as ``valid > 0.3 and confidence >= 0.5``: ``valid`` is the share
    of the image with a label, ``bytes`` the size of the label (docs/training.md)."""

    @field_validator("where")
    @classmethod
    def _condition_is_sound(cls, where: str | None) -> str | None:
        if where is not None:
            from clipzoo.data.filters import Where  # with torch, slow to import

            try:
                Where.parse(where)
            except RecipeError as error:
                raise ValueError(str(error)) from error
        return where

    @model_validator(mode="after")
    def _one_source(self) -> ColumnRecipe:
        if (self.expert is None) == (self.column is None):
            raise ValueError("name either expert (a URI) or column (<task>/<slug> of the store)")
        mistakes = self._online_mistakes()
        for kind, folder, name in (("head", "heads", self.head), ("loss", "losses", self.loss)):
            known = plugins.names(folder)
            if name is not None and name not in known:
                mistakes.append(f"no {kind} is named {name!r}; {plugins.hint(name, known)}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _online_mistakes(self) -> list[str]:
        if not self.online:
            return []
        if self.expert is None:
            return ["online needs an expert: labels of an existing column are read from the store. Remove online"]
        stored = ("min_confidence", "where", "confidence_weight")
        return [
            f"{name} needs stored labels, whose confidence and statistics are known before training. Remove {name}, or "
            "online"
            for name in stored
            if getattr(self, name) is not None
        ]
