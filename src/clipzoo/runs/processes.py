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
    run.trainings.announce()
    yield run
    ranks.announce(None)


def serve(device: str) -> None:
    """Take part in the trainings and measurements of the main process until it ends, of runs below its own, too.

    Nothing is printed: the main process shows errors of other processes, and raises those that all have in common.
    """
    opened: tuple[object, str] | None = None
    try:
        while message := ranks.receive():
            wanted = message["recipe"], message["folder"]
            if wanted != opened:
                run, opened = Run(Recipe.model_validate(wanted[0]), wanted[1], device=device), wanted
            if message["job"]:
                _take_part(run, message["job"])
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
