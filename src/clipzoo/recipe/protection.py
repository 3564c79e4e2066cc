"""Fields that protect zero-shot recognition: the guard and the anchors in training, interpolation after it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipzoo.recipe.base import Part

Weight = Annotated[float, Field(ge=0)]


class GuardRecipe(Part):
    """Zero-shot measurements of the student during training, on a fixed subset, and the action after a loss."""

    every: Annotated[int, Field(gt=0)] = 50
    """Steps between measurements; the last step is measured, too."""
    max_loss: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest loss of the measure relative to the start, in [0, 1]; 0.01 is one point."""
    action: Literal["warn", "rollback", "stop"] = "rollback"
    """``warn`` reports a larger loss, ``rollback`` returns to the last good state and lowers the learning rates,
    ``stop`` ends the training with the last good state."""
    samples: Annotated[int, Field(gt=0)] = 1000
    """Number of images of the subset."""
    benchmark: str | None = None
    """Benchmark folder with classes or captions; null uses ``evaluation.validation``, or holds out captioned samples of
    ``data`` if it has neither."""
    rate_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor of the learning rates at each rollback."""
    max_rollbacks: Annotated[int, Field(gt=0)] = 3
    """Number of rollbacks; the next loss ends the training with the last good state."""


class AnchorsRecipe(Part):
    """Weights of the losses that keep the image tower near the start; 0 is off."""

    embedding: Weight = 0.0
    """Weight of 1 − cosine of an image's embedding and that of the start."""
    gram: Weight = 0.0
    """Weight of the mean squared difference of the Gram matrices of patch tokens."""

    @model_validator(mode="after")
    def _one_has_a_weight(self) -> AnchorsRecipe:
        if not self.embedding and not self.gram:
            raise ValueError("both weights are 0: give embedding or gram a weight, or set anchors to null")
        return self


class InterpolationRecipe(Part):
    """Students between the start and the trained student: weights (1 − α) · start + α · end (WiSE-FT, arXiv
    2109.01903)."""

    alphas: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 1.0)
    """Shares α of the trained student that are measured on validation. The start (0) and the trained student (1) are
    always measured."""
    max_loss: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest loss of zero-shot top-1 (or of retrieval recall@1) on validation relative to the start, in [0, 1]; the
    upper end of the loss's 95 % interval must not exceed it."""
    arms: Annotated[tuple[Literal["clip-ft", "clipzoo"], ...], Field(min_length=1)] = ("clipzoo",)
    """Arms that are interpolated; each adds a row to the results, such as ``clipzoo-best``."""

    @property
    def swept(self) -> tuple[float, ...]:
        """All measured α in ascending order, with 0 and 1."""
        return tuple(sorted({0.0, *self.alphas, 1.0}))
