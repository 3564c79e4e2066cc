"""From a head's raw output to the values of its task, as tensors, as `Task.predict` computes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clipzoo.tasks import Convention
from clipzoo.tasks.depth import FARTHEST, NEAREST
from clipzoo.tasks.detection import WHERE, boxes_of

Decode = Callable[[Tensor, Convention], Mapping[str, Tensor]]


def depth(raw: Tensor, convention: Convention) -> dict[str, Tensor]:
    """Return ``depth`` [B,H,W], meters for metric depth."""
    values = raw[:, 0]
    if convention.kind == "metric":
        values = values.clamp(math.log(NEAREST), math.log(FARTHEST)).exp()
    return {"depth": values}


def segmentation(raw: Tensor, convention: Convention) -> dict[str, Tensor]:
    """Return ``ids`` int64 [B,H,W], and the ``probability`` of each."""
    return {"ids": raw.argmax(1), "probability": raw.softmax(1).amax(1)}


def normals(raw: Tensor, convention: Convention) -> dict[str, Tensor]:
    """Return unit vectors ``normals`` [B,3,H,W]; those without a direction face the viewer."""
    length = raw.norm(dim=1, keepdim=True)
    viewer = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    return {"normals": torch.where(length > 1e-6, raw / length.clamp(min=1e-6), viewer)}


def features(raw: Tensor, convention: Convention) -> dict[str, Tensor]:
    """Return unit vectors ``features`` [B,C,H,W] in the space of the expert's encoder.

    Those without a direction have only a first component.
    """
    length = raw.norm(dim=1, keepdim=True)
    first = torch.eye(convention.channels)[0].view(1, -1, 1, 1)
    return {"features": torch.where(length > 1e-6, raw / length.clamp(min=1e-6), first)}


def edges(raw: Tensor, convention: Convention) -> dict[str, Tensor]:
    """Return the ``probability`` of an edge [B,H,W]."""
    return {"probability": raw[:, 0].sigmoid()}


def detection(raw: Tensor, convention: Convention) -> dict[str, Tensor]:
    """Return ``boxes`` xyxy in pixels of the input [B,H·W,4] and ``scores`` [B,K,H·W], before non-maximum suppression.

    These are the inputs of ONNX's NonMaxSuppression.
    """
    K = len(convention.classes)
    scores = (raw[:, :K].sigmoid() * raw[:, K + WHERE - 1 : K + WHERE].sigmoid()).sqrt()
    return {"boxes": boxes_of(raw[:, K : K + WHERE - 1]), "scores": scores.flatten(2)}


DECODERS: dict[str, Decode] = {
    "depth": depth, "segmentation": segmentation, "normals": normals, "edges": edges, "detection": detection,
    "features": features,
}  # fmt: skip
