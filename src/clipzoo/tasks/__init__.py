"""What a label means, everywhere it goes; one file a task."""

from __future__ import annotations

from typing import Any

from clipzoo import plugins
from clipzoo.tasks.base import Additive, Convention, Measure, Metric, Task

__all__ = ["Additive", "Convention", "Measure", "Metric", "Task", "get"]


def get(name: str) -> Task[Any]:
    """The task of this name; `PluginError`, with the nearest names, if there is none."""
    task: Task[Any] = plugins.load("tasks", name).TASK
    return task
