"""``clipzoo eval``."""

from __future__ import annotations

from clipzoo.cli._options import Device, Out, RecipePath, Set, Trust


def command(
    recipe: RecipePath, out: Out = None, overrides: Set = None, device: Device = "auto", trust: Trust = False
) -> None:
    """Evaluate all arms of a recipe with baselines, training missing arms first, and write results.json."""
    from clipzoo.cli._console import bold, console, open_run
    from clipzoo.runs import verbs as pipeline
    from clipzoo.runs.preflight import check_measurable

    with open_run(recipe, out, overrides, device, trust, check_measurable) as run:
        path = pipeline.evaluate(run)
    console.print(f"results: {bold(path)}")
