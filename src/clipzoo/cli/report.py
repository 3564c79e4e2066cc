"""``clipzoo report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Trust


def command(folder: Annotated[Path, typer.Argument(help="A run's folder.")], trust: Trust = False) -> None:
    """Write the page of a run that has been measured."""
    from clipzoo.cli._console import bold, console, found
    from clipzoo.runs import verbs as pipeline

    with found(folder, trust) as run:
        path = pipeline.report(run)
    console.print(f"the page is {bold(path)}")
