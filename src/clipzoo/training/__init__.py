"""Training: the loop, the optimizer, checkpoints. It knows no task by name."""

from clipzoo.training.health import kept as supervision
from clipzoo.training.loop import Job, ended, finished, reached, train
from clipzoo.training.records import read_log

__all__ = ["Job", "ended", "finished", "reached", "read_log", "supervision", "train"]
