"""The value tokens of the last block through the final norm and the projection, without residual connection and MLP."""

from clipzoo.models.dense.base import Variant

VARIANT = Variant("value", None, residual=False, pooled=False)
