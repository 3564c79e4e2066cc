"""The last block as it is: every patch token goes through the final norm and the projection of the class token."""

from torch import Tensor

from clipzoo.models.dense.base import Variant, attention
from clipzoo.types import Size


def attend(q: Tensor, k: Tensor, grid: Size) -> Tensor:
    """Return the weights of the tower's own attention."""
    return attention(q, k).softmax(-1)


VARIANT = Variant("plain", attend, pooled=False)
