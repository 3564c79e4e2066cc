"""Angular error of directions: 1 − cosine, the mean over all known pixels of the batch.

Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional
Architecture" (2015, arXiv 1411.4734), the loss for surface normals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.losses.masked import Pixels, averaged


def pixels(prediction: Tensor, target: Tensor, valid: Tensor, eps: float = 1e-3) -> Pixels:
    """Return 1 − p·t / √(|p|² + ε²), in [0, 2].

    Args:
        prediction: [B,C,H,W], of any length. target: [B,C,H,W] unit vectors; any value where not valid.
        valid: bool [B,H,W]. eps: the length below which a prediction counts as having no direction; it
        bounds the gradient there by 1/ε.

    Returns:
        values of which the loss is the mean.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    p = torch.where(valid[:, None], prediction.to(dtype), 0)
    t = torch.where(valid[:, None], target.to(dtype), 0)
    cosine = (p * t).sum(1) / torch.sqrt(p.square().sum(1) + eps**2)
    return Pixels(torch.where(valid, 1 - cosine, 0), valid)


loss = averaged(pixels)
