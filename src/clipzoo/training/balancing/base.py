"""The protocol of balancing, and what a scheme receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns whose losses are balanced: all with a weight in the recipe. N is their number.

    Attributes:
        names: their names.
        weights: their weights in the recipe, float32 [N], by which the factors of a scheme are multiplied.
        seed: of the training.
    """

    names: tuple[str, ...]
    weights: Tensor
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of one step, of the whole batch: equal on all processes.

    Attributes:
        step: number of the step.
        values: unweighted losses without graph, float32 [N]; 0 without a label.
        labeled: True where a sample of the batch has a label of the column, bool [N].
        gradients: norm of the gradient of each unweighted loss at the tapped layers, float32 [N]; None unless the
            scheme ``uses_gradients``.
    """

    step: int
    values: Tensor
    labeled: Tensor
    gradients: Tensor | None = None


class Balancing(nn.Module):
    """Factors on the losses of columns. Parameters and buffers are its state, which checkpoints keep.

    Parameters are in the optimizer, without weight decay, at the rate ``learning_rate`` × schedule. `learn` sets their
    gradients.

    Attributes:
        uses_losses: `factors` needs the losses of the same step.
        uses_gradients: the norms of the gradients are measured in each step.
        learning_rate: peak learning rate of the parameters.
    """

    uses_losses: ClassVar[bool] = False
    uses_gradients: ClassVar[bool] = False
    learning_rate: float = 0.0

    def factors(self, losses: Losses | None) -> Tensor | None:
        """Return the factors of a step, float32 [N] without graph; None if all are 1. Changes no state.

        Args:
            losses: of the same step; None unless the scheme ``uses_losses``.
        """
        return None

    def learn(self, losses: Losses) -> None:
        """Set the gradients of the parameters, or change the state, after the backward pass of a step.

        It is not called for steps that are skipped since their gradient is not finite.
        """


class BalancingPlugin(Protocol):
    """A module of this folder."""

    def create(self, columns: Columns) -> Balancing:
        """Return the scheme of a training. Further keywords are options; `ValueError` if a value is not possible."""
