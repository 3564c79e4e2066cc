"""``clipzoo check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[
        list[str],
        typer.Argument(help="The dataset: a folder, shards, a table, or a YAML list; several are one (docs/data.md)."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write an HTML report with example images to this file.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Check at most this many samples, evenly spaced.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="FOLDER",
            help="Keep the results of finished shards in FOLDER and skip unchanged shards that it has; write the "
            "groups of near-duplicates there, for `clipzoo split --check FOLDER`.",
        ),
    ] = None,
) -> None:
    """Check a dataset: its contents, and its broken, suspicious and duplicate samples."""
    from tempfile import TemporaryDirectory

    from clipzoo import locations
    from clipzoo.cli._console import bold, console
    from clipzoo.files import several
    from clipzoo.pages.check import check, table
    from clipzoo.stopping import Interrupted

    with TemporaryDirectory() as cache:
        located = locations.resolve_data(several.combined(data), Path(cache))
        found = check(located, out, limit=limit, resume=resume)
    console.print(table(found))
    if out is not None:
        console.print(f"the page is {bold(out)}")
    if found.reused:
        console.print(f"{found.reused} of {found.shards} shards were checked before and have not changed")
    if found.stopped and resume is not None:
        console.print("stopped; rerun the command to resume")
    if found.stopped:
        raise typer.Exit(Interrupted(signal=found.stopped).exit_code)
