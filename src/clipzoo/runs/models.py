"""The measurement of models that clipzoo did not train, side by side: ``clipzoo eval --model``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from clipzoo import encoders, files, locations
from clipzoo.benchmarks import Benchmark, Crop, open_benchmark
from clipzoo.errors import RecipeError
from clipzoo.evaluation import baselines, compare
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.scores import kept_scores
from clipzoo.evaluation.suite import PRESETS, Suite
from clipzoo.progress import Progress
from clipzoo.runs.preflight import SPLITS, check_locations
from clipzoo.store import software

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
    """

    models: Sequence[str]
    locations: Mapping[str, str]
    out: Path
    layers: tuple[int, ...] = (-1,)
    label_size: tuple[int, int] = (112, 112)
    device: str = "cpu"


def measure(wanted: Comparison, progress: Progress) -> dict[str, Any]:
    """Measure every model that is not measured yet, and write and return the contents of ``results.json``.

    Raises:
        RecipeError: two models are equal, there is no test benchmark, or two splits share pictures.
        CheckpointError: a model cannot be loaded. Benchmarks raise other errors.
    """
    if repeated := [uri for uri in wanted.models if wanted.models.count(uri) > 1]:
        raise RecipeError(f"--model {repeated[0]} is given twice; give each model once")
    if "test" not in wanted.locations:
        raise RecipeError("--test is missing: models are compared on a test benchmark (docs/benchmarks.md)")
    if {"probe", "validation"} & set(wanted.locations) == {"probe"}:
        raise RecipeError("--probe needs --validation, which selects the strength of the probes")
    check_locations(wanted.locations)
    benchmarks = {split: _opened(wanted, split, progress) for split in SPLITS if split in wanted.locations}
    reported = [split for split in ("test", "heldout") if split in benchmarks]
    scores = {uri: _scores(wanted, uri, benchmarks, reported, progress) for uri in wanted.models}
    arms = {split: {uri: {0: of[split]} for uri, of in scores.items()} for split in reported}
    prior = {split: {PRIOR: {0: _prior(wanted, benchmarks, split, progress)}} for split in reported}
    results = compare(
        arms["test"],
        {row: seeds for row, seeds in prior["test"].items() if seeds[0]},
        recipe=", ".join(wanted.models),
        subsets={split: (arms[split], {}) for split in reported if split != "test"},
        protocol=_protocol(wanted),
        versions=software(),
    )
    files.write(wanted.out / "results.json", json.dumps(results, indent=1, allow_nan=False).encode())
    return results


def _opened(wanted: Comparison, split: str, progress: Progress) -> Benchmark:
    location = wanted.locations[split]
    if locations.provided(location):
        return open_benchmark(locations.resolve(location, wanted.out / ".data", progress.step))
    return open_benchmark(location)


def _scores(
    wanted: Comparison, uri: str, benchmarks: Mapping[str, Benchmark], reported: Sequence[str], progress: Progress
) -> dict[str, RowScores]:
    """Return split -> scores of one model; existing scores of the same benchmarks are used."""
    progress.stage(f"measuring {uri}")
    model = encoders.create(uri)
    if isinstance(model, nn.Module):
        model.to(wanted.device)
    crop: Crop = getattr(model, "crop", "whole")
    suite = Suite.of(benchmarks, model.image_size, layers=wanted.layers, crop=crop, label_size=wanted.label_size)
    identity = {"preset": _preset(), "protocol": json.dumps(_protocol(wanted), sort_keys=True), **suite.identities}
    measured = kept_scores(
        wanted.out / "scores" / _folder_name(uri), lambda: suite.measure(model, reported), identity, progress.stage
    )
    return dict(measured)


def _prior(wanted: Comparison, benchmarks: Mapping[str, Benchmark], split: str, progress: Progress) -> RowScores:
    suite = Suite.of(benchmarks, wanted.label_size, layers=wanted.layers, label_size=wanted.label_size)
    if not suite.probed or split not in suite.dense:
        return {}
    progress.stage(f"measuring {PRIOR} on {split}")
    return baselines.position_prior(suite.dense["probe"], suite.dense["validation"]).score(suite.dense[split])


def _protocol(wanted: Comparison) -> dict[str, Any]:
    """Return how the numbers are measured."""
    H, W = wanted.label_size
    return {
        "preset": _preset(),
        "resolution": f"each model's own input size, {H}×{W} labels",
        "crop": "dense tasks: the whole image, squashed; zero-shot and retrieval: each model's own preprocessing",
        "probe": f"ridge regression from the tokens of layers {list(wanted.layers)} of the frozen tower; strength "
        "chosen on validation",
    }


def _preset() -> str:
    return f"quick, version {PRESETS['quick']}"


def _folder_name(uri: str) -> str:
    """Return a file name for a URI that differs for different URIs."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', uri)[:60]}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
