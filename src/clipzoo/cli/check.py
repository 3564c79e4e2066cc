"""``clipzoo check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder, shards, a table, or several; docs/data.md lists all formats.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write a page with pictures of examples.")] = None,
    limit: Annotated[int | None, typer.Option(help="Look at so many samples, spread evenly.")] = None,
) -> None:
    """Look at a dataset before it is used: what it holds, what is broken, suspicious, or comes again."""
    from tempfile import TemporaryDirectory

    from clipzoo import locations
    from clipzoo.cli._console import bold, console
    from clipzoo.pages.check import check, table

    with TemporaryDirectory() as cache:
        found = check(locations.resolve_data(data, Path(cache)), out, limit=limit)
    console.print(table(found))
    if out is not None:
        console.print(f"the page is {bold(out)}")
    if found.stopped:
        raise typer.Exit(130)
