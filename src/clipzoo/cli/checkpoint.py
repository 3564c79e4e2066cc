"""``clipzoo checkpoint``: the state of an unfinished training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="checkpoint", help="Convert checkpoints of unfinished trainings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def consolidate(
    path: Annotated[
        Path, typer.Argument(help="A checkpoint (.pt), the folder of a training, or a run folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write; it must not exist.", show_default=False)],
    arm: Annotated[str, typer.Option(help="The arm, if PATH is a run folder: clipzoo or clip-ft.")] = "clipzoo",
    seed: Annotated[
        int | None, typer.Option(min=0, help="The seed, if PATH is a run folder; default: the recipe's first.")
    ] = None,
) -> None:
    """Write the shards of an FSDP2 checkpoint and the file that names them as one file, which also resumes."""
    from clipzoo import recipe as recipes
    from clipzoo.cli._console import bold, console
    from clipzoo.runs.before.preflight import check_arm
    from clipzoo.runs.folder import Folder
    from clipzoo.training.checkpoint import NAME
    from clipzoo.training.checkpoint import consolidate as write

    if (path / "recipe.yaml").is_file():
        check_arm(arm, "consolidate")
        first = recipes.load(path / "recipe.yaml", trust=True).seeds[0]  # nothing of the recipe is run
        path = Folder(path).training(arm, first if seed is None else seed)
    step = write(path / NAME if path.is_dir() else path, out)
    console.print(f"checkpoint of step {step:,}: {bold(out)}")
