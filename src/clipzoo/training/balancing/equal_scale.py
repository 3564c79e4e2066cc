"""Equal scale: each loss is divided by its running mean, so that all columns have losses of about 1.

For a ``decay`` of 0 the gradient is that of the logarithm of the loss, as in the geometric loss strategy of Chennupati
et al., "MultiNet++" (CVPR Workshops 2019, arXiv 1904.08492); IMTL-L of Liu et al., "Towards Impartial Multi-Task
Learning" (ICLR 2021), learns factors with the same aim. The running mean, which smooths the factors over steps, is not
from these papers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.training.balancing.base import Balancing, Columns, Losses

LEAST = 1e-4
"""Smallest mean by which a loss is divided."""


class _EqualScale(Balancing):
    uses_losses = True
    sums: Tensor
    counts: Tensor

    def __init__(self, count: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("sums", torch.zeros(count))
        self.register_buffer("counts", torch.zeros(count))

    def _with(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """Return the decayed sums of losses and of steps, including the given step where it has labels."""
        sums = self.decay * self.sums + (1 - self.decay) * losses.values.abs()
        counts = self.decay * self.counts + (1 - self.decay)
        return torch.where(losses.labeled, sums, self.sums), torch.where(losses.labeled, counts, self.counts)

    def factors(self, losses: Losses | None) -> Tensor:
        assert losses is not None
        sums, counts = self._with(losses)
        return torch.where(counts > 0, 1 / (sums / counts).clamp(min=LEAST), 1)

    def learn(self, losses: Losses) -> None:
        sums, counts = self._with(losses)
        self.sums.copy_(sums)
        self.counts.copy_(counts)


def create(columns: Columns, decay: float = 0.98) -> Balancing:
    """Return the scheme; ``decay`` is the share of the running mean that a step keeps."""
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; it must be at least 0 and below 1")
    return _EqualScale(len(columns.names), decay)
