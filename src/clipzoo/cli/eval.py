"""``clipzoo eval``."""

from __future__ import annotations

from clipzoo.cli._options import Device, Out, RecipePath, Set, Trust


def command(
    recipe: RecipePath, out: Out = None, overrides: Set = None, device: Device = "auto", trust: Trust = False
) -> None:
    """Measure every arm of a recipe, trained first where it is not yet, with all baselines; writes results.json."""
    from clipzoo.cli._console import bold, console, opened
    from clipzoo.runs import verbs as pipeline
    from clipzoo.runs.preflight import check_measurable

    with opened(recipe, out, overrides, device, trust, check_measurable) as run:
        path = pipeline.evaluate(run)
    console.print(f"the numbers are in {bold(path)}")
