"""A training: its plain description, and the live objects that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipzoo.data import TrainingSet
from clipzoo.errors import RecipeError
from clipzoo.models import Student
from clipzoo.recipe import TrainingRecipe

CONTRASTIVE = "contrastive"
"""Name of the contrastive term of the loss."""


@dataclass(frozen=True)
class Job:
    """Plain description of one training: a driver writes it, a process executes it.

    Attributes:
        settings: training part of the recipe.
        rate: peak learning rate of the image tower.
        steps: number of updates.
        out: folder of the checkpoint, the log and the result.
        weights: term of the loss -> weight; 1 if absent, for the contrastive one that of the settings.
        seed: seed of the random state of a new training; that of the dataset.
        device: device in PyTorch's notation.
    """

    settings: TrainingRecipe
    rate: float
    steps: int
    out: Path
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"

    @property
    def loss_weights(self) -> dict[str, float]:
        """Term of the loss -> weight; 1 if absent."""
        return {CONTRASTIVE: self.settings.contrastive_weight, **self.weights}

    @property
    def labels_alone(self) -> bool:
        """True if captions do not take part in the loss."""
        return self.loss_weights[CONTRASTIVE] == 0

    @property
    def rates(self) -> dict[str, float]:
        """Part of the student -> peak learning rate."""
        text = 0.0 if self.labels_alone else self.rate * self.settings.text_factor
        return {"heads": self.settings.heads_learning_rate, "image": self.rate, "text": text}

    @property
    def binding(self) -> dict[str, Any]:
        """The settings, as plain values, that a resumed training must share with the interrupted one."""
        values = self.settings.model_dump(mode="json")
        return {name: value for name, value in values.items() if name not in self.settings.FREE}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_json` reads."""
        settings, weights = self.settings.model_dump(mode="json"), dict(self.weights)
        return {**vars(self), "settings": settings, "weights": weights, "out": str(self.out)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """Return the job that `to_json` described."""
        settings = TrainingRecipe.model_validate(values["settings"])
        return cls(**{**values, "settings": settings, "out": Path(values["out"])})


@dataclass(frozen=True)
class Recognition:
    """The measure of the guard: zero-shot recognition on a fixed set of images.

    Attributes:
        name: ``<group>/<measure>``, such as ``zero_shot/top1``.
        samples: number of images.
        measure: returns the measure of a student, in [0, 1].
    """

    name: str
    samples: int
    measure: Callable[[Student], float]


@dataclass(frozen=True)
class Training:
    """A job with the live objects of the process that executes it.

    Attributes:
        job: plain description.
        student: initial student; trained in place.
        dataset: samples and labels.
        evaluate: called every ``settings.evaluate_every`` steps and at the end; yields (name, value).
        on_step: called with the step and its values when they are logged.
        say: called with a sentence about a zero-shot loss, and at the end about samples and labels that could not be
            read, if there are any.
        recognition: the measure of ``settings.guard``; needed if there is a guard.
    """

    job: Job
    student: Student
    dataset: TrainingSet
    evaluate: Callable[[Student], Iterable[tuple[str, float]]] | None = None
    on_step: Callable[[int, Mapping[str, float]], None] = field(default=lambda step, values: None)
    say: Callable[[str], None] = field(default=lambda text: None)
    recognition: Recognition | None = None

    def __post_init__(self) -> None:
        """Raise `RecipeError` if all losses have the weight 0."""
        weights = self.job.loss_weights
        if not any(weights.get(term, 1.0) > 0 for term in (CONTRASTIVE, *self.student.specs)):
            raise RecipeError(
                "the weights of all losses are 0, so that nothing would be learned: set training.contrastive_weight, "
                "or the weight of a column, above 0"
            )
