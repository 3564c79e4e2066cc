"""Trackers: services and files that show the values and pictures of a training, one file each (``training.tracking``).

A file has ``REQUIRES``, the package that it imports when it is opened, and ``open``, which returns a `base.Tracker`.
"""

from __future__ import annotations

from importlib.util import find_spec

from clipzoo.errors import RecipeError
from clipzoo.plugins import Registry
from clipzoo.training.tracking.base import TrackedRun, Tracker, TrackerPlugin

__all__ = ["PLUGINS", "TrackedRun", "Tracker", "TrackerPlugin", "check"]

PLUGINS: Registry[TrackerPlugin] = Registry(
    "training.tracking", ("REQUIRES", "open"), noun="tracker", option="training.tracking"
)


def check(name: str) -> None:
    """Raise `RecipeError` if the package of a tracker is not installed; it is not imported."""
    package = PLUGINS.load(name).REQUIRES
    if find_spec(package) is None:
        raise RecipeError(
            f"training.tracking has {name}, but the package {package} is not installed. Run `pip install {package}`, "
            f"or remove {name} from training.tracking"
        )
