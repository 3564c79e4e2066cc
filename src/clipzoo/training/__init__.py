"""Training: the loop, the optimizer, checkpoints. It knows no task by name."""

from clipzoo.training.loop import Job, finished, read_log, train

__all__ = ["Job", "finished", "read_log", "train"]
