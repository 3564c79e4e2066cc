"""Steps whose gradient is not finite: skipped and recorded within a budget; above it, the training has diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clipzoo.data import Batch
from clipzoo.errors import DivergedError
from clipzoo.training.job import Job
from clipzoo.training.processes import ranks
from clipzoo.training.records import NONFINITE, append_line

SMALLEST_SCALE = 1.0
"""At this scale of the loss or below, a gradient that is not finite in fp16 is not an overflow of the scaling."""


class Skips:
    """Skipped steps of a training.

    Args:
        job: its budget is ``max_nonfinite`` steps, and at most a tenth of all steps.
        student: statistics of its batch norms are restored after a skipped step, whose activations may not be finite.
        scaler: of the loss; enabled in fp16, where steps are also skipped to lower the scale.
    """

    def __init__(self, job: Job, student: nn.Module, scaler: torch.amp.GradScaler) -> None:
        self.job, self.scaler = job, scaler
        self.allowed = min(job.settings.max_nonfinite, job.steps // 10)
        self.nonfinite, self.overflows = 0, 0
        norms = [m for m in student.modules() if isinstance(m, _BatchNorm)] if self.possible else []
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self._before = [buffer.clone() for buffer in self._statistics]

    @property
    def possible(self) -> bool:
        """True if a step may be skipped."""
        return self.allowed > 0 or self.scaler.is_enabled()

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the statistics of batch norms before a forward pass in training mode."""
        for kept, buffer in zip(self._before, self._statistics, strict=True):
            kept.copy_(buffer)

    def skip(self, step: int, norm: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> bool:
        """Return True if the step must be skipped: its gradient is not finite. All ranks have the same gradient.

        Raises:
            DivergedError: more steps were skipped than allowed.
        """
        if math.isfinite(norm):
            return False
        values = {name: term.item() for name, term in terms.items()}
        found = ranks.share((all(map(math.isfinite, values.values())), batch.keys))
        self._restore()
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 0.0
        if scale > SMALLEST_SCALE and all(finite for finite, _ in found):
            self.overflows += 1
            return True
        self.nonfinite += 1
        if ranks.is_main():
            append_line(self.job.out / NONFINITE, _line(step, values, [key for _, keys in found for key in keys]))
        if self.nonfinite > self.allowed:
            raise DivergedError(self._message(step, values, batch))
        return True

    @torch.no_grad()
    def _restore(self) -> None:
        for kept, buffer in zip(self._before, self._statistics, strict=True):
            buffer.copy_(kept)

    def _message(self, step: int, terms: Mapping[str, float], batch: Batch) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in terms.items())
        before = f", after {self.nonfinite - 1} other steps, which were skipped" if self.nonfinite > 1 else ""
        half = " Set training.precision to bf16, which has the range of fp32." if self.scaler.is_enabled() else ""
        return (
            f"the gradient is not finite at step {step} ({values}; {len(batch.captions)} images){before}. Lower "
            f"training.learning_rates or the weight of a column.{half} If one term alone is not finite, check the "
            f"labels of that column with `clipzoo inspect`. {self.job.out / NONFINITE} lists the keys of the batch"
        )

    def values(self) -> dict[str, float]:
        """Return numbers for the log; none if no step may be skipped."""
        if not self.possible:
            return {}
        scale = {"overflows": self.overflows, "loss_scale": self.scaler.get_scale()}
        return {"nonfinite": self.nonfinite} | (scale if self.scaler.is_enabled() else {})

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"nonfinite": self.nonfinite, "overflows": self.overflows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts, which checkpoints of earlier releases do not have."""
        self.nonfinite, self.overflows = state.get("nonfinite", 0), state.get("overflows", 0)


def _line(step: int, terms: Mapping[str, float], keys: list[str]) -> dict[str, Any]:
    """Return a JSON object; numbers that are not finite, which JSON does not have, are text."""
    shown = {name: value if math.isfinite(value) else str(value) for name, value in terms.items()}
    return {"step": step, "terms": shown, "keys": keys}
