"""The contrastive objective: images and captions of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clipzoo.data import Batch
from clipzoo.training.processes import pairs


@dataclass(frozen=True, slots=True)
class ContrastiveObjective:
    """OpenCLIP's loss: of SigLIP for students with a logit bias, else of CLIP.

    ``rows`` of the logits are computed at a time; None computes all.
    """

    weight: float = 1.0
    rows: int | None = None
    name: ClassVar[str] = "contrastive"

    def __call__(self, outputs: Mapping[str, Any], batch: Batch) -> Tensor:
        """Return the loss of the batch, a float32 scalar."""
        return pairs.loss(outputs, self.rows)
