"""Checks of training's settings before any work: against the student and the installed packages."""

from __future__ import annotations

from clipzoo.models import Student, layers
from clipzoo.recipe import TrainingRecipe
from clipzoo.training import tracking
from clipzoo.training.updates import locking


def check_settings(settings: TrainingRecipe, student: Student) -> None:
    """Raise `RecipeError` if the student has not the layers that the settings need, or a tracker is not installed."""
    for name in settings.tracking:
        tracking.check(name)
    for part, unlocked in (("image", settings.unlocked_image_layers), ("text", settings.unlocked_text_layers)):
        locking.locked(student, part, unlocked)
        if settings.layer_decay < 1:
            layers.depths(student, part)
