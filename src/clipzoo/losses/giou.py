"""Generalized intersection over union of boxes, which has a gradient also where boxes do not overlap.

Rezatofighi, Tsoi, Gwak, Sadeghian, Reid and Savarese, "Generalized Intersection over Union" (CVPR 2019, arXiv
1902.09630), algorithm 2. The numbers are those of torchvision's ``generalized_box_iou_loss``, whose boolean indices let
a GPU wait in every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipzoo.losses.masked import Pixels, averaged

EPSILON = 1e-7
"""Added to areas by which is divided."""


def pixels(prediction: Tensor, target: Tensor, valid: Tensor) -> Pixels:
    """Return 1 − IoU + |C \\ (A ∪ B)| / |C|, with C the smallest box around both; in [0, 2], averaged over pixels.

    Args:
        prediction: [B,4,H,W], xyxy, in a unit where areas are not much smaller than 1, since 1e-7 is added to each.
        target: [B,4,H,W], in the same unit; any value where not valid.
        valid: bool [B,H,W].

    Returns:
        values of which the loss is the mean.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    square = torch.arange(4, device=prediction.device).ge(2).to(dtype).view(1, 4, 1, 1)
    p, t = (torch.where(valid[:, None], boxes.to(dtype), square) for boxes in (prediction, target))
    return Pixels(torch.where(valid, _loss(p, t), 0), valid)


def _loss(a: Tensor, b: Tensor) -> Tensor:
    """Return the loss [B,H,W] of boxes [B,4,H,W]."""
    width, height = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).unbind(1)
    both = torch.where((width > 0) & (height > 0), width * height, 0)
    union = _area(a[:, :2], a[:, 2:]) + _area(b[:, :2], b[:, 2:]) - both
    around = _area(torch.min(a[:, :2], b[:, :2]), torch.max(a[:, 2:], b[:, 2:]))
    return 1 - (both / (union + EPSILON) - (around - union) / (around + EPSILON))


def _area(first: Tensor, last: Tensor) -> Tensor:
    """Return the areas [B,H,W] of boxes with these corners [B,2,H,W]."""
    width, height = (last - first).unbind(1)
    return width * height  # the backward pass of `Tensor.prod` would let a GPU wait, too


loss = averaged(pixels)
