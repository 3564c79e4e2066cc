"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def as_share(given: str | float) -> float:
    """``5%`` or ``0.05`` as 0.05."""
    text = str(given)
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{text!r} is no share: give 5% or 0.05")
    return value


RecipePath = Annotated[Path, typer.Argument(help="A recipe (YAML).", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/<name of the recipe>.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value of the recipe: a.b=value. May be repeated.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python code that the recipe names, unasked (docs/security.md).")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print samples, steps, memory and what would run; start and write nothing. Experts' weights "
        "that are not at hand are fetched, for they name columns; the student's are not.",
    ),
]
