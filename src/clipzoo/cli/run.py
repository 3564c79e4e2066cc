"""``clipzoo run``."""

from __future__ import annotations

from typing import Annotated

import typer

from clipzoo.cli._options import Device, DryRun, Gpus, Out, RecipePath, Set, Trust


def command(
    recipe: RecipePath,
    out: Out = None,
    overrides: Set = None,
    device: Device = "auto",
    gpus: Gpus = None,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Label the dataset and stop; training may follow on another machine.")
    ] = False,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Label, train all arms, evaluate, and write the report; rerunning the command resumes."""
    from clipzoo.cli._console import bold, console, launched, open_run, print_preview
    from clipzoo.runs import verbs as pipeline
    from clipzoo.runs.before.preflight import check_measurable

    if labels_only and gpus:
        raise typer.BadParameter("--gpus applies to training, and --labels-only does not train: remove one of them")
    if dry_run:
        print_preview(recipe, out, overrides, device, trust=trust, gpus=gpus, labels_only=labels_only)
        return
    if launched(gpus, recipe, out, overrides, device, trust):
        return
    if labels_only:  # which needs no benchmark
        with open_run(recipe, out, overrides, device, trust) as run:
            store = pipeline.label(run)
        console.print(f"labels: {bold(store.root)}; rerun the command without --labels-only to train on them")
        return
    with open_run(recipe, out, overrides, device, trust, check_measurable) as run:
        page = pipeline.run(run)
    console.print(f"report: {bold(page)}, results: {bold(page.with_name('results.json'))}")
