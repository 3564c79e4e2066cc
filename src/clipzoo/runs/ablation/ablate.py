"""The ablation of a run: its variants are trained and measured in folders of their own, which share its other work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from clipzoo import files
from clipzoo.errors import RecipeError
from clipzoo.evaluation.arms import RowScores, strict
from clipzoo.evaluation.arms import comparison as compare_rows
from clipzoo.evaluation.results import AblationResults
from clipzoo.pages.ablation import write_ablation
from clipzoo.recipe import Recipe
from clipzoo.runs import verbs
from clipzoo.runs._run import Run
from clipzoo.runs.before.preflight import check_measurable
from clipzoo.runs.folder import Folder
from clipzoo.runs.results import cost
from clipzoo.runs.variants import Variant, variants
from clipzoo.store.manifest import software
from clipzoo.training import ended

ALL = "all"
"""Row of the arm ``clipzoo`` with all columns."""


@dataclass(frozen=True)
class Ablation:
    """A request: columns that are left out or kept alone (None: all of them), and steps instead of the recipe's."""

    without: Sequence[str] | None = None
    only: Sequence[str] | None = None
    steps: int | None = None


def planned(run: Run, wanted: Ablation) -> list[tuple[str, int, bool]]:
    """Return (folder relative to the run, seed, True if trained) of every training; equal subsets are listed once."""
    root = _root(run, wanted.steps)
    folders = [(root, arm) for arm in ("clip-ft", "clipzoo")]
    subsets = dict.fromkeys(one.folder for one in variants(run.inputs, wanted.without, wanted.only) if one.folder)
    folders += [(root / "ablations" / name, "clipzoo") for name in subsets]
    return [
        ((folder / "arms" / arm).relative_to(run.out).as_posix(), seed, ended(folder / "arms" / arm / str(seed)))
        for folder, arm in folders
        for seed in run.recipe.seeds
    ]


def check(recipe: Recipe) -> None:
    """Raise `RecipeError` if the recipe has no benchmark or not the arms that an ablation compares."""
    check_measurable(recipe)
    if missing := [arm for arm in ("clip-ft", "clipzoo") if arm not in recipe.arms]:
        raise RecipeError(
            f"arms has no {missing[0]}, which an ablation compares with its variants: add it to arms of the recipe"
        )


def ablate(run: Run, wanted: Ablation) -> Path:
    """Train and measure the variants that are missing, and write ``ablation.json`` and its page.

    Variants that earlier calls trained are part of the result. Returns the path of the page.
    """
    check(run.recipe)
    chosen = variants(run.inputs, wanted.without, wanted.only)
    with run.writing():
        verbs.label(run)
        reference = _reference(run, wanted.steps)
        with reference.writing():
            for arm in ("clip-ft", "clipzoo"):
                for seed in run.recipe.seeds:
                    reference.progress.stage(f"{arm} with all columns, seed {seed}")
                    reference.train(arm, seed)
            every = [*chosen, *(one for one in variants(run.inputs) if one not in chosen and _trained(reference, one))]
            return _compared(reference, every)


def _root(run: Run, steps: int | None) -> Path:
    same = steps is None or steps == run.recipe.training.steps
    return run.out if same else run.out / "ablations" / f"steps-{steps}"


def _reference(run: Run, steps: int | None) -> Run:
    """Return the run with all columns: this one, or one of fewer steps below it."""
    root = _root(run, steps)
    if root == run.out:
        return run
    values = run.recipe.model_dump(mode="json")
    values["training"] |= {"steps": steps, "epochs": None}
    Folder(root).share(run.folder, ["clip"], rates=False)
    return Run(Recipe.model_validate(values), root, run.progress, run.device)


def _trained(reference: Run, variant: Variant) -> bool:
    folder = reference.variant_folder(variant)
    return all(ended(folder.training("clipzoo", seed)) for seed in reference.recipe.seeds)


def _compared(reference: Run, every: Sequence[Variant]) -> Path:
    seeds = reference.recipe.seeds
    scores = {"clip": {0: reference.scores("clip", 0)}}
    for row, arm in (("clip-ft", "clip-ft"), (ALL, "clipzoo")):
        scores[row] = {seed: reference.scores(arm, seed) for seed in seeds}
    for variant in every:
        run = reference.variant(variant)
        with run.writing():
            reference.progress.stage(variant.name)
            run.check_plan()
            scores[variant.name] = {seed: run.scores("clipzoo", seed) for seed in seeds}
    rows: dict[str, dict[int, RowScores]] = {
        row: {seed: splits["test"] for seed, splits in of.items()} for row, of in scores.items()
    }
    pairs = [(ALL, "clip-ft")]
    pairs += [(one.name, "clip-ft") if one.kind == "only" else (ALL, one.name) for one in every]
    pairs += [(one.name, "clip-ft") for one in every if one.kind == "named"]
    results = {
        "recipe": reference.recipe.name,
        "seeds": list(seeds),
        "steps": reference.steps(),
        "columns": list(reference.specs),
        "cost": cost(reference),
        "variants": {
            one.name: {"kind": one.kind, "column": one.column, "columns": one.columns, "folder": one.folder}
            for one in every
        },
        **compare_rows(rows, {}, pairs=pairs),
        "versions": software(),
    }
    plain = cast(AblationResults, strict(results))
    files.write(reference.out / "ablation.json", json.dumps(plain, indent=1, allow_nan=False).encode())
    return write_ablation(plain, reference.out / "ablation.html")
