"""Checks of training's settings before any work: against the student and the installed packages."""

from __future__ import annotations

from collections.abc import Sequence

from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.models import Student, layers
from clipzoo.recipe import TrainingRecipe
from clipzoo.training import balancing, tracking
from clipzoo.training.processes import ranks
from clipzoo.training.updates import locking


def check_settings(settings: TrainingRecipe, student: Student) -> None:
    """Raise `RecipeError` if the student has not the layers that the settings need, or a tracker is not installed."""
    for name in settings.tracking:
        tracking.check(name)
    check_balancing(settings)
    _check_sizes(settings, student)
    for part, unlocked in (("image", settings.unlocked_image_layers), ("text", settings.unlocked_text_layers)):
        locking.locked(student, part, unlocked)
        if settings.layer_decay < 1:
            layers.depths(student, part)


def _check_sizes(settings: TrainingRecipe, student: Student) -> None:
    if settings.sizes and settings.compile:
        raise RecipeError(
            "training.sizes has image sizes, but training.compile is true, which would compile the student again for "
            "each of them. Set one of both to its default"
        )
    for size in settings.height_widths:
        try:
            student.check_size(size, "training.sizes: the student")
        except CheckpointError as error:
            raise RecipeError(str(error).replace("Remove student.size, or give", "Give")) from error


def check_stride(field: str, stride: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise `RecipeError` if a stride of labels, a ``field`` of the recipe, exceeds a side of images (H, W)."""
    shortest = min(map(min, sizes))
    if stride > shortest:
        raise RecipeError(
            f"{field} is {stride}, but images have {shortest} pixels along their shorter side, so that labels would "
            f"have none. Give at most {shortest}"
        )


def check_balancing(settings: TrainingRecipe, processes: int | None = None) -> None:
    """Raise `RecipeError` if the balancing cannot be made, or if gradients cannot be measured with the settings.

    Args:
        settings: of the training.
        processes: that share a batch; by default those that were launched.
    """
    scheme, fields = balancing.check(settings.balancing), []
    if scheme.uses_gradients:
        fields.append(f"training.balancing is {settings.balancing.name}")
    if settings.gradients_every is not None:
        fields.append(f"training.gradients_every is {settings.gradients_every}")
    refused = {
        f"training.accumulate is {settings.accumulate}": settings.accumulate > 1,
        "training.sharding is fsdp2": settings.sharding == "fsdp2" and (processes or ranks.launched()) > 1,
        "training.compile is true": settings.compile,
        "training.unlocked_image_layers is 0": settings.unlocked_image_layers == 0,
    }
    for reason in [reason for reason, found in refused.items() if found and fields]:
        fix = "training.balancing to another scheme" if scheme.uses_gradients else "training.gradients_every to null"
        raise RecipeError(
            f"{fields[0]}, but {reason}: with it the gradients of single losses at the tapped layers cannot be "
            f"measured. Set {fix}, or {reason.split()[0]} to its default"
        )
