"""Weights & Biases: its environment variables choose account, mode and project (``WANDB_MODE=offline``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from clipzoo.errors import RecipeError, brief
from clipzoo.training.tracking.base import PROJECT, TrackedRun, Tracker
from clipzoo.types import ImageArray

REQUIRES = "wandb"


class _Wandb:
    def __init__(self, wandb: Any, run: Any) -> None:
        self.wandb, self.run = wandb, run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: ImageArray) -> None:
        self.run.log({name: self.wandb.Image(image)}, step=step)

    def close(self) -> None:
        self.run.finish()


def open(run: TrackedRun) -> Tracker:
    """Return the tracker of a run, which a resumed training continues.

    Steps that are repeated keep their first values: W&B accepts no earlier step than its last one.

    Raises:
        RecipeError: there is no account, or the service cannot be reached.
    """
    import wandb

    try:
        started = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.identity(),
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.Error as error:
        raise RecipeError(
            f"Weights & Biases cannot be used ({brief(error)}). Run `wandb login`, set WANDB_MODE=offline in the "
            "environment, or remove wandb from training.tracking"
        ) from error
    return _Wandb(wandb, started)
