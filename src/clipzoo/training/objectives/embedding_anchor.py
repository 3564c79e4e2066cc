"""The embedding anchor: image embeddings stay near those of the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.training.objectives._start import Start


@dataclass(frozen=True, slots=True)
class EmbeddingAnchor:
    """1 − cosine of the student's and the start's embeddings of the same views."""

    start: Start
    weight: float
    name: ClassVar[str] = "anchor/embedding"

    def __call__(self, outputs: Mapping[str, Any], batch: Batch) -> Tensor:
        """Return the mean over the batch, in [0, 2], a float32 scalar."""
        before, _ = self.start(batch)
        return (1 - F.cosine_similarity(outputs["image_features"].float(), before.float())).mean()
