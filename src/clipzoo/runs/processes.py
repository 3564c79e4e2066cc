"""A run on several processes: the main one leads, the others take part in trainings and measurements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipzoo.errors import ClipzooError, DivergedError
from clipzoo.progress import Progress
from clipzoo.recipe import Recipe
from clipzoo.runs._run import Run
from clipzoo.stopping import Interrupted
from clipzoo.training.processes import ranks


@contextmanager
def lead(recipe: Recipe, folder: Path, progress: Progress, device: str) -> Iterator[Run]:
    """Open a run in the main process, with which it labels, trains, measures and writes; the others `serve` it."""
    run = Run(recipe, folder, progress, device)
    ranks.announce({"recipe": recipe.model_dump(mode="json"), "folder": str(run.out.absolute())})
    yield run
    ranks.announce(None)


def serve(device: str) -> None:
    """Take part in the trainings and measurements of the main process until it ends.

    Nothing is printed: the main process shows errors of other processes, and raises those that all have in common.
    """
    try:
        message = ranks.receive()
        run = Run(Recipe.model_validate(message["recipe"]), message["folder"], device=device)
        while job := ranks.receive():
            _take_part(run, job)
    except (Interrupted, KeyboardInterrupt):
        raise SystemExit(130) from None
    except ClipzooError as error:
        ranks.fail(str(error))
        raise SystemExit(2) from error


def _take_part(run: Run, job: dict[str, object]) -> None:
    try:
        run.trainings.take_part(job)
    except DivergedError:  # on all processes; the main one may try another learning rate
        return
