"""``clipzoo export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Trust


def command(
    folder: Annotated[Path, typer.Argument(help="A run's folder.")],
    to: Annotated[str, typer.Option("--to", help="The format.")] = "open_clip",
    arm: Annotated[str, typer.Option(help="clipzoo, clip-ft, or clip.")] = "clipzoo",
    seed: Annotated[int | None, typer.Option(help="Default: the recipe's first.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: export/<format>/<arm>-<seed> in the run.")] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Keep the heads beside the model.")] = False,
    trust: Trust = False,
) -> None:
    """Hand a trained student over to other software, and measure that it is the same there."""
    from clipzoo.cli._console import bold, console, found
    from clipzoo.runs import verbs as pipeline

    with found(folder, trust) as run:
        path, said = pipeline.export(run, to, arm, seed, out, heads)
    console.print(said)
    console.print(f"the student is in {bold(path)}")
