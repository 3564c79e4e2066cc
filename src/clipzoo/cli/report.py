"""``clipzoo report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Trust


def command(folder: Annotated[Path, typer.Argument(help="The run folder.")], trust: Trust = False) -> None:
    """Write the report of an evaluated run."""
    from clipzoo.cli._console import bold, console, existing_run
    from clipzoo.runs import verbs as pipeline

    with existing_run(folder, trust) as run:
        path = pipeline.report(run)
    console.print(f"report: {bold(path)}")
