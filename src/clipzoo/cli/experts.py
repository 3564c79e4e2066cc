"""``clipzoo experts …``."""

from __future__ import annotations

from typing import Annotated

import typer

from clipzoo.cli._options import Device

app = typer.Typer(name="experts", invoke_without_command=True)


@app.callback()
def zoos(context: typer.Context) -> None:
    """The zoos that experts come from; `ls` the families that they know, `check` an expert."""
    if context.invoked_subcommand:
        return
    from rich.markup import escape
    from rich.table import Table

    from clipzoo import experts
    from clipzoo.cli._console import console

    table = Table("zoo", "what it is", "families")
    for name in experts.schemes():
        module = experts.module_of(name)
        count = len(getattr(module, "FAMILIES", ()))
        told = (module.__doc__ or "").replace("`", "").strip().partition("\n")[0]
        table.add_row(f"{name}:", escape(told), str(count or "–"))
    console.print(table)
    console.print("clipzoo experts ls [--zoo hf] [--task depth] [WORD]: what the labels of families are", markup=False)
    console.print("clipzoo experts check URI: whether an expert's labels mean what they say")


@app.command("ls")
def ls(
    word: Annotated[str | None, typer.Argument(help="In a family's name or what it gives.", show_default=False)] = None,
    zoo: Annotated[str | None, typer.Option(help="Families of this zoo alone.")] = None,
    task: Annotated[str | None, typer.Option(help="Those with labels of this task.")] = None,
) -> None:
    """The families that zoos know: what their labels are, and whose word that is."""
    from rich.markup import escape
    from rich.table import Table

    from clipzoo import experts, tasks
    from clipzoo.cli._console import console
    from clipzoo.errors import PluginError

    if task:
        tasks.get(task)
    families = [
        (name, one)
        for name in ([zoo] if zoo else experts.schemes())
        for one in getattr(experts.module_of(name), "FAMILIES", ())
        if task in (None, one.task) and (word or "").lower() in f"{one.name} {one.gives}".lower()
    ]
    if not families:
        raise PluginError("no family is all of that; `clipzoo experts ls` has all: leave out an option, or the word")
    table = Table("family", "task", "what its labels are, and whose word that is", show_lines=True)
    for name, one in families:
        seen = "seen" if one.seen else "not yet seen"
        table.add_row(*map(escape, (f"{name}: {one.name}", one.task, f"{one.gives}\n{one.source}\n{seen}")))
    console.print(table)
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
        bool, typer.Option("--short", help="49 predictions: soundness, determinism, batch, mirror, frame.")
    ] = False,
) -> None:
    """Whether an expert's labels mean what they say, line by line; exit 1 if the contract is broken."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from clipzoo import conformance, experts, locations
    from clipzoo.cli._console import console
    from clipzoo.runs.preflight import pick_device

    with TemporaryDirectory() as cache:
        shown = conformance.load_pictures(locations.resolve_data(images, Path(cache))) if images else None
    expert, other = experts.create(uri), experts.create(partner) if partner else None
    card = conformance.check(expert, shown, partner=other, device=pick_device(device), seconds=seconds, brief=short)
    console.print(card.table())
    if not card.ok:
        raise typer.Exit(1)
