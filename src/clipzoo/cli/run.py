"""``clipzoo run``."""

from __future__ import annotations

from clipzoo.cli._options import Device, DryRun, Out, RecipePath, Set, Trust


def command(
    recipe: RecipePath,
    out: Out = None,
    overrides: Set = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Label, train all arms, measure, and write the page; stopped at any moment, the same command goes on."""
    from clipzoo.cli._console import bold, console, opened, previewed
    from clipzoo.runs import verbs as pipeline
    from clipzoo.runs.preflight import check_measurable

    if dry_run:
        previewed(recipe, out, overrides, device, trust=trust)
        return
    with opened(recipe, out, overrides, device, trust, check_measurable) as run:
        page = pipeline.run(run)
    console.print(f"the page is {bold(page)}, the numbers are in {bold(page.with_name('results.json'))}")
