"""Training: the loop, the optimizer, checkpoints. It knows no task by name."""

from clipzoo.training.loop import Job, train

__all__ = ["Job", "train"]
