"""The objective of one column: the student's predictions against pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clipzoo.data import Batch
from clipzoo.heads import resize
from clipzoo.models import HeadSpec


@dataclass(frozen=True, slots=True)
class ColumnObjective:
    """The task's loss of one column; its name is that of the column."""

    name: str
    spec: HeadSpec
    weight: float = 1.0

    def __call__(self, outputs: Mapping[str, Any], batch: Batch) -> Tensor:
        """Return the loss of the batch, a float32 scalar; 0 if no sample has a label."""
        target, spec = batch.targets[self.name], self.spec
        height, width = target["valid"].shape[-2:]
        raw = resize(outputs["predictions"][self.name].float(), (height, width))
        return spec.evaluate(raw, target)
