"""Cross-entropy of class logits, the mean over all known pixels of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipzoo.losses.masked import Pixels, averaged


def pixels(prediction: Tensor, target: Tensor, valid: Tensor, label_smoothing: float = 0.0) -> Pixels:
    """Return −log softmax(prediction)[target], in nats.

    With ``label_smoothing`` ε the truth is 1 − ε + ε/K for its class and ε/K for each other of the K: Szegedy et al.,
    "Rethinking the Inception Architecture" (2015, arXiv 1512.00567), section 7, for erroneous pseudo-labels.

    Args:
        prediction: [B,K,H,W] logits.
        target: int64 [B,H,W] class ids in [0, K); any value where not valid.
        valid: bool [B,H,W].
        label_smoothing: in [0, 1].

    Returns:
        values of which the loss is the mean.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    logits = torch.where(valid[:, None], prediction.to(dtype), 0)
    ids = torch.where(valid, target, 0)
    losses = F.cross_entropy(logits, ids, reduction="none", label_smoothing=label_smoothing)
    return Pixels(torch.where(valid, losses, 0), valid)


loss = averaged(pixels)
