"""The reverse Huber error: linear where small, quadratic where large.

Laina et al., "Deeper Depth Prediction with Fully Convolutional Residual Networks" (2016, arXiv 1606.00373), section
3.2. The paper applies it to meters. A depth column's raw output is log-depth, so here relative errors of near and far
surfaces have equal weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.losses.masked import Pixels, averaged, known, total


def pixels(prediction: Tensor, target: Tensor, valid: Tensor, share: float = 0.2) -> Pixels:
    """Return |x| up to c and (x² + c²) / 2c beyond, with x = prediction − target, the mean over all known pixels.

    c is ``share`` of the batch's largest |x|, a constant of the step: no gradient passes through it.

    Args:
        prediction: [B,1,H,W] or [B,H,W].
        target: [B,H,W], in the same unit; any value where not valid.
        valid: bool [B,H,W].
        share: start of the quadratic part, in (0, 1].

    Returns:
        values of which the loss is the mean.
    """
    size = (known(prediction, valid) - known(target, valid)).abs()
    c = (share * total(size.detach().max(), largest=True)).clamp(min=torch.finfo(size.dtype).tiny)
    losses = torch.where(size <= c, size, (size.square() + c**2) / (2 * c))
    return Pixels(torch.where(valid, losses, 0), valid)


loss = averaged(pixels)
