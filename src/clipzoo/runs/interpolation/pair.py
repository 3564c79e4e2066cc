"""Interpolation between two folders of students that need not belong to a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

from clipzoo import files, locations
from clipzoo.benchmarks import open_benchmark
from clipzoo.errors import CheckpointError
from clipzoo.evaluation.scores import kept_scores
from clipzoo.evaluation.suite import PRESETS, Suite
from clipzoo.evaluation.tradeoff import Tradeoff
from clipzoo.files import AnyPath
from clipzoo.models import Student
from clipzoo.progress import Progress
from clipzoo.recipe import InterpolationRecipe
from clipzoo.runs.before.preflight import check_locations
from clipzoo.runs.interpolation.sweep import RECORD, Splits, between, sweep, write_best, write_record
from clipzoo.runs.trainings import WEIGHTS, digest


def interpolate_pair(
    start: AnyPath,
    end: AnyPath,
    out: AnyPath,
    splits: Mapping[str, str],
    settings: InterpolationRecipe,
    progress: Progress,
    device: str = "cpu",
) -> Tradeoff:
    """Sweep between two students on validation, and write the chosen one into ``<out>/best``.

    Args:
        start: folder of the student before training.
        end: folder of the student that was trained from it.
        out: folder of the result; existing scores in it are used.
        splits: the locations of ``probe`` and ``validation``.
        settings: the α and the limit.
        progress: receives what is measured.
        device: device in PyTorch's notation.

    Raises:
        CheckpointError: a folder is no student, or the two differ in architecture.
        RecipeError: a location is no benchmark, or it cannot choose a student.
    """
    first, last, folder = files.local(start, "a student"), files.local(end, "a student"), files.local(out, "the result")
    for student in (first, last):
        _check_student(student)
    check_locations(splits)

    @cache
    def load(path: Path) -> Student:
        return Student.load(path).to(device).eval()

    layers = load(last).layers
    located = {split: locations.resolve(place, folder / ".data", progress.step) for split, place in splits.items()}
    benchmarks = {split: open_benchmark(place) for split, place in located.items()}
    suite = Suite.of(benchmarks, load(last).image_size, layers=layers, crop=load(last).crop)
    weights = {"start": digest(first), "student": digest(last), "preset": f"quick, version {PRESETS['quick']}"}
    identity = weights | dict(suite.identities) | {"layers": str(list(layers))}

    def kept(alpha: float, measure: Callable[[], Splits]) -> Splits:
        return kept_scores(folder / "scores" / f"{alpha:g}", measure, identity, progress.stage)

    at = between(partial(load, first), partial(load, last))
    found = sweep(suite, at, settings, kept, progress, str(last))
    write_best(folder / "best", found, at, identity | {"alpha": f"{found.best.alpha:g}"})
    write_record(folder / RECORD, found)
    return found


def _check_student(folder: Path) -> None:
    if not folder.exists():
        raise CheckpointError(f"{files.missing(folder)}. Give the folder of a student")
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} is not the folder of a student: it has no {WEIGHTS}. Give a student of a run, such as "
            "runs/demo/arms/clipzoo/0/student, or an export with --to open_clip"
        )
