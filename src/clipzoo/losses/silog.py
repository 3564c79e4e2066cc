"""Scale-invariant logarithmic error of metric depth.

Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network" (2014,
arXiv 1406.2283), equation 4; the square root of its variance form, with λ = 0.85, is that of Lee et al., "From Big
to Small" (2019, arXiv 1907.10326).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.losses.masked import batch_mean, centered, image_mean, image_median, known, worst


def loss(
    prediction: Tensor, target: Tensor, valid: Tensor, lam: float = 0.85, eps: float = 1e-3, trim: float = 0
) -> Tensor:
    """Return √(mean d² − λ (mean d)²) with d = prediction − target, per image, then the mean over images.

    It is computed as √(var d + (1 − λ) (mean d)² + ε²) − ε. The variance form cannot become negative by
    rounding, and ε (0.1 % of depth) keeps the gradient of the root finite where the error is zero.

    Args:
        prediction: [B,1,H,W] or [B,H,W], log-depth.
        target: [B,H,W], log-depth; any value where not valid.
        valid: bool [B,H,W].
        lam: invariance to a common factor of the depth: 0 none, 1 full.
        eps: smoothing of the root, in log-depth.
        trim: share of an image's known pixels, those whose d is farthest from its median, that are left out; below 1.

    Returns:
        scalar; 0 with the graph attached if nothing is valid.
    """
    error = known(prediction, valid) - known(target, valid)
    if trim:
        valid = valid & ~worst((error.detach() - image_median(error.detach(), valid)).abs(), valid, trim)
    variance = image_mean(centered(error, valid).square(), valid)
    squared = variance + (1 - lam) * image_mean(error, valid).square()
    return batch_mean(torch.sqrt(squared + eps**2) - eps, valid.any(2, keepdim=True).any(1, keepdim=True))
