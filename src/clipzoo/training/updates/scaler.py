"""The scale of the loss in float16, of whole and of sharded gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.training.processes import ranks
from clipzoo.training.processes.sharding import local


class Scaler(torch.amp.GradScaler):
    """A `torch.amp.GradScaler` that sees the shards of FSDP2.

    That of torch (2.14) refuses a list of gradients of which some are shards and others, such as that of the logit
    scale, are whole. The overflow of any process lowers the scale of all.
    """

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            if gradients:
                shards = [local(gradient) for gradient in gradients]
                torch._amp_foreach_non_finite_check_and_unscale_(shards, found_inf, inv_scale)
        return {found_inf.device: ranks.summed(found_inf, largest=True)}
