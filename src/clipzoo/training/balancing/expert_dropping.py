"""Expert dropping: the column of the largest loss is learned in each step, each other one with probability 1 − p.

Sariyildiz et al., "UNIC: Universal Classification Models via Multi-teacher Distillation" (ECCV 2024, arXiv 2408.05088),
teacher dropping. There the columns are chosen for each image, and the losses are divided by the number of those kept;
here they are chosen for each batch, and losses that are kept are not scaled. Columns without a label in the batch take
no part. Losses of different tasks are compared after multiplication by their weights in the recipe.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipzoo.training.balancing.base import Balancing, Columns, Losses


class _ExpertDropping(Balancing):
    uses_losses = True

    def __init__(self, columns: Columns, p: float) -> None:
        super().__init__()
        self.columns, self.p = columns, p

    def factors(self, losses: Losses | None) -> Tensor:
        assert losses is not None
        weighted = self.columns.weights.to(losses.values.device) * losses.values
        largest = torch.where(losses.labeled, weighted, -torch.inf).argmax()
        drawn = np.random.default_rng([self.columns.seed, losses.step]).random(len(weighted))
        kept = torch.from_numpy(drawn >= self.p).to(weighted.device)
        return (kept | (torch.arange(len(kept), device=kept.device) == largest)).float()


def create(columns: Columns, p: float = 0.5) -> Balancing:
    """Return the scheme; ``p`` is the probability with which each column but that of the largest loss is dropped.

    The columns of a step depend on the seed, the step and the losses only.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, which is no probability: give a number from 0 to 1")
    return _ExpertDropping(columns, p)
