"""The API verbs: label, train, evaluate, report, run, export. Each goes on where an earlier call was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from clipzoo import export as export_formats
from clipzoo import files
from clipzoo.benchmarks import Truth
from clipzoo.errors import CheckpointError, RecipeError, SampleError
from clipzoo.evaluation import compare
from clipzoo.evaluation.measure import Scored
from clipzoo.export._card import card as model_card
from clipzoo.files import AnyPath
from clipzoo.labeling import Tuning
from clipzoo.labeling import label as label_dataset
from clipzoo.models import Student
from clipzoo.pages import PictureRow, write_page
from clipzoo.pages.showcase import showcase
from clipzoo.recipe import Recipe
from clipzoo.runs.folder import PSEUDO, Run, told
from clipzoo.runs.preflight import TRAINED, check_arm
from clipzoo.store import Store, software
from clipzoo.training import read_log, supervision
from clipzoo.training.health import in_words
from clipzoo.types import ImageArray, decode_image

PARITY_SAMPLES = 32
"""Pictures and captions on which an exported student is compared with the trained one."""

P = ParamSpec("P")
R = TypeVar("R")


def pick_device(wanted: str = "auto") -> str:
    """``auto`` is the first GPU, else the CPU; `RecipeError` for a device that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:  # torch built without it asserts
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise RecipeError(f"there is no device {wanted!r} here; there are: {', '.join(there)}; or give auto") from error
    return wanted


def _alone(verb: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
    """The verb, as the only one that works in the run's folder."""

    @wraps(verb)
    def locked(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with run.writing():
            return verb(run, *args, **kwargs)

    return locked


@_alone
def label(run: Run) -> Store:
    """Let the recipe's experts label its dataset; what is labeled already is not labeled again."""
    if run.experts:
        if left := run.unlabeled():
            run.progress.stage(f"labeling {run.recipe.data}: {', '.join(left)}")
        settings = run.recipe.labeling
        label_dataset(
            run.dataset,
            list(run.experts.values()),
            str(run.store.root),
            device=run.device,
            batch_size=settings.batch_size,
            max_failures=settings.max_failures,
            shards=run.shards(),
            tuning=Tuning(settings.precision, settings.channels_last, settings.compile),
            engine=settings.engine,
            ray_address=settings.ray_address,
        )
        run.unload_experts()
    return run.store


@_alone
def train(run: Run, arm: str, seed: int) -> Path:
    """Train one arm, unless it was trained already; returns the folder of the student."""
    check_arm(arm, "train")
    if run.trained(arm, seed) is None:
        label(run)
        run.progress.stage(f"training {arm}, seed {seed}")
        run.train(arm, seed)
    return run.folder_of(arm, seed) / "student"


@_alone
def evaluate(run: Run) -> Path:
    """Measure every arm and seed, and all baselines; returns ``results.json``. What is not trained yet is trained."""
    check_measurable(run.recipe)
    if left := run.untrained():
        run.progress.stage(f"not trained yet, so it is trained before anything is measured: {told(left)}")
    for arm, seed in left:
        train(run, arm, seed)
    scores: dict[str, Any] = {arm: {seed: run.scores(arm, seed) for seed in run.seeds(arm)} for arm in run.recipe.arms}
    measured: dict[str, tuple[Any, Any]] = {}
    for split, rows in run.baselines(run.splits()).items():
        arms = {arm: {seed: found[split] for seed, found in seeds.items()} for arm, seeds in scores.items()}
        measured[split] = arms, {row: {0: groups} for row, groups in rows.items()}
    supervised = _supervision(run)
    results = compare(
        *measured["test"],
        recipe=run.recipe.name,
        subsets={split: pair for split, pair in measured.items() if split != "test"},
        cost=_cost(run),
        protocol=_protocol(run) | {"supervision": in_words(supervised.get("clipzoo", {}))},
        versions=software(),
    ) | {"supervision": supervised}
    path = run.out / "results.json"
    files.write(path, json.dumps(results, indent=1, allow_nan=False).encode())
    return path


@_alone
def report(run: Run) -> Path:
    """Write the page of a run that has been measured; returns its path."""
    path = run.out / "results.json"
    if not path.exists():
        raise CheckpointError(f"{run.out} has no results.json: run `clipzoo eval {run.out}` first")
    run.progress.stage("writing the page")
    curves: dict[str, Any] = {
        arm: {seed: _curve(run.folder_of(arm, seed)) for seed in run.seeds(arm)}
        for arm in run.recipe.arms
        if arm in TRAINED
    }
    return write_page(
        json.loads(path.read_text(encoding="utf-8")),
        run.out / "page.html",
        curves=curves,
        pictures=_pictures(run),
        recipe=run.recipe.to_yaml(),
    )


@_alone
def run(run: Run) -> Path:
    """Everything: label, train, measure, report; returns the path of the page."""
    evaluate(run)
    return report(run)


@_alone
def export(
    run: Run, to: str = "open_clip", arm: str = "clipzoo", seed: int | None = None, out: AnyPath | None = None,
    heads: bool = False,
) -> tuple[Path, str]:  # fmt: skip
    """Hand a student over in the format of a file of ``export/``; nothing is trained for it.

    Args:
        run: that holds the student.
        to: the format.
        arm, seed: which student; default the recipe's first seed.
        out: a folder that is empty or does not exist; default ``export/<format>/<arm>-<seed>`` in the run's.
        heads: keep the heads beside the model.

    Returns:
        the folder, and how near the student there is, in a sentence.

    Raises:
        RecipeError: there is no such arm.
        CheckpointError: the arm is not trained yet, the folder is taken, the exported student is another, or another
            process works in the run's folder.
        OSError: the disk refuses it; nothing is left of the attempt.
    """
    check_arm(arm, "export", ("clip", *TRAINED))
    form = export_formats.PLUGINS.load(to)
    seed = run.seeds(arm)[0] if seed is None else seed
    folder = files.local(out or run.out / "export" / to / f"{arm}-{seed}", "an exported student")
    images, captions = _first_samples(run)
    manifests = {name: column.manifest for name, (_, column) in run.columns.items()} if arm == "clipzoo" else {}
    results = run.out / "results.json"
    measured = json.loads(results.read_text(encoding="utf-8")) if results.exists() else None
    text = model_card(run.recipe, arm, seed, manifests, measured, software().get("clipzoo", "(source)"))
    found = form.export(_trained(run, arm, seed), folder, images, captions, text, heads)
    return folder, form.sentence(found)


def _trained(run: Run, arm: str, seed: int) -> Student:
    if arm == "clip":
        return run.start()
    student = run.trained(arm, seed)
    if student is None:
        raise CheckpointError(
            f"{run.out} has no trained student of the arm {arm!r} with seed {seed}: run `clipzoo train {run.out} "
            f"--arm {arm} --seed {seed}` first"
        )
    return student


def _first_samples(run: Run) -> tuple[list[ImageArray], list[str]]:
    """The first pictures and captions of the run's data that can be read, `PARITY_SAMPLES` at most."""
    images: list[ImageArray] = []
    captions: list[str] = []
    for entry in (entry for shard in run.reader.shards for entry in run.reader.index(shard)):
        try:
            sample = run.reader.read(entry)
            images.append(decode_image(sample.image))
        except SampleError:
            continue
        captions.append(sample.caption)
        if len(images) == PARITY_SAMPLES:
            break
    return images, captions


def check_measurable(recipe: Recipe) -> None:
    """Raise `RecipeError` if a recipe has nothing to measure its arms on."""
    if recipe.evaluation.test is None:
        raise RecipeError(
            "the recipe has nothing to measure on, for its evaluation.test is not set: give it a folder of pictures "
            "that is made as docs/benchmarks.md shows, or train without measuring, by `clipzoo train`"
        )


def _curve(folder: Path) -> list[dict[str, Any]]:
    """The loss terms and the guard of a training log, a value a line."""
    return [
        {"step": line["step"], "name": name, "value": value}
        for line in read_log(folder)
        for name, value in line.items()
        if name.startswith(("loss", "validation/"))
    ]


def _pictures(run: Run) -> list[PictureRow]:
    arms, seed = run.recipe.arms, run.recipe.seeds[0]
    wanted = run.recipe.evaluation.pictures and {"clip-ft", "clipzoo"} <= set(arms)
    if not wanted or (test := run.suite.dense.get("test")) is None:
        return []
    probes = {arm: run.probes(arm, seed) for arm in ("clip-ft", "clipzoo")}
    runs: dict[str, Mapping[str, Scored]] = {arm: run.scores(arm, seed)["test"] for arm in probes}
    runs |= {"expert": run.baselines(["test"])["test"].get("expert", {})}
    return showcase(test, probes, runs, run.loaded_experts(), run.recipe.evaluation.pictures)


def _cost(run: Run) -> dict[str, Any]:
    """What the labels in use cost, column by column; what was spent on shards that were then dropped stands apart."""
    cost, stored = {}, {column.name: column for column in run.store.columns()}
    for name in [name for name in run.specs if name in stored]:
        column, manifest = stored[name], stored[name].manifest
        images = max(manifest.counts.labels + manifest.counts.failures, 1)
        seconds = column.seconds_in_use()
        cost[name] = {
            "seconds_per_image": seconds / images,
            "images_per_second": images / seconds if seconds else None,
            "dropped_seconds": round(max(manifest.seconds - seconds, 0.0), 1),
            "bytes_per_image": manifest.counts.bytes / images,
            "images": images,
            "failures": manifest.counts.failures,
        }
    return cost


def _supervision(run: Run) -> dict[str, Any]:
    """Arm -> seed -> what it was trained on, and what of it could not be read; of trainings that kept it."""
    found = {
        arm: {str(seed): kept for seed in run.seeds(arm) if (kept := supervision(run.folder_of(arm, seed)))}
        for arm in run.recipe.arms
        if arm in TRAINED
    }
    return {arm: seeds for arm, seeds in found.items() if seeds}


def _protocol(run: Run) -> dict[str, Any]:
    """What a result must state."""
    H, W = run.suite.size
    stride, test = run.recipe.evaluation.label_stride, run.suite.dense.get("test")
    truth = test.truth if test else {}
    averaged = [(task, one.task.metric(one.convention).over) for task, one in truth.items()]
    recognized = "a centered part of the student's aspect" if run.start().crop == "center" else "the same"
    return {
        "preset": run.preset,
        "crop": f"dense tasks: the whole image, squashed to the student's size; zero-shot and retrieval: {recognized}",
        "resolution": f"{H}×{W} images, {H // stride}×{W // stride} labels",
        "mask": "pixels whose true label is known",
        "alignment": _alignment(truth),
        "averaging": "; ".join(f"{task}: over {over}" for task, over in averaged if over),
        "probe": f"ridge from the tokens of layers {list(run.recipe.evaluation.layers)} of the frozen tower to the "
        "pixels of each token; strength chosen on validation",
        "zero_shot": "normalized mean of normalized embeddings over the dataset's own templates",
        "retrieval": "mean of both directions; equal captions are one candidate",
        "learning_rates": {arm: run.rate(arm) for arm in run.recipe.arms if arm != "clip"},
        "learning_rate_grid": list(run.recipe.training.learning_rates),
        "more_labels": f"truth of the probe split and pseudo-labels of {PSEUDO:,} captioned pictures, drawn from all",
    }


def _alignment(truth: Mapping[str, Truth]) -> str:
    kind = truth["depth"].convention.kind if "depth" in truth else "metric"
    return "none" if kind == "metric" else f"scale and shift of each picture's depth, whose truth is {kind}"
