"""``clipzoo ablate``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from clipzoo.cli._options import Device, Gpus, Out, RecipePath, Set, Trust
from clipzoo.errors import counted

if TYPE_CHECKING:
    from clipzoo.runs.ablation import Ablation

Columns = Annotated[
    list[str] | None,
    typer.Option(help="Train only this variant: a column, task or expert. Repeatable."),
]


def command(
    recipe: RecipePath,
    out: Out = None,
    overrides: Set = None,
    device: Device = "auto",
    gpus: Gpus = None,
    without: Columns = None,
    only: Columns = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each training instead of the recipe's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the trainings and their steps only.")] = False,
    trust: Trust = False,
) -> None:
    """Train without each expert and with only each expert, and show which one helps which task, at what cost."""
    from clipzoo.cli._console import bold, console, launched, open_run
    from clipzoo.runs.ablation import Ablation, ablate, check

    wanted = Ablation(without, only, steps)
    if dry_run:
        _preview(recipe, out, overrides, wanted, trust)
        return
    if launched(gpus, recipe, out, overrides, device, trust):
        return
    with open_run(recipe, out, overrides, device, trust, check) as run:
        page = ablate(run, wanted)
    console.print(f"ablation: {bold(page)}, results: {bold(page.with_suffix('.json'))}")


def _preview(recipe: Path, out: Path | None, overrides: list[str] | None, wanted: Ablation, trust: bool) -> None:
    from clipzoo.cli._console import console, load_recipe
    from clipzoo.cli._tables import two_columns
    from clipzoo.runs import Run
    from clipzoo.runs.ablation import check, planned

    loaded, folder = load_recipe(recipe, out, overrides, trust)
    check(loaded)
    length = counted(wanted.steps, "step") if wanted.steps else loaded.training.length
    with TemporaryDirectory() as scratch:
        trainings = planned(Run(loaded, folder, scratch=Path(scratch)), wanted)
    rows = [(f"{name}/{seed}", "trained" if done else length) for name, seed, done in trainings]
    remaining = sum(not done for _, _, done in trainings)
    console.print(
        two_columns([*rows, ("remaining", f"{counted(remaining, 'training')} of {length}")], "training", "work")
    )
    console.print("dry run: nothing was started or written")
