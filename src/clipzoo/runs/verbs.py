"""The verbs of a run: label, train, interpolate, evaluate, report, run, export, push.

Each resumes where an earlier call stopped. The folder gets the recipe after the checks of a verb (`Run.adopt`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Concatenate, ParamSpec, TypeVar

from clipzoo import files
from clipzoo.errors import CheckpointError, RecipeError, SampleError, StoreError, counted, shell_word
from clipzoo.evaluation.results import Results
from clipzoo.evaluation.tradeoff import Tradeoff
from clipzoo.experts import Expert
from clipzoo.export import PLUGINS as TARGETS
from clipzoo.export import (
    Source,
    check_login,
    check_repository,
    export_student,
    model_card,
    sentence,
    upload,
)  # fmt: skip
from clipzoo.files import AnyPath
from clipzoo.labeling import Tuning
from clipzoo.labeling import label as label_dataset
from clipzoo.models import Student
from clipzoo.pages import write_page
from clipzoo.runs._run import Run
from clipzoo.runs.before.preflight import TRAINED, check_arm, check_dataset, check_measurable, check_trainable
from clipzoo.runs.interpolation import BEST, RECORD
from clipzoo.runs.results import check_current, compared, curves, picture_rows, task_order
from clipzoo.runs.trainings import describe, seeds_of
from clipzoo.store import Store, software
from clipzoo.training import early_end
from clipzoo.types import ImageArray, decode_image

EXPORTED = ("clip", *TRAINED, *(f"{arm}{BEST}" for arm in TRAINED))
"""Arms that can be exported; those that end in ``-best`` are interpolated."""
PARITY_SAMPLES = 32
"""Pictures and captions on which an exported student is compared with the trained one."""

P = ParamSpec("P")
R = TypeVar("R")


def _locked(verb: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
    """Hold the lock of the run's folder during a verb."""

    @wraps(verb)
    def locked(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with run.writing():
            return verb(run, *args, **kwargs)

    return locked


@_locked
def label(run: Run) -> Store:
    """Let the recipe's experts label its dataset; existing labels are kept. Returns the store."""
    inputs, settings = run.inputs, run.recipe.labeling
    labelers = inputs.labelers
    run.adopt()
    if not labelers:
        return inputs.store
    unlabeled = inputs.unlabeled()
    if unlabeled:
        run.progress.stage(f"labeling {run.recipe.location}: {', '.join(unlabeled)}")
    try:
        label_dataset(
            inputs.dataset,
            labelers,
            str(inputs.store.root),
            device=run.device,
            batch_size=settings.batch_size,
            max_failures=settings.max_failures,
            shards=inputs.shards(),
            tuning=Tuning(settings.precision, settings.channels_last, settings.compile),
            engine=settings.engine,
            ray_address=settings.ray_address,
            codec=settings.codec,
        )
    except StoreError as error:
        if unlabeled or not isinstance(error.__cause__, OSError):
            raise
        raise StoreError(_complete(error, labelers)) from error
    inputs.unload_experts()
    return inputs.store


def _complete(error: StoreError, labelers: Sequence[Expert]) -> str:
    """Return the message about a store that has all labels, and cannot be written or is in use."""
    ways = ", ".join(f"column: {one.card.column} instead of expert: {one.card.uri}" for one in labelers)
    return (
        f"{error}. All labels exist: to read them without writing to the store, name the columns in the recipe ({ways})"
    )


@_locked
def train(run: Run, arm: str, seed: int) -> Path:
    """Label, then train one arm, unless it is trained already. Returns the folder of the student."""
    check_trainable(arm, run.recipe)
    run.adopt()
    if named := run.named(arm):
        run.progress.stage(f"{arm}: captions and pseudo-labels of {', '.join(named.specs)}")
        if len(run.recipe.training.learning_rates) > 1:
            run.trainings.check_choice()
            label(run)
            run.rate(arm)  # that of clipzoo, chosen with all columns
        return train(named, "clipzoo", seed)
    if run.trainings.trained(arm, seed) is None:
        run.trainings.check_choice()
        check_dataset(run.recipe, run.inputs.reader)
        label(run)
        run.progress.stage(f"training {arm}, seed {seed}")
        run.train(arm, seed)
    return run.folder_of(arm, seed) / "student"


@_locked
def interpolate(run: Run) -> dict[str, dict[int, Tradeoff]]:
    """Sweep between start and trained students on validation, and write the chosen ones; nothing is trained.

    Returns:
        arm -> seed -> its trade-off.

    Raises:
        RecipeError: the recipe has no interpolation, or validation cannot choose a student.
        CheckpointError: an arm is not trained.
    """
    sweeps = run.interpolations
    assert sweeps.settings
    sweeps.check()
    for arm in sweeps.arms:
        for seed in run.recipe.seeds:
            sweeps.check_trained(arm, seed)
    run.adopt()
    return {arm: {seed: sweeps.sweep(arm, seed) for seed in run.recipe.seeds} for arm in sweeps.arms}


@_locked
def evaluate(run: Run) -> Path:
    """Measure every arm and seed, and all baselines; arms that are not trained yet are trained first.

    Returns:
        the path of ``results.json``.
    """
    check_measurable(run.recipe)
    if run.recipe.interpolation:
        run.interpolations.check()
    _ = run.suite  # a benchmark that cannot be read is an error before scores of another one are removed
    run.adopt()
    remaining = run.remaining()
    if remaining:
        run.progress.stage(f"training these arms before measuring: {describe(remaining)}")
    for arm, seed in remaining:
        train(run, arm, seed)
    files.write(run.folder.results, json.dumps(compared(run), indent=1, allow_nan=False).encode())
    return run.folder.results


@_locked
def report(run: Run) -> Path:
    """Write the page of a run that has been measured. Returns its path.

    Raises:
        CheckpointError: the run has not been measured.
    """
    if not run.folder.results.exists():
        raise CheckpointError(f"{run.out} has no results.json: run `clipzoo eval {shell_word(run.out)}` first")
    results: Results = json.loads(run.folder.results.read_text(encoding="utf-8"))
    check_current(run, results)
    run.adopt()
    if not run.folder.results.exists():  # it was of another benchmark
        raise CheckpointError(
            f"the recipe of {run.out} measures differently now: run `clipzoo eval {shell_word(run.out)}` first"
        )
    run.progress.stage("writing the page")
    return write_page(
        results,
        run.folder.page,
        tasks=task_order(results),
        curves=curves(run),
        pictures=picture_rows(run),
        recipe=run.recipe.to_yaml(),
    )


@_locked
def run(run: Run) -> Path:
    """Label, train, evaluate and report. Returns the path of the page."""
    evaluate(run)
    return report(run)


@_locked
def export(
    run: Run,
    to: str = "open_clip",
    arm: str = "clipzoo",
    seed: int | None = None,
    out: AnyPath | None = None,
    heads: bool = False,
) -> tuple[Path, str]:
    """Export a trained student and compare the exported one with it; nothing is trained.

    Args:
        run: that holds the student.
        to: the target, a file of ``export/``.
        arm, seed: which student; default the recipe's first seed.
        out: a folder that is empty or does not exist; default ``export/<format>/<arm>-<seed>`` in the run's folder.
        heads: keep the heads next to the model.

    Returns:
        the folder, and a sentence on how closely the exported student matches the trained one.

    Raises:
        RecipeError: there is no such arm.
        CheckpointError: the arm is not trained, the target cannot express the student, the folder is not empty, the
            exported student differs, or another process holds the lock of the run's folder.
        OSError: the disk cannot be written to; nothing incomplete remains.
    """
    check_arm(arm, "export", (*EXPORTED, *run.recipe.named_arms))
    TARGETS.load(to)
    seed = seeds_of(run.recipe, arm)[0] if seed is None else seed
    folder = files.local(out or run.out / "export" / to / f"{arm}-{seed}", "an exported student")
    source = replace(_source(run, arm, seed, heads), place=folder.as_posix())
    run.adopt()
    return folder, sentence(export_student(to, source, folder))


@dataclass(frozen=True, slots=True)
class Pushed:
    """An upload: the commit's URL ("" for a dry run), file name -> size in bytes, and the model card."""

    url: str
    files: Mapping[str, int]
    card: str


@_locked
def push(
    run: Run,
    repository: str,
    to: str = "open_clip",
    arm: str = "clipzoo",
    seed: int | None = None,
    heads: bool = False,
    private: bool | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Export a trained student, compare it, and upload it to the Hugging Face hub in one commit.

    Args:
        run: that holds the student.
        repository: ORG/NAME; created if it does not exist.
        to, arm, seed, heads: as of `export`.
        private: visibility of a new repository; None is the default of the hub or of the organization.
        dry_run: export and compare, but upload nothing.

    Raises:
        RemoteError: the hub cannot be reached or refuses, or no token is known. Others as of `export`.
    """
    check_arm(arm, "push", (*EXPORTED, *run.recipe.named_arms))
    TARGETS.load(to)
    check_repository(repository)
    if not dry_run:
        check_login()
    seed = seeds_of(run.recipe, arm)[0] if seed is None else seed
    source = replace(_source(run, arm, seed, heads), place=repository, hub=True)
    run.adopt()
    with TemporaryDirectory(prefix=".push-", dir=run.out) as scratch:
        folder = Path(scratch, "student")
        export_student(to, source, folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        url = "" if dry_run else upload(folder, repository, private, f"{run.recipe.name}: {arm}, seed {seed}")
        return Pushed(
            url,
            {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths},
            (folder / "README.md").read_text(encoding="utf-8"),
        )


def _source(run: Run, arm: str, seed: int, heads: bool) -> Source:
    """Return a student with the samples and the README of its export."""
    title, numbers = f"{run.recipe.name}: {arm}, seed {seed}", _numbers(run)
    student, version = _trained(run, arm, seed), software().get("clipzoo", "(source)")
    if named := run.named(arm):
        run, arm = named, "clipzoo"
    images, captions = _first_samples(run)
    manifests = run.inputs.manifests() if arm.startswith("clipzoo") else {}
    if heads and not student.specs:
        raise RecipeError(f"--heads: the student of the arm {arm!r} has no heads. Omit --heads")
    card = model_card(run.recipe, arm, title, manifests, numbers, version, _note(run, arm, seed))
    return Source(student, images, captions, card, heads)


def _numbers(run: Run) -> Results | None:
    """Return the contents of ``results.json``; None if the run was not measured, or if they are of other students."""
    if not run.folder.results.exists():
        return None
    results: Results = json.loads(run.folder.results.read_text(encoding="utf-8"))
    try:
        check_current(run, results)
    except CheckpointError as error:
        run.progress.stage(f"the model card has no results: {error}")
        return None
    return results


def _note(run: Run, arm: str, seed: int) -> str:
    """Return sentences of the model card on an early end by the guard and on interpolation, "" without both."""
    early = early_end(run.folder_of(arm.removesuffix(BEST), seed))
    guarded = (
        f"The guard of zero-shot recognition ended the training after {early[0]:,} of {counted(run.steps(), 'step')}: "
        f"the trained student is that of step {early[1]:,}."
        if early
        else ""
    )
    return f"{guarded} {_interpolation_note(run, arm, seed)}".strip()


def _interpolation_note(run: Run, arm: str, seed: int) -> str:
    if not arm.endswith(BEST):
        return ""
    path = run.folder_of(arm.removesuffix(BEST), seed) / RECORD
    alpha = json.loads(path.read_text(encoding="utf-8"))["best"]
    return (
        f"The weights are interpolated (WiSE-FT, arXiv 2109.01903): {1 - alpha:g} × the pretrained model + {alpha:g} × "
        "the trained student, chosen on validation."
    )


def _trained(run: Run, arm: str, seed: int) -> Student:
    if arm == "clip":
        return run.start()
    if arm.endswith(BEST):
        return _best(run, arm, seed)
    named = run.named(arm)
    student = named.trainings.trained("clipzoo", seed) if named else run.trainings.trained(arm, seed)
    if student is None:
        raise CheckpointError(
            f"{run.out} has no trained student of the arm {arm!r} with seed {seed}: run `clipzoo train "
            f"{shell_word(run.out)} --arm {arm} --seed {seed}` first"
        )
    return student


def _best(run: Run, arm: str, seed: int) -> Student:
    folder = run.folder.best(arm.removesuffix(BEST), seed)
    if not (folder / "done").exists():
        raise CheckpointError(
            f"{run.out} has no interpolated student of the arm {arm.removesuffix(BEST)!r} with seed {seed}: run "
            f"`clipzoo interpolate {shell_word(run.out)}` first"
        )
    return Student.load(folder, run.recipe.student.trust_remote_code).to(run.device).eval()


def _first_samples(run: Run) -> tuple[list[ImageArray], list[str]]:
    """Return the first readable pictures and captions of the dataset, at most `PARITY_SAMPLES`."""
    images: list[ImageArray] = []
    captions: list[str] = []
    for shard in run.reader.shards:
        for entry in run.reader.index(shard):
            try:
                sample = run.reader.read(entry)
                images.append(decode_image(sample.image))
            except SampleError:
                continue
            captions.append(sample.caption)
            if len(images) == PARITY_SAMPLES:
                return images, captions
    return images, captions
