"""Scale-and-shift-invariant error of affine depth and disparity, with gradients matched at several scales.

Ranftl et al., "Towards Robust Monocular Depth Estimation" (MiDaS, 2019, arXiv 1907.01341), section 5: both maps
are normalized to median 0 and mean absolute value 1; the largest residuals, which are more often errors of the labels
than of the prediction, are left out; gradients of the residual are added at several resolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.losses.masked import batch_mean, image_mean, image_median, known


def loss(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    alpha: float = 0.5,
    scales: int = 4,
    trim: float = 0.2,
    eps: float = 1e-3,
) -> Tensor:
    """Return Σ|r| / 2M over the M·(1 − trim) smallest residuals of an image + α · gradients of r, averaged over images.

    An image with constant truth has no information up to scale and shift, and is not counted.

    Args:
        prediction: [B,1,H,W] or [B,H,W].
        target: [B,H,W], in any affine unit; any value where not valid.
        valid: bool [B,H,W]; an image has M known pixels.
        alpha: weight of the gradients.
        scales: number of resolutions of the gradients, each half of the one before.
        trim: share of largest residuals left out, in [0, 1).
        eps: added to the prediction's scale, for a finite gradient where it is constant.

    Returns:
        scalar; 0 with the graph attached if no image counts.
    """
    (p, p_scale), (t, t_scale) = (_centered(known(x, valid), valid) for x in (prediction, target))
    informative = t_scale > 1e-5 * image_mean(known(target, valid).abs(), valid)
    residual = p / (p_scale + eps) - t / torch.where(informative, t_scale, 1)
    losses = _trimmed(residual.abs(), valid, trim) / 2 + alpha * _edges(residual, valid, scales)
    return batch_mean(losses, informative)


def _centered(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` [B,H,W] minus its image's median, 0 where unknown, and its mean absolute value, [B,1,1]."""
    centered = torch.where(valid, x - image_median(x, valid), 0)
    return centered, image_mean(centered.abs(), valid)


def _trimmed(size: Tensor, valid: Tensor, trim: float) -> Tensor:
    """Return the sum of an image's known values without the largest share ``trim``, per known pixel, [B,1,1]."""
    ordered = torch.where(valid, size, torch.inf).flatten(1).sort(1).values
    count = valid.flatten(1).sum(1, keepdim=True)
    kept = torch.arange(ordered.shape[1], device=size.device) < (count * (1 - trim)).ceil()
    return (torch.where(kept, ordered, 0).sum(1, keepdim=True) / count.clamp(min=1))[:, :, None]


def _edges(residual: Tensor, valid: Tensor, scales: int) -> Tensor:
    """Return Σ over scales of the differences of known neighbors, per known pixel of the scale, [B,1,1]."""
    total = residual.new_zeros(len(residual), 1, 1)
    for scale in range(scales):
        r, v = (x[:, :: 2**scale, :: 2**scale] for x in (residual, valid))
        across = torch.where(v[:, :, 1:] & v[:, :, :-1], (r[:, :, 1:] - r[:, :, :-1]).abs(), 0)
        down = torch.where(v[:, 1:] & v[:, :-1], (r[:, 1:] - r[:, :-1]).abs(), 0)
        differences = across.sum((1, 2), keepdim=True) + down.sum((1, 2), keepdim=True)
        total = total + differences / v.sum((1, 2), keepdim=True).clamp(min=1)
    return total
