"""Tasks: labels in storage, augmentation, training and evaluation; one file per task."""

from __future__ import annotations

from typing import Any, Protocol

from clipzoo.plugins import Registry
from clipzoo.tasks.base import Additive, Convention, Mark, Measure, Metric, Task

__all__ = ["PLUGINS", "Additive", "Convention", "Mark", "Measure", "Metric", "Task", "TaskPlugin", "get"]


class TaskPlugin(Protocol):
    """A module of this folder."""

    TASK: Task[Any]


PLUGINS: Registry[TaskPlugin] = Registry("tasks", ("TASK",), noun="task")


def get(name: str) -> Task[Any]:
    """Return the task of this name.

    Raises:
        PluginError: there is no such task.
    """
    return PLUGINS.load(name).TASK
