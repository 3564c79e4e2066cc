"""``clipzoo push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Trust
from clipzoo.errors import counted


def command(
    folder: Annotated[Path, typer.Argument(help="The run folder.")],
    repository: Annotated[str, typer.Argument(help="The model repository, ORG/NAME; created if it does not exist.")],
    to: Annotated[str, typer.Option("--to", help="The target, as of `clipzoo export`.")] = "open_clip",
    arm: Annotated[str, typer.Option(help="The arm to upload, as of `clipzoo export`.")] = "clipzoo",
    seed: Annotated[int | None, typer.Option(help="The seed to upload; default: the recipe's first.")] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Upload the heads, too (open_clip, onnx).")] = False,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository; default: the hub's for ORG."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Export and show the files and the model card; nothing is uploaded.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Upload a trained student to the Hugging Face hub, with a model card from the run."""
    from clipzoo.cli._console import bold, console, existing_run, plain
    from clipzoo.cli._tables import two_columns
    from clipzoo.runs import verbs as pipeline

    with existing_run(folder, trust) as run:
        pushed = pipeline.push(run, repository, to, arm, seed, heads, private, dry_run)
    rows = [(name, counted(size, "byte")) for name, size in pushed.files.items()]
    console.print(two_columns(rows, "file", "size"))
    if dry_run:
        plain(pushed.card)
        console.print(f"dry run: nothing was uploaded to {bold(repository)}")
    else:
        console.print(f"uploaded: {bold(pushed.url)}")
