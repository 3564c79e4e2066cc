"""Gradient norm: columns that learn more slowly than others get larger gradients.

Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
Multitask Networks" (ICML 2018, arXiv 1711.02257). With g the norm of a loss's gradient and f its factor, the factors
minimize Σ |f · g − mean(f · g) · r^α|, where the second term is a constant, and r is the loss relative to its first
value, divided by the mean of that over the columns.

Two things differ from the paper: g is the norm at the tapped layers of the image tower instead of at the weights of the
last shared layer, and the contrastive loss takes no part. The factors sum to the number of columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipzoo.training.balancing.base import Balancing, Columns, Losses

LEAST = 0.01
"""Smallest factor before the sum is restored."""
TINY = 1e-8


class _GradientNorm(Balancing):
    uses_gradients = True
    first: Tensor

    def __init__(self, count: int, alpha: float, learning_rate: float) -> None:
        super().__init__()
        self.alpha, self.learning_rate = alpha, learning_rate
        self.shares = nn.Parameter(torch.ones(count))
        self.register_buffer("first", torch.zeros(count))

    @torch.no_grad()
    def factors(self, losses: Losses | None) -> Tensor:
        shares = self.shares.clamp(min=LEAST)
        return shares * (len(shares) / shares.sum())

    @torch.no_grad()
    def learn(self, losses: Losses) -> None:
        assert losses.gradients is not None
        factors, labeled = self.factors(losses), losses.labeled & losses.gradients.isfinite()
        self.shares.copy_(factors)
        values = losses.values.clamp(min=TINY)
        self.first.copy_(torch.where(labeled & (self.first == 0), values, self.first))
        norms = torch.where(labeled, losses.gradients, 0)
        progress = torch.where(labeled, values / self.first.clamp(min=TINY), 0)
        count = labeled.sum().clamp(min=1)
        pace = progress / (progress.sum() / count).clamp(min=TINY)
        target = (factors * norms).sum() / count * pace**self.alpha
        self.shares.grad = torch.where(labeled, torch.sign(factors * norms - target) * norms, 0)


def create(columns: Columns, alpha: float = 1.5, learning_rate: float = 0.025) -> Balancing:
    """Return the scheme.

    Args:
        columns: balanced columns.
        alpha: strength with which slow columns are favored; 0 gives all columns equal gradients.
        learning_rate: peak rate of the factors.
    """
    if not (learning_rate > 0 and alpha >= 0):
        raise ValueError(
            f"alpha is {alpha} and learning_rate is {learning_rate}; alpha must be at least 0 and the rate above 0"
        )
    return _GradientNorm(len(columns.names), alpha, learning_rate)
