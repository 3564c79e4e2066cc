"""Class-balanced cross-entropy for rare positives such as edges, a few percent of a picture.

Xie and Tu, "Holistically-Nested Edge Detection" (ICCV 2015, arXiv 1504.06375), equation 2, with β the share of
negatives: edge pixels weigh β, others 1 − β. A soft label y takes the weight between, β y + (1 − β) (1 − y), on its
cross-entropy, so that the loss of a pixel is smallest where the prediction is y. Equation 2 sums over one image; here
the sum over the batch is divided by the sum of the weights. For hard labels this is the average of the mean
cross-entropy of edges and that of other pixels, independent of size and of how rare edges are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipzoo.losses.masked import Pixels, averaged, known, total

EDGE = 0.5
"""Least probability of an edge pixel in trimming, which leaves out the same share of edges as of other pixels."""


def pixels(prediction: Tensor, target: Tensor, valid: Tensor) -> Pixels:
    """Return Σ w · cross-entropy(σ(prediction), target) / Σ w over the known pixels of the batch, in nats.

    Where an edge is uncertain, the optimal prediction is not the calibrated probability: its odds are β / (1 − β) times
    higher, with the same ranking. A batch without edges has no weight.

    Args:
        prediction: [B,1,H,W] or [B,H,W] logits.
        target: [B,H,W] probabilities in [0, 1]; any value where not valid.
        valid: bool [B,H,W].

    Returns:
        values of which the loss is the mean.
    """
    x, y = known(prediction, valid), known(target, valid)
    negatives = 1 - total(y.sum()) / total(valid.sum()).clamp(min=1)
    weight = torch.where(valid, negatives * y + (1 - negatives) * (1 - y), 0)
    losses = F.binary_cross_entropy_with_logits(x, y.to(x.dtype), reduction="none")
    return Pixels(weight * losses, weight, torch.finfo(weight.dtype).tiny, rare=y >= EDGE)


loss = averaged(pixels)
