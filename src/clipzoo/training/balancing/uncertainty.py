"""Uncertainty: each loss is divided by a variance that is learned.

Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics" (CVPR
2018, arXiv 1705.07115): with s = log σ² of a column, exp(−s) · loss + s / 2 is minimized, the paper's form for
classification. Its form for regression halves the first term. The minimum of both is where the loss is multiplied by
1 / (2 · loss), so one form serves all columns: the one that starts at the weights of the recipe.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clipzoo.training.balancing.base import Balancing, Columns, Losses

LIMIT = math.log(100)
"""Largest |s|: factors stay between 1/100 and 100, also for losses that can be 0 or negative."""


class _Uncertainty(Balancing):
    def __init__(self, count: int, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.log_variances = nn.Parameter(torch.zeros(count))

    @torch.no_grad()
    def factors(self, losses: Losses | None) -> Tensor:
        return torch.exp(-self.log_variances.clamp(-LIMIT, LIMIT))

    @torch.no_grad()
    def learn(self, losses: Losses) -> None:
        self.log_variances.clamp_(-LIMIT, LIMIT)
        gradient = 0.5 - torch.exp(-self.log_variances) * losses.values
        self.log_variances.grad = torch.where(losses.labeled, gradient, 0)


def create(columns: Columns, learning_rate: float = 0.01) -> Balancing:
    """Return the scheme; ``learning_rate`` is the peak rate of the log-variances, which start at 0."""
    if not learning_rate > 0:
        raise ValueError(f"learning_rate is {learning_rate}, and a rate above 0 is needed")
    return _Uncertainty(len(columns.names), learning_rate)
