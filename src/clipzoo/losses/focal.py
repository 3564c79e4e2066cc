"""Focal loss of independent classes: cross-entropy with small weights of easy pixels.

Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection" (ICCV 2017, arXiv 1708.02002), equation 5
and §4.1; targets between 0 and 1 are treated as in torchvision's ``sigmoid_focal_loss``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from clipzoo.losses.masked import Pixels, averaged


def pixels(prediction: Tensor, target: Tensor, valid: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Pixels:
    """Return −αₜ (1 − pₜ)^γ log pₜ, summed over known pixels and channels, divided by the number of positive pixels.

    pₜ is the sigmoid of the prediction where the target is 1, else one minus it. Without focus (γ = 0)
    and balance (α < 0), and with every pixel positive, it is binary cross-entropy.

    Args:
        prediction: [B,K,H,W] logits.
        target: [B,K,H,W] in [0, 1]; a pixel is positive if any of its channels is larger than 0.
        valid: bool [B,H,W], or [B,K,H,W] where a pixel's channels are not all known.
        alpha: weight of target 1, and 1 − alpha of target 0; a negative value disables the weights.
        gamma: focus; larger values give easy pixels less weight.

    Returns:
        values of which the loss is the mean.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    known = valid if valid.ndim == prediction.ndim else valid[:, None]
    logits = torch.where(known, prediction.to(dtype), 0)
    right = torch.where(known, target.to(dtype), 0)
    losses = sigmoid_focal_loss(logits, right, alpha, gamma)
    return Pixels(torch.where(known, losses, 0), (right > 0).any(1))


loss = averaged(pixels)
