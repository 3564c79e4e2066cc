"""One update of the student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.errors import DatasetError, counted
from clipzoo.training import objectives, precision
from clipzoo.training.balancing import Balancer
from clipzoo.training.checkpoint import Stateful
from clipzoo.training.job import Training
from clipzoo.training.objectives import ContrastiveObjective
from clipzoo.training.processes import ranks
from clipzoo.training.processes.parts import Parts
from clipzoo.training.processes.sharding import Sharding, whole
from clipzoo.training.updates import optimizer
from clipzoo.training.updates.average import Average
from clipzoo.training.updates.nonfinite import Skips
from clipzoo.training.updates.scaler import Scaler


@dataclass(frozen=True, slots=True)
class Update:
    """Values of one update: unweighted terms, their weighted sum, the gradient's norm, the image tower's rate.

    ``balancing`` are scalars of `Balancer.values`; ``measured`` is True if gradients were measured for the log.
    """

    terms: Mapping[str, Tensor]
    loss: Tensor
    gradient_norm: Tensor
    rate: float
    skips: Mapping[str, float]
    balancing: Mapping[str, Tensor]
    measured: bool

    def values(self) -> dict[str, float]:
        """Return numbers for the log. This waits for the device."""
        named = {f"loss/{name}": term.item() for name, term in self.terms.items()}
        named |= {name: value.item() for name, value in self.balancing.items()}
        norm = self.gradient_norm.item()
        return {**named, "loss": self.loss.item(), "gradient_norm": norm, "rate": self.rate, **self.skips}


class Updater:
    """Forward pass, objectives, backward pass and optimizer of a training.

    It is made of the student before a checkpoint is loaded.

    Attributes:
        largest_scale: limit of a trained ``logit_scale``: ln 100, or the start of a SigLIP if it is larger. A resumed
            training has the same limit.
    """

    def __init__(self, training: Training, adam: torch.optim.Optimizer, sharding: Sharding) -> None:
        self.job, self.student, self.adam, self.sharding = training.job, training.student, adam, sharding
        settings = self.job.settings
        self.objectives = [
            replace(one, rows=settings.contrastive_rows) if isinstance(one, ContrastiveObjective) else one
            for one in objectives.build(self.student, self.job.loss_weights)
        ]
        self.objectives += objectives.anchors(sharding.start, settings.anchors)
        self.rate_factor = 1.0  # lowered by the guard
        in_parts = ranks.world_size() > 1 or settings.accumulate > 1
        self.balancer = Balancer(self.objectives, self.job)
        self.balancer.add_parameters(adam)
        self.student.returns_maps |= self.balancer.uses_maps
        self.parts = Parts(sharding, self.objectives, settings, self.balancer) if in_parts else None
        self.scaler = Scaler(self.job.device, enabled=settings.precision == "fp16")
        self.skips = Skips(self.job, self.student, self.scaler)
        sigmoid = getattr(self.student.clip, "logit_bias", None) is not None
        start = whole(self.student.clip.logit_scale.detach()).max().item()
        self.largest_scale = max(math.log(100), start) if sigmoid else math.log(100)
        self.average = Average(self.student, settings.ema) if settings.ema else None

    @property
    def states(self) -> dict[str, Stateful]:
        """Name in a checkpoint -> object with a state of its own."""
        scaler = {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        average = {"ema": self.average} if self.average else {}
        balancing = {"balancing": self.balancer.scheme} if self.balancer.learns else {}
        return {"skips": self.skips, **scaler, **average, **balancing}

    def update(self, batch: Batch, step: int) -> Update:
        """Train on one batch.

        Raises:
            DatasetError: no sample of the batch could be read.
            DivergedError: the gradient is not finite, in more steps than allowed.
        """
        if not batch.captions and self.parts is None:
            raise DatasetError(_no_samples(step, batch))
        factor = optimizer.set_rates(self.adam, step, self.job.steps, self.job.settings, self.rate_factor)
        self.skips.remember()
        self.adam.zero_grad(set_to_none=True)
        self.balancer.begin(step, batch)
        terms, loss = self._gradients(batch, step)
        self.scaler.unscale_(self.adam)
        norm = self.sharding.clip(self.job.settings.clip_norm)
        try:
            if not self.skips.skip(step, norm, terms, batch):
                self._learn(terms)
        finally:  # also after a gradient that is not finite: the guard continues with the same scaler
            self.scaler.update()
        values, due = self.balancer.values(), self.balancer.due
        return Update(terms, loss, norm, self.job.rate * factor, self.skips.values(), values, due)

    def _learn(self, terms: Mapping[str, Tensor]) -> None:
        """Move the weights by the gradients of a step."""
        self.balancer.learn(terms)
        self.scaler.step(self.adam)
        scale = self.student.clip.logit_scale
        if scale.requires_grad:
            with torch.no_grad():
                scale.clamp_(0, self.largest_scale)
        if self.average:
            self.average.update()

    def _gradients(self, batch: Batch, step: int) -> tuple[Mapping[str, Tensor], Tensor]:
        """Compute the scaled gradients of a batch; return its terms and their weighted sum."""
        one = torch.ones((), device=self.sharding.device)
        scale = self.scaler.scale(one).item() if self.scaler.is_enabled() else 1.0
        if self.parts is not None:
            self.parts.factor = scale
            terms = self.parts.gradients(batch, step)
            return terms, self.balancer.total(self.objectives, terms)
        with precision.autocast(self.job.settings.precision, batch.images.device):
            outputs = self.sharding.forward(batch.images, batch.tokens)
        terms = objectives.terms(self.objectives, outputs, batch)
        self.balancer.weigh(terms, outputs.get("maps", ()), scale)
        loss = self.balancer.total(self.objectives, terms)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return terms, loss


def _no_samples(step: int, batch: Batch) -> str:
    shard, key, reason = batch.skipped[0]
    return (
        f"step {step}: of the batch's {counted(len(batch.skipped), 'sample')}, none could be read. The first is "
        f"{shard}/{key}: {reason}. Restore the dataset, or raise training.batch_size, and rerun the command"
    )
