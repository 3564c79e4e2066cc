"""Boxes as maps in the form of FCOS (Tian, Shen, Chen and He 2019, arXiv 1904.01355).

Boxes are xyxy as fractions of the frame, so they fit a grid of any size. A pixel whose center is in several boxes
belongs to the smallest; its distances to the left, upper, right and lower side are fractions of the frame, too.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.types import FloatArray

Doubles = NDArray[np.floating]

UNIT = 1 / 16
"""A raw x means a distance of UNIT · softplus(x): nearly linear except for tiny boxes, as linear probes need."""

NEAREST = 1e-3
"""Smallest distance with a raw value."""


def areas(boxes: Doubles) -> Doubles:
    """Return the areas [N] of boxes [N,4]."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(1))


def owners(boxes: Doubles, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the index of the box [N,4] that each pixel of a grid of ``size`` belongs to, [H,W]; −1 for none."""
    owner = np.full(size, -1)
    sides = boxes * [size[1], size[0], size[1], size[0]]
    first, stop = np.floor(sides[:, :2] + 0.5).astype(int), np.ceil(sides[:, 2:] - 0.5).astype(int)
    for i in np.argsort(-areas(boxes), kind="stable"):
        owner[first[i, 1] : stop[i, 1], first[i, 0] : stop[i, 0]] = i
    return owner


def sides_from(boxes: Doubles, owner: NDArray[np.int64]) -> FloatArray:
    """Return distances [4,H,W] from each pixel to the sides of its box; 0 where ``owner`` [H,W] is −1."""
    H, W = owner.shape
    x0, y0, x1, y1 = np.moveaxis(np.append(boxes, np.zeros((1, 4)), 0)[owner], 2, 0)
    y, x = (np.arange(H)[:, None] + 0.5) / H, (np.arange(W) + 0.5) / W
    return np.where(owner < 0, 0, np.stack([x - x0, y - y0, x1 - x, y1 - y])).astype(np.float32)


def distances(raw: Tensor) -> Tensor:
    """Convert raw values of any shape to distances larger than 0."""
    return UNIT * F.softplus(raw)


def raw_of(distances: Tensor) -> Tensor:
    """Convert distances of at least `NEAREST` to raw values, the inverse of `distances`."""
    x = distances.clamp(min=NEAREST) / UNIT
    return x + torch.log(-torch.expm1(-x))


def around(distances: Tensor) -> Tensor:
    """Convert distances [B,4,H,W] to boxes, xyxy in pixels of the grid relative to each pixel's center."""
    H, W = distances.shape[-2:]
    sides = torch.cat([distances.new_full((1,), side) for side in (-W, -H, W, H)])  # a copy would let a GPU wait
    return distances * sides.view(1, 4, 1, 1)


def boxes_of(distances: Tensor) -> Tensor:
    """Convert distances [B,4,H,W] to boxes [B,H·W,4], xyxy in pixels of the grid, clipped to it."""
    H, W = distances.shape[-2:]
    y, x = torch.meshgrid(*(torch.arange(n, device=distances.device) + 0.5 for n in (H, W)), indexing="ij")
    boxes = (around(distances) + torch.stack([x, y, x, y])).flatten(2).movedim(1, 2)
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([W, H, W, H]))


def centerness(distances: Tensor) -> Tensor:
    """Return the centerness [B,1,H,W] of distances [B,4,H,W] (equation 3): 1 at a box's center, 0 at its sides."""
    one, other = distances[:, :2], distances[:, 2:]
    shares = torch.minimum(one, other) / torch.maximum(one, other).clamp(min=1e-12)
    return shares.prod(1, keepdim=True).sqrt()
