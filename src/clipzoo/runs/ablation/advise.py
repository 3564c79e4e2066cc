"""Advice on experts before their whole cost is paid: short trainings with one expert each, measured on validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from clipzoo import files
from clipzoo.errors import RecipeError
from clipzoo.evaluation.arms import RowScores, strict
from clipzoo.evaluation.arms import comparison as compare_rows
from clipzoo.evaluation.criterion import normalized
from clipzoo.evaluation.measure import NOT_PROBED
from clipzoo.evaluation.results import AblationResults, Cell
from clipzoo.pages import words
from clipzoo.pages.ablation import write_ablation
from clipzoo.recipe import Recipe, parse
from clipzoo.runs import verbs
from clipzoo.runs._run import Run
from clipzoo.runs.folder import Folder
from clipzoo.runs.results import cost
from clipzoo.runs.variants import Variant, only_each
from clipzoo.store.manifest import software
from clipzoo.tasks.base import Measure

SPLIT = "validation"


@dataclass(frozen=True)
class Budget:
    """The size of the trainings: samples that are labeled and trained on, and steps."""

    samples: int = 1500
    steps: int = 40


class Advice(TypedDict):
    """The effect of one expert alone.

    Attributes:
        gain: change of the mean dense headline against ``clip-ft``, on validation. Zero-shot recognition is not part
            of it: after a short training its differences are noise, and larger than those of dense tasks.
        better, worse: names of headline measures with a 95 % interval on that side of zero.
        seconds_per_image: of labeling, as measured; None for labels that were imported.
        hours: of labeling all samples of the recipe's data at that speed; None if unknown.
    """

    gain: float
    better: list[str]
    worse: list[str]
    seconds_per_image: float | None
    hours: float | None


class AdviceResults(AblationResults):
    """The content of ``advice.json``: rows ``clip-ft`` and ``only <column>``, measured on validation."""

    samples: int
    advice: dict[str, Advice]
    rank_correlation: float | None


def check(recipe: Recipe) -> None:
    """Raise `RecipeError` if there is nothing to compare on, or nothing to compare."""
    if recipe.evaluation.validation is None:
        raise RecipeError(
            "evaluation.validation is missing, on which experts are compared: add a benchmark folder that is neither "
            "probe nor test"
        )
    if recipe.evaluation.probe is None:
        raise RecipeError(
            "evaluation.probe is missing: experts are compared by dense tasks, whose probes are fitted on it. Add a "
            "benchmark folder with true labels that is neither validation nor test"
        )
    if not recipe.columns:
        raise RecipeError("columns is empty, so there is no expert to compare with captions alone: add a column")


def advise(run: Run, budget: Budget | None = None) -> Path:
    """Train with captions alone and with each expert alone, briefly, and say what each expert gives for its cost.

    Everything is kept in the folder ``advice`` of the run, and reused by later calls with the same budget; labels are
    written into the store of the run. Test is not measured. Returns the path of the page.
    """
    check(run.recipe)
    budget = budget or Budget()
    with run.writing():
        small = _small(run, budget)
        run.adopt()
        with small.writing():
            verbs.label(small)
            scores = {"clip-ft": _scores(small, "clip-ft", small)}
            alone = only_each(small.inputs)
            for variant in alone:
                scores[variant.name] = _scores(small, variant.name, small.variant(variant))
            results = _results(run, small, scores, alone)
            files.write(small.out / "advice.json", json.dumps(results, indent=1, allow_nan=False).encode())
            title = f"Advice on the experts of {run.recipe.name}"
            return write_ablation(results, small.out / "advice.html", title, summary(results))


def _small(run: Run, budget: Budget) -> Run:
    root = run.out / "advice" / f"{budget.samples}-samples-{budget.steps}-steps"
    values = run.recipe.model_dump(mode="json")
    rates = sorted(run.recipe.training.learning_rates)
    values["training"] |= {"steps": budget.steps, "epochs": None, "guard": None, "evaluate_every": None}
    values["training"]["learning_rates"] = rates[len(rates) // 2 : len(rates) // 2 + 1]
    values |= {"arms": ["clip-ft", "clipzoo"], "seeds": values["seeds"][:1], "interpolation": None, "variants": {}}
    samples = max(budget.samples, run.recipe.training.batch_size)
    values["max_samples"] = min(samples, run.recipe.max_samples or samples)
    Folder(root).share(run.folder, ["clip"], rates=False)
    recipe = parse(values, "the recipe for advice, with the arms clip-ft and clipzoo,")
    return Run(recipe, root, run.progress, run.device)


def _scores(small: Run, row: str, run: Run) -> RowScores:
    """Return the scores of a row on validation."""
    arm, seed = "clip-ft" if row == "clip-ft" else "clipzoo", small.recipe.seeds[0]
    small.progress.stage(f"advice: {row}")

    def measure() -> Mapping[str, RowScores]:
        student = run.train(arm, seed)
        folder = run.folder.training(arm, seed)
        return run.trainings.measured(student, folder, lambda: small.suite.measure(student, [SPLIT]))

    with run.writing():
        run.adopt()
        folder, identity = run.folder.path / "scores" / "advice" / arm, run.measured.identity(arm, seed)
        return run.measured.kept(folder, measure, [SPLIT], identity)[SPLIT]


def _results(run: Run, small: Run, scores: Mapping[str, RowScores], alone: Sequence[Variant]) -> AdviceResults:
    seed, costs = small.recipe.seeds[0], cost(small)
    compared = compare_rows(
        {row: {seed: one} for row, one in scores.items()}, {}, pairs=[(one.name, "clip-ft") for one in alone]
    )
    found = {
        "recipe": run.recipe.name,
        "seeds": [seed],
        "steps": small.steps(),
        "samples": small.recipe.max_samples,
        "columns": list(small.specs),
        "cost": costs,
        "variants": {
            one.name: {"kind": one.kind, "column": one.column, "columns": one.columns, "folder": one.folder}
            for one in alone
        },
        **compared,
        "versions": software(),
    }
    results = cast(AdviceResults, strict(found))
    start, samples = _dense(results["arms"]["clip-ft"]), _samples(run)
    gains = {one.column: _dense(results["arms"][one.name]) - start for one in alone}
    results["advice"] = {
        one.column: _advice(results, one.name, gains[one.column], costs.get(one.column, {}), samples) for one in alone
    }
    results["rank_correlation"] = rank_correlation(gains, run.out / "ablation.json")
    return results


def _advice(results: AdviceResults, row: str, gain: float, costs: Mapping[str, float | None], samples: int) -> Advice:
    judged = [words.judge(results, metric, f"{row}-vs-clip-ft") for metric in words.headlines(results)]
    seconds = costs.get("seconds_per_image") or None
    return {
        "gain": gain,
        "better": [one.metric for one in judged if one and one.state == "better"],
        "worse": [one.metric for one in judged if one and one.state == "worse"],
        "seconds_per_image": seconds,
        "hours": seconds * samples / 3600 if seconds else None,
    }


def summary(results: AdviceResults) -> str:
    """Return the experts in the order of their gain for the cost of labeling, each with what it changes, as text."""
    sentences = []
    for name, one in ranked(results["advice"]):
        changes = [
            f"{verb} {', '.join(map(words.group_name, metrics))}"
            for verb, metrics in (("improves", one["better"]), ("harms", one["worse"]))
            if metrics
        ]
        cost = f" for {words.duration(3600 * one['hours'])} of labeling" if one["hours"] else ""
        sentences.append(f"{name} {' and '.join(changes) or 'changes nothing clearly'}{cost}.")
    return " ".join([*sentences, "Measured on validation after a short training; effects of a full one may differ."])


def ranked(advice: Mapping[str, Advice]) -> list[tuple[str, Advice]]:
    """Return the experts by gain, highest first; those that clearly improve nothing come last."""
    return sorted(advice.items(), key=lambda item: (bool(item[1]["better"]), item[1]["gain"]), reverse=True)


def _samples(run: Run) -> int:
    """Return the samples of the recipe's data, by the mean of the shards that advice labeled; exact if it has few."""
    shards, few = run.reader.shards, run.reader.shards[:4]
    counted = sum(len(run.reader.index(shard)) for shard in few)
    samples = round(counted / len(few) * len(shards))
    return min(samples, run.recipe.max_samples or samples)


def rank_correlation(gains: Mapping[str, float], ablation: Path) -> float | None:
    """Return Spearman's correlation of gains with those of a full ablation, measured on test.

    Args:
        gains: column -> gain of the expert alone.
        ablation: the ``ablation.json`` of the run; it may not exist.

    Returns:
        None without an ablation of these columns, or if fewer than three columns are compared.
    """
    if not ablation.exists():
        return None
    arms: Mapping[str, Mapping[str, Cell]] = json.loads(ablation.read_text(encoding="utf-8"))["arms"]
    both = [name for name in gains if f"only {name}" in arms]
    if len(both) < 3 or "clip-ft" not in arms:
        return None
    full = [_dense(arms[f"only {name}"]) - _dense(arms["clip-ft"]) for name in both]
    return float(np.corrcoef(_ranks([gains[name] for name in both]), _ranks(full))[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal values share the mean of their ranks."""
    return [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]


def _dense(cells: Mapping[str, Cell]) -> float:
    """Return the mean of the dense headlines of a row of results, as in `clipzoo.evaluation.criterion`."""
    first: dict[str, str] = {}
    for name in cells:
        first.setdefault(name.split("/")[0], name)
    dense = [
        normalized(cell["mean"], Measure(unit=cell["unit"]))
        for group, name in first.items()
        if group not in NOT_PROBED and (cell := cells[name])["mean"] is not None
    ]
    return sum(dense) / len(dense) if dense else 0.0
