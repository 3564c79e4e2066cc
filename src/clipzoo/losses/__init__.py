"""Pure functions (prediction, target, valid) -> scalar; one file a loss."""

from clipzoo.losses._masked import batch_mean, known

__all__ = ["batch_mean", "known"]
