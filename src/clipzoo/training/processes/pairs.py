"""The contrastive losses of OpenCLIP over the pairs of all processes, with a bounded number of logits at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clipzoo.losses import divided
from clipzoo.training.processes import ranks

INPUTS = ("image_features", "text_features", "logit_scale", "logit_bias")


def loss(inputs: Mapping[str, Tensor], rows: int | None = None) -> Tensor:
    """Return the contrastive loss of a batch, a float32 scalar: of SigLIP with a logit bias, else of CLIP.

    On several processes its mean over them is the loss of the whole batch. Its gradients reach the features of all of
    them, of which each computes the logits of its own rows only.

    Args:
        inputs: the student's outputs, ``image_features`` and ``text_features`` [B,D] of unit length, ``logit_scale``,
            and ``logit_bias`` for SigLIP.
        rows: rows of the logits that are computed at a time, and again in the backward pass; None computes all.
    """
    own = {name: inputs[name].float() for name in INPUTS if name in inputs}
    if rows is None and ranks.world_size() == 1:
        openclip = SigLipLoss() if "logit_bias" in own else ClipLoss()
        value: Tensor = openclip(**own)
        return value
    image, text = own["image_features"], own["text_features"]
    scale, bias = own["logit_scale"], own.get("logit_bias")
    all_images, all_texts, first = _gathered(image, text)
    step = rows or len(image)
    parts = []
    for start in range(0, len(image), step):
        part = slice(start, start + step)
        if bias is None:
            parts.append(_rows(_softmax, image[part], all_texts, scale, first + start))
            parts.append(_rows(_softmax, text[part], all_images, scale, first + start))
        else:
            parts.append(_rows(_sigmoid, image[part], all_texts, scale, first + start, bias))
    summed = torch.stack(parts).sum() / (2 if bias is None else 1)
    return divided(summed, torch.full((), len(image), device=image.device))


def _gathered(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the features of all processes [N,D], and the number of rows of earlier ranks."""
    if ranks.world_size() == 1:
        return image, text, 0
    counts = [count for (count,) in ranks.numbers([len(image)])]
    width = image.shape[1]
    both = ranks.Gathered.apply(torch.cat([image, text], 1), counts)
    return both[:, :width], both[:, width:], sum(counts[: ranks.rank()])


def _rows(compute: Callable[..., Tensor], *inputs: Tensor | int) -> Tensor:
    """Compute the loss of some rows without keeping their logits."""
    return checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=False)


def _softmax(own: Tensor, others: Tensor, scale: Tensor, first: int) -> Tensor:
    """Return the summed cross-entropy of rows against all columns; the match of row i is column ``first`` + i."""
    matches = torch.arange(first, first + len(own), device=own.device)
    return F.cross_entropy(scale * own @ others.T, matches, reduction="sum")


def _sigmoid(own: Tensor, others: Tensor, scale: Tensor, first: int, bias: Tensor) -> Tensor:
    """Return the summed binary cross-entropy of all pairs of rows and columns, of which one per row matches."""
    signs = -torch.ones(len(own), len(others), device=own.device)
    signs.diagonal(first).fill_(1)
    return -F.logsigmoid(signs * (scale * own @ others.T + bias)).sum()
