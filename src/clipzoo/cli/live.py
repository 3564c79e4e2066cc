"""``clipzoo app``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Device, Trust


def command(
    student: Annotated[Path, typer.Argument(help="A student's folder, or a run folder.", show_default=False)],
    start: Annotated[
        Path | None, typer.Option("--start", help="A student to show next to it; default: the start of a run.")
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(help="The arm of a run, such as clipzoo-best or a named one; default: clipzoo, or else clip-ft."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of a run; default: the recipe's first.")] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in, without a password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port; default: the first free one from 7860.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Also open a public address through Gradio's servers, without a password.")
    ] = False,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Open a page in which pictures are dropped and prompts are typed: live predictions of a student."""
    from clipzoo.app import check_gradio, serve
    from clipzoo.cli._console import bold, console
    from clipzoo.runs.before.preflight import pick_device

    check_gradio()
    serve(
        student, start, arm=arm, seed=seed, device=pick_device(device), trust_remote_code=trust, host=host, port=port,
        share=share, opened=lambda address: console.print(f"open {bold(address)} in a browser; Ctrl+C ends it"),
    )  # fmt: skip
