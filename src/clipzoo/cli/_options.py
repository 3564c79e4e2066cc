"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="A recipe (YAML).", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/<name of the recipe>.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value of the recipe: a.b=value. May be repeated.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print samples, steps, memory and what would run; start and write nothing.")
]
