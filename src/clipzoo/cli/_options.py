"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def as_share(given: str | float) -> float:
    """Convert ``5%`` or ``0.05`` to 0.05."""
    text = str(given)
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{text!r} is not a share between 0 and 1: give 5% or 0.05")
    return value


RecipePath = Annotated[Path, typer.Argument(help="The recipe (YAML).", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder; default: runs/<name of the recipe>.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the recipe: a.b=value. Repeatable.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python code that the recipe names without asking (docs/security.md).")
]
Device = Annotated[str, typer.Option(help="The device: cpu, cuda or auto.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print samples, steps, memory and planned work; nothing is written but missing weights of experts, which "
        "are downloaded because they name columns.",
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", "--processes", min=1,
        help="Train on this number of processes of this machine: one per GPU, or with --device cpu on the CPU.",
    ),
]  # fmt: skip
