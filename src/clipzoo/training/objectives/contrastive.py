"""The contrastive objective: images and captions of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from clipzoo.data import Batch

INPUTS = ("image_features", "text_features", "logit_scale", "logit_bias")


@dataclass(frozen=True, slots=True)
class ContrastiveObjective:
    """OpenCLIP's loss: of SigLIP for students with a logit bias, else of CLIP."""

    weight: float = 1.0
    name: ClassVar[str] = "contrastive"

    def __call__(self, outputs: Mapping[str, Any], batch: Batch) -> Tensor:
        """Return the loss of the batch, a float32 scalar."""
        loss = SigLipLoss() if "logit_bias" in outputs else ClipLoss()
        value: Tensor = loss(**{name: outputs[name].float() for name in INPUTS if name in outputs})
        return value
