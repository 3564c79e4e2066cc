"""SCLIP (arXiv 2312.01597): correlative self-attention, the sum of query–query and key–key attention."""

from torch import Tensor

from clipzoo.models.dense.base import Variant, attention
from clipzoo.types import Size


def attend(q: Tensor, k: Tensor, grid: Size) -> Tensor:
    """Return the sum of two softmaxes, as the authors' code does; its rows sum to 2."""
    return attention(q, q).softmax(-1) + attention(k, k).softmax(-1)


VARIANT = Variant("sclip", attend)
