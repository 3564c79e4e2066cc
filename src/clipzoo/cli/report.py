"""``clipzoo report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Trust


def command(
    folders: Annotated[list[Path], typer.Argument(help="The run folder, or several to compare.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="With several runs: the output folder; default: comparison.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Write the report of an evaluated run, or compare several evaluated runs on one page."""
    from clipzoo.cli._console import bold, check_run_folder, console, existing_run
    from clipzoo.runs import verbs as pipeline

    if len(folders) > 1:
        from clipzoo.runs.comparing import compare_runs

        for folder in folders:
            check_run_folder(folder)
        path = compare_runs(folders, out or Path("comparison"))
        console.print(f"comparison: {bold(path)}, results: {bold(path.with_name('comparison.json'))}")
        return
    if out is not None:
        raise typer.BadParameter("--out belongs to several runs; the report of one run is in its folder")
    with existing_run(folders[0], trust) as run:
        path = pipeline.report(run)
    console.print(f"report: {bold(path)}")
