"""``clipzoo inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    labels: Annotated[str, typer.Argument(help="A label store.")],
    data: Annotated[str, typer.Option("--data", help="The dataset that it labels.")],
    out: Annotated[Path, typer.Option("--out", help="The gallery.")] = Path("gallery.html"),
    count: Annotated[int, typer.Option(help="Samples in the gallery.")] = 24,
) -> None:
    """Print the cards of a store's columns and write a gallery of overlays next to captions."""
    from clipzoo import locations
    from clipzoo.cli._console import bold, cards, console
    from clipzoo.pages import inspect
    from clipzoo.store import Store

    Store(labels).columns(needed=True)  # before anything is unpacked
    with locations.resolved(data, labels) as located:
        found = inspect(labels, located, out, count)
    console.print(cards(found.columns))
    console.print(f"the gallery is {bold(found.path)}")
