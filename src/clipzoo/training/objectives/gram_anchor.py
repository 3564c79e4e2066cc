"""The Gram anchor: similarities between the patch tokens of an image stay near those of the start.

Siméoni et al., "DINOv3" (2025, arXiv 2508.10104), section 4, Gram anchoring: the mean squared difference of the Gram
matrices of patch tokens of unit length. Tokens may rotate together; only their similarities are held.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.training.objectives._start import Start

SIDE = 16
"""Most tokens along a side: finer maps, such as those of convolutional towers, are averaged over blocks first."""


@dataclass(frozen=True, slots=True)
class GramAnchor:
    """Mean squared difference of the Gram matrices of the deepest tapped layer."""

    start: Start
    weight: float
    name: ClassVar[str] = "anchor/gram"

    def __call__(self, outputs: Mapping[str, Any], batch: Batch) -> Tensor:
        """Return the mean over images and pairs of tokens, in [0, 4], a float32 scalar."""
        _, before = self.start(batch)
        return F.mse_loss(gram(outputs["maps"][-1]), gram(before[-1]))


def gram(maps: Tensor) -> Tensor:
    """Return the cosines of all pairs of tokens of maps [B,C,h,w], float32 [B,T,T] with T at most `SIDE`²."""
    h, w = maps.shape[-2:]
    block = math.ceil(h / SIDE), math.ceil(w / SIDE)
    coarse = F.avg_pool2d(maps.float(), block, ceil_mode=True, count_include_pad=False) if max(block) > 1 else maps
    tokens = F.normalize(coarse.float().flatten(2), dim=1)
    return tokens.mT @ tokens
