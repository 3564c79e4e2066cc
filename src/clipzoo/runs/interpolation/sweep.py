"""The sweep on validation, and the student that it chooses.

Scores of every α are kept, so a stopped sweep resumes. They belong to the weights of the trained student: after another
training they are measured again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from clipzoo import files
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.probes.probe import Probes
from clipzoo.evaluation.suite import Suite
from clipzoo.evaluation.tradeoff import MEASURES, Tradeoff, tradeoff
from clipzoo.models import Student, interpolated
from clipzoo.progress import Progress
from clipzoo.recipe import InterpolationRecipe

BEST = "-best"
"""End of the name of an interpolated arm."""
RECORD, DONE = "interpolation.json", "done"

Splits = Mapping[str, RowScores]
"""Split -> scores of a student."""
Between = Callable[[float], Student]
"""Returns the student of an α."""


def between(start: Callable[[], Student], end: Callable[[], Student]) -> Between:
    """Return the function from α to a student; both ends are loaded at first use."""

    def at(alpha: float) -> Student:
        if alpha in (0, 1):
            return end() if alpha else start()
        return interpolated(start(), end(), alpha)

    return at


def check_suite(suite: Suite, prefix: str) -> None:
    """Raise `RecipeError` unless validation has what chooses a student; ``prefix`` is that of the splits' names."""
    if not suite.probed:
        raise RecipeError(
            f"interpolation needs true labels of dense tasks in {prefix}probe and {prefix}validation, which choose the "
            "student, but there are none. Add truth/ to both benchmarks (docs/benchmarks.md), or omit interpolation"
        )
    if "validation" not in suite.zero_shot and "validation" not in suite.retrieval:
        raise RecipeError(
            f"interpolation needs images with classes or captions in {prefix}validation, on which zero-shot "
            "recognition is measured, but it has neither. Add classnames.txt and a .cls of each image, or captions "
            "(docs/benchmarks.md), or omit interpolation"
        )


def sweep(
    suite: Suite,
    student: Between,
    settings: InterpolationRecipe,
    kept: Callable[[float, Callable[[], Splits]], Splits],
    progress: Progress,
    label: str,
    fitted: Callable[[float], Probes | None] = lambda alpha: None,
) -> Tradeoff:
    """Measure the students of all α on validation, and no other split.

    Args:
        suite: with probe and validation.
        student: returns that of an α.
        settings: the α and the limit.
        kept: returns the existing scores of an α, or those that its second argument measures.
        progress: receives what is measured.
        label: of the training, for progress.
        fitted: returns the probes of an α, if they are fitted already.
    """
    check_suite(suite, "")

    def measured(alpha: float) -> RowScores:
        def measure() -> Splits:
            progress.stage(f"interpolating {label}: measuring α = {alpha:g} on validation")
            return suite.measure(student(alpha), ["validation"], fitted(alpha))

        return kept(alpha, measure)["validation"]

    found = tradeoff({alpha: measured(alpha) for alpha in settings.swept}, settings.max_loss)
    if found is None:
        raise CheckpointError(
            f"{label}: none of {', '.join(MEASURES)} was measured on validation: the student has no text tower. "
            "Interpolation needs zero-shot recognition"
        )
    return found


def write_best(folder: Path, found: Tradeoff, student: Between, identity: Mapping[str, str]) -> None:
    """Write the chosen student into a folder, unless it is there. The start (α = 0) has no heads."""
    done, text = folder / DONE, json.dumps(dict(identity)).encode()
    if done.exists() and done.read_bytes() == text:
        return
    shutil.rmtree(folder, ignore_errors=True)
    student(found.best.alpha).save(folder, heads=found.best.alpha > 0)
    files.sync_folder(folder)
    files.write(done, text)


def write_record(path: Path, found: Tradeoff) -> None:
    """Write ``interpolation.json``."""
    files.write(path, json.dumps(found.to_json(), indent=1).encode())
