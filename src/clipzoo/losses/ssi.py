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

from clipzoo.losses.masked import batch_mean, centered, image_mean, known


def loss(prediction: Tensor, target: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """Return 1 − r of each image's known pixels, in [0, 2], then the mean over images.

    An image with constant truth has no information up to scale and shift, and is not counted.

    Args:
        prediction: [B,1,H,W] or [B,H,W].
        target: [B,H,W], in any affine unit; any value where not valid.
        valid: bool [B,H,W].
        eps: added to the prediction's variance, for a finite gradient where it is constant.

    Returns:
        scalar; 0 with the graph attached if no image counts.
    """
    p, t = centered(known(prediction, valid), valid), centered(known(target, valid), valid)
    p_variance, t_variance = image_mean(p.square(), valid), image_mean(t.square(), valid)
    informative = t_variance > 1e-10 * image_mean(known(target, valid).square(), valid)
    deviation = torch.sqrt((p_variance + eps) * torch.where(informative, t_variance, 1))
    return batch_mean(1 - image_mean(p * t, valid) / deviation, informative)
