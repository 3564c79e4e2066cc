"""``clipzoo label``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Device


def command(
    data: Annotated[
        str, typer.Argument(help="The dataset: a folder, file or pattern, and options behind ? (docs/data.md).")
    ],
    expert: Annotated[list[str], typer.Option("--expert", help="An expert's URI. May be repeated.")],
    out: Annotated[str, typer.Option("--out", help="The label store: a folder or address.")],
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Images a batch; default the expert's own.")] = None,
    max_failures: Annotated[float, typer.Option(help="Stop when more than this share fails.")] = 0.05,
    retry_failed: Annotated[bool, typer.Option(help="Label rows again that failed before.")] = False,
) -> None:
    """Let experts pseudo-label a dataset; stopped at any moment, the same command goes on."""
    from clipzoo import demo
    from clipzoo.cli._console import console, labelled
    from clipzoo.labeling import label
    from clipzoo.pipeline import pick_device

    reports = label(
        demo.locate_beside(data, out),
        expert,
        out,
        device=pick_device(device),
        batch_size=batch_size,
        max_failures=max_failures,
        retry_failed=retry_failed,
    )
    console.print(labelled(reports))
