"""Generalized intersection over union of boxes, which has a gradient also where boxes do not overlap.

Rezatofighi, Tsoi, Gwak, Sadeghian, Reid and Savarese, "Generalized Intersection over Union" (CVPR 2019, arXiv
1902.09630), algorithm 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from clipzoo.losses.masked import Pixels, averaged


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
    square = torch.arange(4, device=prediction.device).ge(2).to(dtype).view(1, 4, 1, 1)  # boxes xyxy of one pixel
    p, t = (torch.where(valid[:, None], boxes.to(dtype), square).movedim(1, -1) for boxes in (prediction, target))
    return Pixels(torch.where(valid, generalized_box_iou_loss(p, t), 0), valid)


loss = averaged(pixels)
