"""The measurement of models that clipzoo did not train, side by side: ``clipzoo eval --model``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from clipzoo import encoders, files, locations, model_schemes, probing
from clipzoo.benchmarks import Benchmark, Crop, Split, open_benchmark, read_split, with_layout
from clipzoo.errors import CheckpointError, RecipeError, shell_word
from clipzoo.evaluation import Encoder, baselines, classification, compare, open_vocabulary
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.base import preprocessing_of, weights_of
from clipzoo.evaluation.measure import OPEN_VOCABULARY
from clipzoo.evaluation.results import Results
from clipzoo.evaluation.scores import PREPROCESSING, kept_scores
from clipzoo.evaluation.suite import PRESETS, Suite
from clipzoo.plugins import hint
from clipzoo.probing.base import fitted, patch_of
from clipzoo.progress import Progress
from clipzoo.recipe import Recipe
from clipzoo.runs.before.preflight import SPLITS, check_locations, option
from clipzoo.runs.folder import Folder
from clipzoo.store import software
from clipzoo.training import ended
from clipzoo.types import Size

QUICK = "quick"
PRIOR = "position_prior"
"""Row of the best constant map, which does not depend on a model."""


@dataclass(frozen=True)
class Comparison:
    """A request for measurements.

    Attributes:
        models: URIs of `clipzoo.encoders.create`.
        locations: split -> location of its benchmark; at least ``test``.
        out: folder of the scores and of ``results.json``.
        layers: of the vision towers that probes read.
        label_size: (H, W) of the labels that are compared, the same for all models.
        device: device in PyTorch's notation.
        preset: of trained probes, or of `classification`; ``quick`` fits probes in closed form.
        steps: of trained probes instead of the preset's.
        seed: of trained probes.
        open_vocabulary: variant of dense embeddings for open-vocabulary segmentation; None skips it.
    """

    models: Sequence[str]
    locations: Mapping[str, str]
    out: Path
    layers: tuple[int, ...] = (-1,)
    label_size: tuple[int, int] = (112, 112)
    device: str = "cpu"
    preset: str = QUICK
    steps: int | None = None
    seed: int = 0
    open_vocabulary: str | None = None


def measure(wanted: Comparison, progress: Progress) -> Results:
    """Measure every model that is not measured yet, and write and return the contents of ``results.json``.

    Raises:
        RecipeError: two models are equal, there is no test benchmark, or two splits share pictures.
        CheckpointError: a model cannot be loaded. Benchmarks raise other errors.
    """
    if repeated := [uri for uri in wanted.models if wanted.models.count(uri) > 1]:
        raise RecipeError(f"--model {repeated[0]} is given twice; give each model once")
    if "test" not in wanted.locations:
        raise RecipeError("--test is missing: models are compared on a test benchmark (docs/benchmarks.md)")
    _check_options(wanted)
    for uri in wanted.models:
        encoders.check(uri)
    files.make_folder(wanted.out)
    check_locations(wanted.locations, field=option)
    benchmarks = {split: _opened(wanted, split, progress) for split in SPLITS if split in wanted.locations}
    reported = [split for split in ("test", "heldout") if split in benchmarks]
    _check_measurable(wanted, benchmarks, reported)
    suite = _suite(wanted, benchmarks) if wanted.preset == QUICK else None
    trained = _classified if wanted.preset in classification.PRESETS else _trained_scores
    scores = {
        uri: _scores(wanted, uri, suite, reported, progress)
        if suite
        else trained(wanted, uri, benchmarks, reported, progress)
        for uri in wanted.models
    }
    if empty := [uri for uri, of in scores.items() if not of.get("test")]:
        raise RecipeError(
            f"nothing can be measured on --test {wanted.locations['test']} for {', '.join(empty)}: without a text "
            "tower, a model has only dense tasks, which need true labels in --probe, --validation and --test"
        )
    arms = {split: {uri: {0: of.get(split, {})} for uri, of in scores.items()} for split in reported}
    constant = {PRIOR: _prior(wanted, suite, progress), **suite.constant("test")} if suite else {}
    results = compare(
        arms["test"],
        {row: {0: groups} for row, groups in constant.items() if groups},
        recipe=", ".join(wanted.models),
        subsets={split: (arms[split], {}) for split in reported if split != "test"},
        protocol=_protocol(wanted) | open_vocabulary.protocol(wanted.open_vocabulary),
        versions=software(),
    )
    files.write(wanted.out / "results.json", json.dumps(results, indent=1, allow_nan=False).encode())
    return results


def students(recipe: Recipe, folder: Folder, given: str) -> list[str]:
    """Return the URIs of the pretrained model and of the students of a run, in the order of its arms.

    ``given`` is the run or recipe as the user named it, for the message.

    Left out: a start that has no URI (random weights, or a file of weights), and arms with a subset of the columns.

    Raises:
        CheckpointError: no arm is trained.
    """
    every = [(arm, seed) for arm in recipe.arms for seed in recipe.seeds if ended(folder.training(arm, seed))]
    if not every:
        raise CheckpointError(f"{folder.path} has no trained student: run `clipzoo train {shell_word(given)}` first")
    places = [place for one in every for place in (folder.training(*one) / "student", folder.best(*one))]
    found = [f"open_clip:{place}" for place in places if (place / "done").exists()]
    start = _start(recipe) if "clip" in recipe.arms else None
    return [start, *found] if start else found


def _start(recipe: Recipe) -> str | None:
    """Return the URI of the pretrained model of a recipe; None if it has none."""
    student = recipe.student
    if student.random or (student.pretrained and Path(student.pretrained).exists()):
        return None
    size = "" if student.height_width is None else "?size={}x{}".format(*student.height_width)
    if student.model.startswith("hf:"):
        return f"{student.model}{size}"
    name = model_schemes.resolve(student.model).removeprefix("local-dir:")
    return f"open_clip:{name}{f'/{student.pretrained}' if student.pretrained else ''}{size}"


def benchmarks_of(recipe: Recipe, preset: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return split -> location, with its layout, of the benchmarks of a recipe that a preset uses.

    Those that are ``given`` replace the recipe's.
    """
    classifier = classification.PRESETS.get(preset)
    validated = classifier is not None and classifier.validated
    splits = ("probe", "validation", "test") if validated else ("probe", "test")
    named = {split: getattr(recipe.evaluation, split) for split in splits} | dict(given)
    places = {split: place for split, place in named.items() if place is not None}
    layout = recipe.evaluation.layout
    return {split: one if locations.provided(one) else with_layout(one, layout) for split, one in places.items()}


def _check_options(wanted: Comparison) -> None:
    """Raise `RecipeError` if the benchmarks or options do not fit the preset."""
    if wanted.preset == QUICK and {"probe", "validation"} & set(wanted.locations) == {"probe"}:
        raise RecipeError("--probe needs --validation, which selects the strength of the probes")
    if wanted.preset != QUICK and "probe" not in wanted.locations:
        raise RecipeError(f"--probe is missing: the preset {wanted.preset} trains its probe on this benchmark")
    if wanted.preset in (QUICK, *classification.PRESETS):
        for name, value in (("steps", wanted.steps), ("seed", wanted.seed)):
            if value:
                raise RecipeError(
                    f"--{name} needs --preset with a trained probe: {wanted.preset} has no {name}. Remove --{name}"
                )
    if wanted.preset != QUICK and wanted.open_vocabulary:
        raise RecipeError(
            f"--open-vocabulary has no trained probe: remove --preset {wanted.preset}, or measure both "
            "in two commands with two --out"
        )
    known = [QUICK, *classification.PRESETS, *probing.names()]
    if wanted.preset not in known:
        raise RecipeError(f"there is no preset {wanted.preset!r}; {hint(wanted.preset, known)}")
    classifier = classification.PRESETS.get(wanted.preset)
    validated = wanted.preset == QUICK or (classifier is not None and classifier.validated)
    if not validated and "validation" in wanted.locations:
        raise RecipeError(f"the preset {wanted.preset} has no setting that validation chooses. Remove --validation")


def _opened(wanted: Comparison, split: str, progress: Progress) -> Benchmark:
    location = wanted.locations[split]
    if locations.provided(location):
        return open_benchmark(locations.resolve(location, wanted.out / ".data", progress.step))
    return open_benchmark(location)


def _check_measurable(wanted: Comparison, benchmarks: Mapping[str, Benchmark], reported: Sequence[str]) -> None:
    """Raise `RecipeError` if a benchmark lacks what the measurements need, before any model is loaded."""
    if wanted.preset in classification.PRESETS:
        used = {name: one.classnames for name, one in benchmarks.items() if name in ("probe", "validation", *reported)}
        classification.check_classes(used)
        return
    if wanted.preset != QUICK:
        task = probing.get(wanted.preset).task
        for split in ("probe", *reported):
            if task not in benchmarks[split].labels:
                raise RecipeError(
                    f"--{split} {wanted.locations[split]} has no true labels of {task}, which the preset "
                    f"{wanted.preset} needs; it has {', '.join(benchmarks[split].labels) or 'none'}"
                )


def _suite(wanted: Comparison, benchmarks: Mapping[str, Benchmark]) -> Suite:
    """Return the benchmarks, read once for all models; raise `RecipeError` if nothing can be measured on test."""
    suite = Suite.of(benchmarks, wanted.label_size, layers=wanted.layers, label_size=wanted.label_size)
    if wanted.open_vocabulary:
        suite.check_prompted("omit --open-vocabulary")
    elif not ((suite.probed and "test" in suite.dense) or "test" in suite.zero_shot or "test" in suite.retrieval):
        needs = (
            "--probe and --validation with true labels" if "test" in suite.dense else "classes, captions or true labels"
        )
        raise RecipeError(f"nothing can be measured on --test {wanted.locations['test']}: it needs {needs}")
    return suite


def _scores(
    wanted: Comparison, uri: str, benchmarks: Suite, reported: Sequence[str], progress: Progress
) -> dict[str, RowScores]:
    """Return split -> scores of one model; existing scores of the same benchmarks are used."""
    progress.stage(f"measuring {uri}")
    model = encoders.create(uri)
    _note_random(model, uri, progress)
    if isinstance(model, nn.Module):
        model.to(wanted.device)
    crop, kept = _preprocessing(model)
    suite = benchmarks.seen_by(model.image_size, crop, kept)
    identity = _request(wanted) | dict(suite.identities) | _of_model(model)
    if getattr(model, "has_text", True):  # dense tasks have the whole image
        identity |= _kept(kept) | ({"texts": "masked"} if getattr(model, "masked", False) else {})
    folder = wanted.out / "scores" / _folder_name(uri)
    measured = kept_scores(folder, lambda: suite.measure(model, reported), identity, progress.stage)
    return _prompted(wanted, uri, model, suite, measured, identity, progress)


def _prompted(
    wanted: Comparison,
    uri: str,
    model: Encoder,
    suite: Suite,
    scores: Mapping[str, RowScores],
    identity: Mapping[str, str],
    progress: Progress,
) -> dict[str, RowScores]:
    """Add the scores of open-vocabulary segmentation, if they are wanted."""
    variant = wanted.open_vocabulary
    if variant is None:
        return dict(scores)
    if not open_vocabulary.defined(model):
        progress.stage(f"{uri} has no row of open vocabulary: it has no dense embeddings in the space of texts")
        return dict(scores)
    reported = [split for split in ("test", "heldout") if split in suite.dense]
    folder = wanted.out / "scores" / f"{OPEN_VOCABULARY}-{variant}" / _folder_name(uri)
    added = kept_scores(folder, lambda: suite.prompted(model, reported, variant), identity, progress.stage)
    return {split: {**scores.get(split, {}), **added.get(split, {})} for split in {**scores, **added}}


def _note_random(model: Encoder, uri: str, progress: Progress) -> None:
    if getattr(model, "random", False):
        progress.stage(f"{uri} has random weights: its name has no pretrained tag, as in open_clip:ViT-B-16/openai")


def _trained_scores(
    wanted: Comparison, uri: str, benchmarks: Mapping[str, Benchmark], reported: Sequence[str], progress: Progress
) -> dict[str, RowScores]:
    """Return split -> scores of a probe that is trained on one model; existing scores and checkpoints are used."""
    preset = probing.get(wanted.preset)
    identities = {split: _identity(benchmarks[split], preset.task) for split in ("probe", *reported)}
    of_model = _of_model(encoders.create(uri))
    identities |= of_model
    if preset.flip_average and preset.bins:
        identities["flip_average"] = "of meters"  # earlier versions averaged logarithms
    folder = wanted.out / "probes" / f"{wanted.preset}-{_folder_name(uri)}"

    def measured() -> dict[str, RowScores]:
        progress.stage(f"training the probe {wanted.preset} on {uri}")
        model = _encoder(wanted, uri, preset, fitted(preset.crop, _patch(uri)))
        _note_random(model, uri, progress)
        job = probing.ProbeJob(
            preset, model, " ".join([uri, of_model["weights"], identities["probe"]]), folder, wanted.seed, wanted.steps,
            lambda done, total, loss: progress.step(wanted.preset, done, total, f"loss {loss:.4f}"),
            of_model[PREPROCESSING],
        )  # fmt: skip
        module = probing.train(job, benchmarks["probe"])
        size = probing.size_of(preset, patch_of(model))
        progress.stage(f"measuring {', '.join(reported)}")
        tested = model if size == model.image_size else _encoder(wanted, uri, preset, size)
        return {split: probing.score(preset, module, tested, benchmarks[split]) for split in reported}

    return dict(kept_scores(folder / "scores", measured, _request(wanted) | identities, progress.stage))


def _classified(
    wanted: Comparison, uri: str, benchmarks: Mapping[str, Benchmark], reported: Sequence[str], progress: Progress
) -> dict[str, RowScores]:
    """Return split -> scores of a classifier on the embeddings of one model; existing features are used."""
    preset = classification.PRESETS[wanted.preset]
    progress.stage(f"measuring {wanted.preset} of {uri}")
    model = encoders.create(uri)
    _note_random(model, uri, progress)
    if isinstance(model, nn.Module):
        model.to(wanted.device)
    crop, kept = _preprocessing(model)
    splits: dict[str, Split] = {
        name: replace(read_split(replace(one, labels={}), model.image_size), crop=crop, kept=kept)
        for name, one in benchmarks.items()
        if name in ("probe", *reported) or (name == "validation" and preset.validated)
    }
    for sentence in classification.unseen(splits, reported):
        progress.stage(sentence)
    identity = _request(wanted) | {name: split.identity for name, split in splits.items()} | _kept(kept)
    identity |= _of_model(model)
    folder = wanted.out / "features" / _folder_name(uri)

    def measured() -> dict[str, RowScores]:
        return dict(classification.evaluate(preset, model, splits, folder, progress.step))

    place = wanted.out / "scores" / wanted.preset / _folder_name(uri)
    return dict(kept_scores(place, measured, identity, progress.stage))


def _of_model(model: Encoder) -> dict[str, str]:
    """Return the part of an identity that a model gives."""
    return {"weights": weights_of(model), PREPROCESSING: preprocessing_of(model)}


def _preprocessing(model: Encoder) -> tuple[Crop, float]:
    """Return the part of an image that the preprocessing of a model keeps; see `ImageEncoder`."""
    return getattr(model, "crop", "whole"), getattr(model, "kept", 1.0)


def _kept(kept: float) -> dict[str, str]:
    """Return the part of an identity that says so, if preprocessing keeps less than the whole crop."""
    return {} if kept == 1 else {"kept": f"{kept:.6g}"}


def _encoder(wanted: Comparison, uri: str, preset: probing.Preset, size: Size) -> Encoder:
    options = f"size={size[0]}x{size[1]}&norm={'yes' if preset.norm else 'no'}"
    model = encoders.create(f"{uri}{'&' if '?' in uri else '?'}{options}")
    if isinstance(model, nn.Module):
        model.to(wanted.device)
    return model


def _patch(uri: str) -> int:
    return patch_of(encoders.create(uri))


def _identity(benchmark: Benchmark, task: str) -> str:
    """Return a text that changes with the pictures' keys and the labels of a task."""
    digest = hashlib.sha256(benchmark.labels[task].identity().encode() if task in benchmark.labels else b"")
    for shard in benchmark.shards:
        for entry in benchmark.reader.index(shard):
            digest.update(f"{entry.key} {entry.members.get(entry.image)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _prior(wanted: Comparison, suite: Suite, progress: Progress) -> RowScores:
    """Return the scores of the position prior on test; they are kept like those of a model."""
    if not suite.probed or "test" not in suite.dense:
        return {}

    def measured() -> dict[str, RowScores]:
        progress.stage(f"measuring {PRIOR}")
        fitted = baselines.position_prior(suite.dense["probe"], suite.dense["validation"])
        return {"test": fitted.score(suite.dense["test"])}

    identity = _request(wanted) | dict(suite.identities)
    return kept_scores(wanted.out / "scores" / PRIOR, measured, identity, progress.stage).get("test", {})


def _protocol(wanted: Comparison) -> dict[str, object]:
    """Return how the numbers are measured."""
    H, W = wanted.label_size
    if wanted.preset in classification.PRESETS:
        return {"preset": _preset(wanted), **classification.protocol(classification.PRESETS[wanted.preset])}
    if wanted.preset != QUICK:
        preset = probing.get(wanted.preset)
        settings = {name: value for name, value in asdict(preset).items() if value not in (None, (), {})}
        return {"preset": _preset(wanted), "seed": wanted.seed, "steps": wanted.steps, **settings}
    return {
        "preset": _preset(wanted),
        "resolution": f"each model's own input size, {H}×{W} labels",
        "crop": "dense tasks: the whole image, squashed; zero-shot and retrieval: each model's own preprocessing",
        "probe": f"ridge regression from the tokens of layers {list(wanted.layers)} of the frozen tower; strength "
        "chosen on validation",
    }


def _request(wanted: Comparison) -> dict[str, str]:
    """Return the settings with which scores are valid."""
    return {"preset": _preset(wanted), "protocol": json.dumps(_protocol(wanted), sort_keys=True)}


def _preset(wanted: Comparison) -> str:
    if wanted.preset in classification.PRESETS:
        return f"{wanted.preset}, version {classification.PRESETS[wanted.preset].version}"
    version = PRESETS[QUICK] if wanted.preset == QUICK else probing.get(wanted.preset).version
    changed = f", {wanted.steps} steps instead of its own" if wanted.steps else ""
    return f"{wanted.preset}, version {version}{changed}"


def _folder_name(uri: str) -> str:
    """Return a file name for a URI that differs for different URIs."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', uri)[:60]}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
