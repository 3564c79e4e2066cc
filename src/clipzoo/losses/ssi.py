"""Scale-and-shift-invariant error of affine depth and disparity.

Ranftl et al., "Towards Robust Monocular Depth Estimation" (MiDaS, 2019, arXiv 1907.01341), scale- and
shift-invariant losses: prediction and truth are aligned in closed form before they are compared. Fitting the
prediction to the truth by least squares leaves 1 − r² of the truth's variance, with the correlation r: a map with near
and far exchanged would have no loss. So, as in their robust variant, both maps are normalized, here to mean 0 and
variance 1; half their mean squared difference is 1 − r.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.losses.masked import batch_mean, centered, image_mean, known, worst


def loss(prediction: Tensor, target: Tensor, valid: Tensor, eps: float = 1e-6, trim: float = 0) -> Tensor:
    """Return 1 − r of each image's known pixels, in [0, 2], then the mean over images.

    An image with constant truth has no information up to scale and shift, and is not counted.

    Args:
        prediction: [B,1,H,W] or [B,H,W].
        target: [B,H,W], in any affine unit; any value where not valid.
        valid: bool [B,H,W].
        eps: added to the prediction's variance, for a finite gradient where it is constant.
        trim: share of an image's known pixels, those that differ most after alignment, that are left out; below 1. An
            image whose other pixels have constant truth counts, with a loss of 0.

    Returns:
        scalar; 0 with the graph attached if no image counts.
    """
    losses, informative = _apart(prediction, target, valid, eps)
    if trim:
        kept = valid & ~worst(_residual(prediction.detach(), target, valid, eps), valid, trim)
        losses, defined = _apart(prediction, target, kept, eps)
        losses = torch.where(defined, losses, 0)
    return batch_mean(losses, informative)


def _apart(prediction: Tensor, target: Tensor, valid: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return 1 − r of each image and whether its truth is not constant, [B,1,1]."""
    p, t = centered(known(prediction, valid), valid), centered(known(target, valid), valid)
    p_variance, t_variance = image_mean(p.square(), valid), image_mean(t.square(), valid)
    informative = t_variance > 1e-10 * image_mean(known(target, valid).square(), valid)
    deviation = torch.sqrt((p_variance + eps) * torch.where(informative, t_variance, 1))
    return 1 - image_mean(p * t, valid) / deviation, informative


def _residual(prediction: Tensor, target: Tensor, valid: Tensor, eps: float) -> Tensor:
    """Return the absolute difference of both maps [B,H,W], with mean 0 and variance 1 in each image."""
    p, t = (centered(known(x, valid), valid) for x in (prediction, target))
    p, t = (x / torch.sqrt(image_mean(x.square(), valid) + eps) for x in (p, t))
    return (p - t).abs()
