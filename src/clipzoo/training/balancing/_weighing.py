"""The weights of the losses in each step: those of the recipe, multiplied by the factors of the balancing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.training import objectives
from clipzoo.training.balancing import _tapped
from clipzoo.training.balancing._schemes import create
from clipzoo.training.balancing._tapped import Measured
from clipzoo.training.balancing.base import Columns, Losses
from clipzoo.training.job import Job
from clipzoo.training.objectives import ColumnObjective, ContrastiveObjective, Objective
from clipzoo.training.processes import ranks


class Balancer:
    """The balancing of a training: `begin` a step, `weigh` its losses before the backward pass, `learn` after it.

    Args:
        terms: objectives of the training.
        job: its settings name the scheme.
    """

    def __init__(self, terms: Sequence[Objective], job: Job) -> None:
        columns = [one for one in terms if isinstance(one, ColumnObjective) and one.weight]
        self.names, self.recipe_weights = tuple(one.name for one in columns), {one.name: one.weight for one in columns}
        weights = torch.tensor([one.weight for one in columns])
        self.scheme = create(job.settings.balancing, Columns(self.names, weights, job.seed)).to(job.device)
        self.learns = bool(self.scheme.state_dict())
        self.every = job.settings.gradients_every
        self.measured: Measured | None = None
        self._factors: dict[str, Tensor] = {}
        self._step = 0
        self._targets: Mapping[str, Mapping[str, Tensor]] = {}

    @property
    def uses_losses(self) -> bool:
        """True if `weigh` needs the terms of the step."""
        return self.scheme.uses_losses

    @property
    def uses_maps(self) -> bool:
        """True if gradients are measured at the tapped layers in some steps."""
        return self.scheme.uses_gradients or self.every is not None

    @property
    def due(self) -> bool:
        """True if gradients are measured for the log in this step."""
        return self.every is not None and self._step % self.every == 0

    def add_parameters(self, adam: torch.optim.Optimizer) -> None:
        """Add the parameters of the scheme to the optimizer, without weight decay."""
        if parameters := list(self.scheme.parameters()):
            adam.add_param_group({"params": parameters, "weight_decay": 0.0, "peak": self.scheme.learning_rate})

    def begin(self, step: int, batch: Batch) -> None:
        """Begin a step on this process's part of the batch."""
        self._step, self._targets, self.measured, self._factors = step, batch.targets, None, {}

    def weigh(self, values: Mapping[str, Tensor], maps: Sequence[Tensor] = (), scale: float = 1.0) -> None:
        """Choose the factors of the step; all processes call it.

        Args:
            values: this process's unweighted terms, whose mean over processes is that of the whole batch; they may be
                empty unless the scheme ``uses_losses``.
            maps: tapped maps with their graph, of the steps in which gradients are measured.
            scale: factor on the terms in the backward pass.
        """
        if self.due or self.scheme.uses_gradients:
            terms = values if self.due else {name: values[name] for name in self.names}
            self.measured = _tapped.measure(maps, terms, ContrastiveObjective.name, scale)
        losses = None
        if self.scheme.uses_losses:
            own = torch.stack([values[name].detach().float() for name in self.names])
            losses = self._losses(ranks.summed(own) / ranks.world_size())
        factors = self.scheme.factors(losses)
        self._factors = {} if factors is None else dict(zip(self.names, factors, strict=True))

    def total(self, terms: Sequence[Objective], values: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of terms with the factors of the step, a scalar."""
        return objectives.total(terms, values, self._factors)

    def learn(self, values: Mapping[str, Tensor]) -> None:
        """Let the scheme learn from the step; ``values`` are the unweighted terms of the whole batch."""
        if self.learns:
            self.scheme.learn(self._losses(torch.stack([values[name].detach().float() for name in self.names])))

    def values(self) -> dict[str, Tensor]:
        """Return scalars for the log: the weights of the step unless all are fixed, and what was measured."""
        found = {f"weight/{name}": factor * self.recipe_weights[name] for name, factor in self._factors.items()}
        if self.measured and self.due:
            found |= {f"gradient_norm/{name}": value for name, value in self.measured.norms.items()}
            found |= {f"gradient_cosine/{name}": value for name, value in self.measured.cosines.items()}
        return found

    def _losses(self, values: Tensor) -> Losses:
        """Return the losses of the step from those of the whole batch; all processes call it."""
        labeled = torch.stack([self._targets[name]["valid"].any() for name in self.names])
        gradients = None
        if self.scheme.uses_gradients and self.measured:
            gradients = torch.stack([self.measured.norms[name] for name in self.names])
        return Losses(self._step, values, ranks.summed(labeled.float(), largest=True) > 0, gradients)
