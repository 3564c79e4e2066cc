"""Training: the loop, the optimizer, checkpoints. It knows no task by name."""

from clipzoo.training.loop import Job, ended, finished, reached, read_log, train

__all__ = ["Job", "ended", "finished", "reached", "read_log", "train"]
