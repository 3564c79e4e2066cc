"""Angular error of directions with a learned confidence, the mean over all known pixels of the batch.

Bae, Budvytis and Cipolla, "Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation" (2021,
arXiv 2109.09881), section 3: the negative log-likelihood of the angular von Mises–Fisher distribution, whose
density on the sphere is (κ² + 1) / (2π (1 + exp(−κπ))) · exp(−κ θ) at an angle of θ from the prediction.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from clipzoo.losses.masked import Pixels, averaged

EXTRA_CHANNELS = 1
"""The raw output has the prediction's channels, then one for κ."""

LEAST = 0.01
"""Smallest κ, as in the authors' code."""


def pixels(prediction: Tensor, target: Tensor, valid: Tensor, eps: float = 1e-3) -> Pixels:
    """Return −log density of the target; its minimum decreases without bound as κ increases.

    Args:
        prediction: [B,4,H,W], vectors of any length, and r with κ = ELU(r) + 1.01.
        target: [B,3,H,W] unit vectors; any value where not valid.
        valid: bool [B,H,W].
        eps: the length below which a prediction counts as having no direction, and the angle (rad) below which its
            gradient fades.

    Returns:
        values of which the loss is the mean.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    raw = torch.where(valid[:, None], prediction.to(dtype), 0)
    t = torch.where(valid[:, None], target.to(dtype), 0)
    p = raw[:, :3] / torch.sqrt(raw[:, :3].square().sum(1, keepdim=True) + eps**2)
    kappa = F.elu(raw[:, 3]) + 1 + LEAST
    apart, together = (torch.sqrt(x.square().sum(1) + eps**2) for x in (p - t, p + t))
    angle = 2 * torch.atan2(apart, together)  # the arc cosine has no gradient at 0 and π
    normalizer = torch.log1p(torch.exp(-kappa * math.pi)) - torch.log1p(kappa.square()) + math.log(2 * math.pi)
    return Pixels(torch.where(valid, kappa * angle + normalizer, 0), valid)


loss = averaged(pixels)
