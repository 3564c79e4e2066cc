"""Objectives: the terms of the training loss, one file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.models import Student
from clipzoo.recipe import AnchorsRecipe
from clipzoo.training.objectives._start import Start
from clipzoo.training.objectives.base import Objective
from clipzoo.training.objectives.column import ColumnObjective
from clipzoo.training.objectives.contrastive import ContrastiveObjective
from clipzoo.training.objectives.embedding_anchor import EmbeddingAnchor
from clipzoo.training.objectives.gram_anchor import GramAnchor

__all__ = [
    "ColumnObjective", "ContrastiveObjective", "EmbeddingAnchor", "GramAnchor", "Objective", "Start", "anchors",
    "build", "terms", "total",
]  # fmt: skip


def build(student: Student, weights: Mapping[str, float] | None = None) -> list[Objective]:
    """Return the contrastive objective and one objective per column of the student.

    Args:
        student: its specs name the columns.
        weights: name of a term -> weight; 1 if absent.
    """
    given = weights or {}
    contrastive = ContrastiveObjective(given.get(ContrastiveObjective.name, 1.0))
    return [contrastive, *(ColumnObjective(name, spec, given.get(name, 1.0)) for name, spec in student.specs.items())]


def anchors(start: Start | None, weights: AnchorsRecipe | None) -> list[Objective]:
    """Return the anchors with a weight; all of them share the start."""
    if start is None or weights is None:
        return []
    every: list[Objective] = [EmbeddingAnchor(start, weights.embedding), GramAnchor(start, weights.gram)]
    return [anchor for anchor in every if anchor.weight]


def terms(objectives: Sequence[Objective], outputs: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
    """Return name -> unweighted scalar term, in float32.

    Args:
        objectives: terms to compute.
        outputs: what the student's forward pass returned for the batch.
        batch: images, tokens and targets.
    """
    return {objective.name: objective(outputs, batch) for objective in objectives}


def total(
    objectives: Sequence[Objective], values: Mapping[str, Tensor], factors: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Return the weighted sum of the terms, a scalar; ``factors`` of a balancing multiply the weights."""
    weighted = {objective.name: objective.weight * values[objective.name] for objective in objectives}
    for name, factor in (factors or {}).items():
        if name in weighted:
            weighted[name] = factor * weighted[name]
    return torch.stack(list(weighted.values())).sum()
