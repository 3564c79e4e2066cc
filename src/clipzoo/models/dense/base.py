"""The contract of a variant of dense embeddings, and attention weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clipzoo.errors import CheckpointError
from clipzoo.types import Size

Attend = Callable[[Tensor, Tensor, Size], Tensor]
"""Queries [B,heads,N,d], keys [B,heads,N,d], grid (h, w) -> weights [B,heads,N,N]; the last h·w tokens are the grid."""


@dataclass(frozen=True)
class Variant:
    """A change of the last attention of a vision tower.

    Attributes:
        name: of its file.
        attend: weights that replace the attention weights of the last block; None keeps each token's own value, or
            reads the values of the attention pool if the tower has one.
        residual: keep the residual connections and the MLP of the last block.
        pooled: it is defined for towers that end in an attention pool.
    """

    name: str
    attend: Attend | None
    residual: bool = True
    pooled: bool = True


def attention(one: Tensor, other: Tensor) -> Tensor:
    """Return scaled products [B,heads,N,N] of queries or keys [B,heads,N,d]."""
    product: Tensor = one @ other.transpose(-2, -1)
    return product / math.sqrt(one.shape[-1])


def heads_of(tokens: Tensor, count: int) -> Tensor:
    """Split tokens [B,N,C] into heads, [B,heads,N,C/heads]."""
    B, N, _ = tokens.shape
    return tokens.reshape(B, N, count, -1).transpose(1, 2)


def mixed(variant: Variant, q: Tensor, k: Tensor, v: Tensor, grid: Size) -> Tensor:
    """Return the values [B,heads,N,d] as the variant mixes them, with the heads joined, [B,N,C]."""
    values = v if variant.attend is None else variant.attend(q, k, grid) @ v
    return values.transpose(1, 2).flatten(2)


def grid_of(tokens: Tensor, grid: Size) -> Tensor:
    """Return tokens [B,h·w,D] as maps [B,D,h,w]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def refused(variant: Variant, tower: str, fix: str) -> CheckpointError:
    """Return the error on a tower that has no dense embeddings of a variant."""
    return CheckpointError(f"open vocabulary: the variant {variant.name} is not defined for {tower}. {fix}")
