"""The protocol of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from clipzoo.data import Batch


class Objective(Protocol):
    """One named, weighted term of the training loss."""

    @property
    def name(self) -> str:
        """Name of the term in logs and in ``weights``."""

    @property
    def weight(self) -> float:
        """Factor of the term in the loss."""

    def __call__(self, outputs: Mapping[str, Any], batch: Batch) -> Tensor:
        """Return the unweighted term, a scalar with its graph.

        Args:
            outputs: what `Student.forward` returned for the batch; tensors may be bfloat16.
            batch: images, tokens and targets.
        """
