"""Training: a job, its loop, objectives, checkpoints and records. The loop knows no task by name."""

from clipzoo.training.checks import check_settings, check_stride
from clipzoo.training.guard import early_end
from clipzoo.training.health import read_supervision as supervision
from clipzoo.training.job import Job, Recognition, Training
from clipzoo.training.loop import train
from clipzoo.training.processes.ranks import check_joined, joined
from clipzoo.training.records import read_log
from clipzoo.training.result import ended, finished, hardware, reached

__all__ = [
    "Job",
    "Recognition",
    "Training",
    "check_joined",
    "check_settings",
    "check_stride",
    "early_end",
    "ended",
    "finished",
    "hardware",
    "joined",
    "reached",
    "read_log",
    "supervision",
    "train",
]
