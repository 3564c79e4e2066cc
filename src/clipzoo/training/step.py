"""One update of the student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.errors import DatasetError, DivergedError
from clipzoo.training import objectives, optimizer, ranks
from clipzoo.training.job import Training
from clipzoo.training.objectives import ContrastiveObjective
from clipzoo.training.parts import Parts
from clipzoo.training.sharding import Sharding


@dataclass(frozen=True, slots=True)
class Update:
    """Values of one update: unweighted terms, their weighted sum, the gradient's norm, the image tower's rate."""

    terms: Mapping[str, Tensor]
    loss: Tensor
    gradient_norm: Tensor
    rate: float

    def values(self) -> dict[str, float]:
        """Return numbers for the log. This waits for the device."""
        named = {f"loss/{name}": term.item() for name, term in self.terms.items()}
        return named | {"loss": self.loss.item(), "gradient_norm": self.gradient_norm.item(), "rate": self.rate}


class Updater:
    """Forward pass, objectives, backward pass and optimizer of a training."""

    def __init__(self, training: Training, adam: torch.optim.Optimizer, sharding: Sharding) -> None:
        self.job, self.student, self.adam, self.sharding = training.job, training.student, adam, sharding
        settings = self.job.settings
        self.objectives = [
            replace(one, rows=settings.contrastive_rows) if isinstance(one, ContrastiveObjective) else one
            for one in objectives.build(self.student, self.job.weights)
        ]
        in_parts = ranks.world_size() > 1 or settings.accumulate > 1
        self.parts = Parts(sharding, self.objectives, settings) if in_parts else None

    def update(self, batch: Batch, step: int) -> Update:
        """Train on one batch.

        Raises:
            DatasetError: no sample of the batch could be read.
            DivergedError: the gradient is not finite.
        """
        if not batch.captions and self.parts is None:
            raise DatasetError(_no_samples(step, batch))
        factor = optimizer.schedule(step, self.job.steps, self.job.settings.warmup)
        for group in self.adam.param_groups:
            group["lr"] = group["peak"] * factor
        self.adam.zero_grad(set_to_none=True)
        terms, loss = self._gradients(batch, step)
        norm = self.sharding.clip(self.job.settings.clip_norm)
        if not math.isfinite(norm):
            raise DivergedError(_not_finite(step, terms, batch))
        self.adam.step()
        with torch.no_grad():
            self.student.clip.logit_scale.clamp_(0, math.log(100))
        return Update(terms, loss, norm, self.job.rate * factor)

    def _gradients(self, batch: Batch, step: int) -> tuple[Mapping[str, Tensor], Tensor]:
        """Compute the gradients of a batch; return its terms and their weighted sum."""
        if self.parts is not None:
            terms = self.parts.gradients(batch, step)
            return terms, objectives.total(self.objectives, terms)
        mixed = self.job.settings.precision == "bf16"
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=mixed):
            outputs = self.sharding.forward(batch.images, batch.tokens)
        terms = objectives.terms(self.objectives, outputs, batch)
        loss = objectives.total(self.objectives, terms)
        loss.backward()  # type: ignore[no-untyped-call]
        return terms, loss


def _no_samples(step: int, batch: Batch) -> str:
    key, reason = batch.skipped[0]
    return (
        f"step {step}: none of the {len(batch.skipped)} samples of the batch could be read. The first is {key}: "
        f"{reason}. Restore the dataset, or raise training.batch_size, and rerun the command"
    )


def _not_finite(step: int, terms: Mapping[str, Tensor], batch: Batch) -> str:
    values = ", ".join(f"{name}={term.item():.4g}" for name, term in terms.items())
    return (
        f"the gradient is not finite at step {step} ({values}; {len(batch.captions)} images). Lower "
        "training.learning_rates or the weight of a column. If one term alone is not finite, check the labels of that "
        "column with `clipzoo inspect`"
    )
