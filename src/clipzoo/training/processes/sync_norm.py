"""Batch norm with the statistics of the whole batch on all processes, so that their number changes nothing."""

from __future__ import annotations

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from clipzoo.errors import RecipeError
from clipzoo.models import Student
from clipzoo.training.processes import ranks


class SyncedBatchNorm(nn.BatchNorm2d):
    """`torch.nn.SyncBatchNorm` for the CPU, which that refuses (torch 2.14)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps [B,C,H,W]; B may differ between processes."""
        if not self.training or not self.track_running_stats:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = ranks.summed(wide.new_tensor(x.numel() / x.shape[1]))
        mean = ranks.Summed.apply(wide.sum((0, 2, 3))) / count
        centered = wide - mean[:, None, None]
        variance = ranks.Summed.apply(centered.square().sum((0, 2, 3))) / count
        self._update(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps) * (1 if self.weight is None else self.weight)
        shift = 0 if self.bias is None else self.bias[:, None, None]
        normalized: Tensor = centered * scale[:, None, None] + shift
        return normalized.to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronize(student: Student, device: torch.device) -> None:
    """Let all batch norms of the student use the statistics of the whole batch.

    Raises:
        RecipeError: on the CPU, for another kind of batch norm than `torch.nn.BatchNorm2d`.
    """
    if device.type == "cuda":
        for part in ("clip", "heads"):  # timm's function knows its own fused layers, too
            setattr(student, part, convert_sync_batchnorm(getattr(student, part)))
        return
    for name, module in student.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SyncedBatchNorm):
            raise RecipeError(
                f"{name} of the student is a {type(module).__name__}, which several processes cannot synchronize on "
                "the CPU. Train with one process, or on GPUs"
            )
