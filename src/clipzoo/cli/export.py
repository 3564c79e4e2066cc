"""``clipzoo export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Trust


def command(
    folder: Annotated[Path, typer.Argument(help="The run folder.")],
    to: Annotated[
        str, typer.Option("--to", help="The target: open_clip, hf, timm, onnx, all, or an installed one.")
    ] = "open_clip",
    arm: Annotated[
        str, typer.Option(help="The arm to export: clipzoo, clip-ft, clip, or an interpolated one: clipzoo-best.")
    ] = "clipzoo",
    seed: Annotated[int | None, typer.Option(help="The seed to export; default: the recipe's first.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The output folder; default: export/<target>/<arm>-<seed> in the run folder."),
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Export the heads, too (open_clip, onnx).")] = False,
    trust: Trust = False,
) -> None:
    """Export a trained student for other software, and measure that its outputs are equal there."""
    from clipzoo.cli._console import bold, console, existing_run
    from clipzoo.runs import verbs as pipeline

    with existing_run(folder, trust) as run:
        path, parity = pipeline.export(run, to, arm, seed, out, heads)
    console.print(parity)
    if (path / "refused.json").exists():
        for target, reason in json.loads((path / "refused.json").read_text(encoding="utf-8")).items():
            console.print(f"not exported to {target}: {reason}", markup=False)
    console.print(f"exported student: {bold(path)}")
