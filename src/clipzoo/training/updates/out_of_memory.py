"""An update that does not fit in memory ends with the settings that need less."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from clipzoo.errors import RecipeError, brief, counted
from clipzoo.experts.calls import out_of_memory
from clipzoo.recipe import TrainingRecipe
from clipzoo.training.processes import ranks


@contextmanager
def explained(settings: TrainingRecipe, step: int) -> Iterator[None]:
    """Raise `RecipeError` with the fix if the device runs out of memory in the block.

    Args:
        settings: of the training.
        step: its number.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise RecipeError(_message(settings, step, brief(error))) from error


def _message(settings: TrainingRecipe, step: int, reason: str) -> str:
    share = settings.batch_size // ranks.world_size()
    images = counted(math.ceil(share / settings.accumulate), "image")
    fixes = ["lower training.batch_size and start again in another --out"]
    if not settings.activation_checkpointing:
        fixes.insert(0, "keep fewer activations with --set training.activation_checkpointing=true")
    if settings.accumulate < share:
        more = min(2 * settings.accumulate, share)
        fixes.insert(0, f"compute the same gradient in smaller chunks with --set training.accumulate={more}")
    return (
        f"step {step} does not fit in memory ({reason}). A process computes {images} at a time: training.batch_size is "
        f"{settings.batch_size}, training.accumulate {settings.accumulate}. Rerunning the command with other settings "
        f"resumes from the last checkpoint: {', or '.join(fixes)}"
    )
