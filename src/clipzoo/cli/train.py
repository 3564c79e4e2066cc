"""``clipzoo train``."""

from __future__ import annotations

from typing import Annotated

import typer

from clipzoo.cli._options import Device, DryRun, Gpus, Out, RecipePath, Set, Trust
from clipzoo.errors import counted


def command(
    recipe: RecipePath,
    out: Out = None,
    arm: Annotated[
        str, typer.Option(help="The arm: clipzoo (captions and pseudo-labels) or clip-ft (captions only).")
    ] = "clipzoo",
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**63 - 1, help="Seed of views, sample order and initial heads; default: the recipe's first."
        ),
    ] = None,
    overrides: Set = None,
    device: Device = "auto",
    gpus: Gpus = None,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Train one arm of a recipe; rerunning the command resumes at the exact sample."""
    from rich.markup import escape

    from clipzoo.cli._console import bold, console, launched, open_run, print_preview
    from clipzoo.runs import verbs as pipeline
    from clipzoo.runs.before.preflight import check_trainable
    from clipzoo.training import early_end, ended

    if dry_run:
        print_preview(recipe, out, overrides, device, [arm], seed, trust=trust, gpus=gpus)
        return
    if launched(gpus, recipe, out, overrides, device, trust):
        return
    with open_run(recipe, out, overrides, device, trust, lambda recipe: check_trainable(arm, recipe)) as run:
        seed = run.recipe.seeds[0] if seed is None else seed
        trained = ended(run.folder_of(arm, seed))
        folder = pipeline.train(run, arm, seed)
        early = early_end(run.folder_of(arm, seed))
    length = counted(run.steps(), "step")
    if early:
        length = f"{early[0]:,} of {length}; the guard ended the training with the student of step {early[1]:,}"
    console.print(f"{arm}, seed {seed}: " + ("was already trained" if trained else f"trained for {length}"))
    if arm == "clipzoo" and not run.recipe.columns:
        console.print("the recipe has no columns: this student was trained on captions only, as clip-ft is")
    loads = f"open_clip.create_model_and_transforms('local-dir:{folder}')"
    console.print(f"student: {bold(folder)}; load it with {escape(loads)}", soft_wrap=True)
