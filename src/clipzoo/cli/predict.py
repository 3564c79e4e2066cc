"""``clipzoo predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Device, Trust


def command(
    student: Annotated[Path, typer.Argument(help="A student's folder, or a run folder.", show_default=False)],
    pictures: Annotated[
        list[str], typer.Argument(help="Files, folders or glob patterns of pictures.", show_default=False)
    ],
    prompts: Annotated[
        str, typer.Option("--prompts", help='Texts whose probabilities are shown: "a chair,a lamp".')
    ] = "",
    out: Annotated[
        Path, typer.Option("--out", help="The file to write: a page (.html) or a contact sheet (.png).")
    ] = Path("look.html"),
    start: Annotated[
        Path | None, typer.Option("--start", help="A student to show next to it; default: the start of a run.")
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(help="The arm of a run, such as clipzoo-best or a named one; default: clipzoo, or else clip-ft."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of a run; default: the recipe's first.")] = None,
    count: Annotated[
        int, typer.Option(min=1, help="The largest number of pictures; those that cannot be read do not count.")
    ] = 24,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Show the predictions of a student on pictures: all heads, and probabilities of prompts."""
    from clipzoo.cli._console import bars, bold, console, plain
    from clipzoo.errors import counted
    from clipzoo.pages.predictions import check_ending
    from clipzoo.runs.before.preflight import pick_device
    from clipzoo.runs.showing import show

    check_ending(out)
    with bars() as progress:
        shown = show(
            student, list(pictures), prompts, start, arm=arm, seed=seed, count=count, device=pick_device(device),
            trust_remote_code=trust, progress=progress,
        )  # fmt: skip
    for name, reason in shown.failures:
        plain(f"{name}: {reason}")
    shown_count = counted(len(shown.pictures), "picture")
    console.print(f"{shown_count}, {len(shown.failures)} failed: {bold(shown.save(out))}")
