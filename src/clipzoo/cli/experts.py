"""``clipzoo experts …``."""

from __future__ import annotations

from typing import Annotated

import typer

from clipzoo.cli._options import Device

app = typer.Typer(name="experts", invoke_without_command=True)


@app.callback()
def ls(context: typer.Context) -> None:
    """The zoos that experts come from and the families that they know; `check` one."""
    if context.invoked_subcommand:
        return
    from rich.markup import escape
    from rich.table import Table

    from clipzoo import plugins
    from clipzoo.cli._console import console

    zoos, known = Table("zoo", "what it is"), Table("zoo", "family", "task", "gives", "source", "seen")
    for name in plugins.names("experts"):
        module = plugins.load("experts", name)
        zoos.add_row(f"{name}:", escape((module.__doc__ or "").strip().splitlines()[0]))
        for one in getattr(module, "FAMILIES", ()):
            told = (one.name, one.task, one.gives, one.source, "yes" if one.seen else "not yet")
            known.add_row(f"{name}:", *map(escape, told))
    for column in (*zoos.columns, *known.columns):
        column.overflow = "fold"  # names are to be copied: never cut
    console.print(zoos)
    console.print(known)
    console.print(
        "seen: published weights were run through clipzoo; `clipzoo experts check URI` judges those that you have"
    )


@app.command("check")
def check(
    uri: Annotated[str, typer.Argument(help="An expert's URI.", show_default=False)],
    images: Annotated[
        str | None, typer.Option("--images", help="Your own pictures: a dataset or a folder; default rendered scenes.")
    ] = None,
    partner: Annotated[
        str | None, typer.Option("--with", help="An expert of depth to hold normals against, or the other way round.")
    ] = None,
    device: Device = "auto",
    seconds: Annotated[float, typer.Option(help="What pictures of all sizes may take together.")] = 60.0,
    short: Annotated[
        bool, typer.Option("--short", help="43 predictions: soundness, determinism, batch, mirror, frame.")
    ] = False,
) -> None:
    """Whether an expert's labels mean what they say, line by line; exit 1 if the contract is broken."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from clipzoo import conformance, demo, experts
    from clipzoo.cli._console import console
    from clipzoo.pipeline import pick_device

    with TemporaryDirectory() as cache:
        shown = conformance.load_pictures(demo.locate_data(images, Path(cache))) if images else None
    expert, other = experts.create(uri), experts.create(partner) if partner else None
    card = conformance.check(expert, shown, partner=other, device=pick_device(device), seconds=seconds, brief=short)
    console.print(card.table())
    if not card.ok:
        raise typer.Exit(1)
