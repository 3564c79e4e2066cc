"""One update of the student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.errors import DatasetError
from clipzoo.training import objectives, optimizer
from clipzoo.training.average import Average
from clipzoo.training.checkpoint import Stateful
from clipzoo.training.job import Training
from clipzoo.training.nonfinite import Skips

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> the type of matrix products and convolutions in the forward pass."""


@dataclass(frozen=True, slots=True)
class Update:
    """Values of one update: unweighted terms, their weighted sum, the gradient's norm, the image tower's rate."""

    terms: Mapping[str, Tensor]
    loss: Tensor
    gradient_norm: Tensor
    rate: float
    skips: Mapping[str, float]

    def values(self) -> dict[str, float]:
        """Return numbers for the log. This waits for the device."""
        named = {f"loss/{name}": term.item() for name, term in self.terms.items()}
        norm = self.gradient_norm.item()
        return {**named, "loss": self.loss.item(), "gradient_norm": norm, "rate": self.rate, **self.skips}


class Updater:
    """Forward pass, objectives, backward pass and optimizer of a training."""

    def __init__(self, training: Training, adam: torch.optim.Optimizer) -> None:
        self.job, self.student, self.adam = training.job, training.student, adam
        self.objectives = objectives.build(self.student, self.job.loss_weights)
        self.forward = torch.compile(self.student) if self.job.settings.compile else self.student
        self.scaler = torch.amp.GradScaler(self.job.device, enabled=self.job.settings.precision == "fp16")
        self.skips = Skips(self.job, self.student, self.scaler)
        self.average = Average(self.student, self.job.settings.ema) if self.job.settings.ema else None

    @property
    def parts(self) -> dict[str, Stateful]:
        """Name in a checkpoint -> object with a state of its own."""
        scaler = {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        average = {"ema": self.average} if self.average else {}
        return {"skips": self.skips, **scaler, **average}

    def update(self, batch: Batch, step: int) -> Update:
        """Train on one batch.

        Raises:
            DatasetError: no sample of the batch could be read.
            DivergedError: the gradient is not finite, in more steps than allowed.
        """
        if not batch.captions:
            raise DatasetError(_no_samples(step, batch))
        factor = optimizer.set_rates(self.adam, step, self.job.steps, self.job.settings)
        self.skips.remember()
        dtype = DTYPES.get(self.job.settings.precision)
        with torch.autocast(batch.images.device.type, dtype, enabled=dtype is not None):
            outputs = self.forward(batch.images, batch.tokens)
        terms = objectives.terms(self.objectives, outputs, batch)
        loss = objectives.total(self.objectives, terms)
        norm = self._backward(loss)
        if not self.skips.skip(step, norm, terms, batch):
            self.scaler.step(self.adam)
            with torch.no_grad():
                self.student.clip.logit_scale.clamp_(0, math.log(100))
            if self.average:
                self.average.update()
        self.scaler.update()
        return Update(terms, loss, norm, self.job.rate * factor, self.skips.values())

    def _backward(self, loss: Tensor) -> Tensor:
        """Compute clipped gradients; return their norm before clipping."""
        self.adam.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.adam)
        return torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.job.settings.clip_norm)


def _no_samples(step: int, batch: Batch) -> str:
    key, reason = batch.skipped[0]
    return (
        f"step {step}: none of the {len(batch.skipped)} samples of the batch could be read. The first is {key}: "
        f"{reason}. Restore the dataset, or raise training.batch_size, and rerun the command"
    )
