"""``clipzoo advise``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from clipzoo.cli._options import Device, Gpus, Out, RecipePath, Set, Trust


def command(
    recipe: RecipePath,
    out: Out = None,
    overrides: Set = None,
    device: Device = "auto",
    gpus: Gpus = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Samples to train on; their shards are labeled as a whole.")
    ] = 1500,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 40,
    trust: Trust = False,
) -> None:
    """Train briefly with each expert alone, and say which experts are worth their cost of labeling."""
    from clipzoo.cli._console import bold, console, launched, open_run
    from clipzoo.cli._tables import advice
    from clipzoo.runs.ablation import Budget, advise
    from clipzoo.runs.ablation.advise import AdviceResults, check

    if launched(gpus, recipe, out, overrides, device, trust):
        return
    with open_run(recipe, out, overrides, device, trust, check) as run:
        page = advise(run, Budget(samples, steps))
    results: AdviceResults = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))

    console.print(advice(results))
    if (rank := results["rank_correlation"]) is not None:
        console.print(f"rank correlation with the gains in ablation.json: {rank:.2f}")
    console.print(f"advice: {bold(page)}, results: {bold(page.with_suffix('.json'))}")
