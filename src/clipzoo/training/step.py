"""One update of the student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.errors import DatasetError, DivergedError
from clipzoo.training import objectives, optimizer
from clipzoo.training.job import Training


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

    def __init__(self, training: Training, adam: torch.optim.Optimizer) -> None:
        self.job, self.student, self.adam = training.job, training.student, adam
        settings = self.job.settings
        self.objectives = objectives.build(self.student, self.job.weights)
        self.objectives += objectives.anchors(self.student, settings.anchors, settings.precision)
        self.rate_factor = 1.0  # lowered by the guard
        self.forward = torch.compile(self.student) if self.job.settings.compile else self.student

    def update(self, batch: Batch, step: int) -> Update:
        """Train on one batch.

        Raises:
            DatasetError: no sample of the batch could be read.
            DivergedError: the gradient is not finite.
        """
        if not batch.captions:
            raise DatasetError(_no_samples(step, batch))
        factor = optimizer.schedule(step, self.job.steps, self.job.settings.warmup) * self.rate_factor
        for group in self.adam.param_groups:
            group["lr"] = group["peak"] * factor
        mixed = self.job.settings.precision == "bf16"
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=mixed):
            outputs = self.forward(batch.images, batch.tokens)
        terms = objectives.terms(self.objectives, outputs, batch)
        loss = objectives.total(self.objectives, terms)
        norm = self._backward(loss)
        if not math.isfinite(norm):
            raise DivergedError(_not_finite(step, terms, batch))
        self.adam.step()
        with torch.no_grad():
            self.student.clip.logit_scale.clamp_(0, math.log(100))
        return Update(terms, loss, norm, self.job.rate * factor)

    def _backward(self, loss: Tensor) -> Tensor:
        """Compute clipped gradients; return their norm before clipping."""
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.job.settings.clip_norm)


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
