"""``clipzoo inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    labels: Annotated[str, typer.Argument(help="A label store.")],
    data: Annotated[str, typer.Option("--data", help="The labeled dataset.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("gallery.html"),
    count: Annotated[int, typer.Option(help="Number of samples in the gallery.")] = 24,
) -> None:
    """Print the manifests of a store's columns and write a gallery of labels over images."""
    from clipzoo import locations
    from clipzoo.cli._console import bold, console
    from clipzoo.cli._tables import manifests
    from clipzoo.pages import inspect
    from clipzoo.store import Store

    Store(labels).columns(needed=True)  # raises before anything is unpacked
    with locations.resolved(data, labels) as located:
        found = inspect(labels, located, out, count)
    console.print(manifests(found.columns))
    console.print(f"gallery: {bold(found.path)}")
