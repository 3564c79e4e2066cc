"""``clipzoo view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.errors import counted


def command(
    labels: Annotated[str, typer.Argument(help="A label store.", show_default=False)],
    data: Annotated[str, typer.Option("--data", help="The labeled dataset.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any free one.")] = 0,
    fiftyone: Annotated[
        bool, typer.Option("--fiftyone", help="Show the store in FiftyOne, if it is installed.")
    ] = False,
    images: Annotated[Path, typer.Option("--images", help="The folder to which --fiftyone writes the images.")] = Path(
        "fiftyone-images"
    ),
) -> None:
    """Browse all samples of a store in a browser: search, filter, sort, and compare columns."""
    from clipzoo import locations
    from clipzoo.cli._console import plain
    from clipzoo.store import Store

    Store(labels).columns(needed=True)  # raises before anything is unpacked
    with locations.resolved(data, labels) as located:
        if fiftyone:
            from clipzoo.viewer.to_fiftyone import show

            show(labels, located, images, host, port or None)
            return
        from clipzoo.viewer.server import open_viewer

        viewer = open_viewer(labels, located, host, port)
        text = f"{counted(len(viewer.table), 'sample')}: open {viewer.address} (Ctrl-C stops the viewer)"
        viewer.serve(lambda: plain(text))
