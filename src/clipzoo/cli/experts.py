"""``clipzoo experts …``."""

from __future__ import annotations

from typing import Annotated

import typer

from clipzoo.cli._options import Device

app = typer.Typer(name="experts", invoke_without_command=True)


@app.callback()
def list_zoos(context: typer.Context) -> None:
    """List the model zoos, list model families with `ls`, or test an expert with `check`."""
    if context.invoked_subcommand:
        return
    from clipzoo.cli._console import console, plain
    from clipzoo.cli._tables import zoos

    console.print(zoos())
    plain("clipzoo experts ls [--zoo hf] [--task depth] [WORD]: list model families and their labels")
    plain("clipzoo experts check URI: test an expert")


@app.command("ls")
def ls(
    word: Annotated[
        str | None, typer.Argument(help="List families with this word in name or labels.", show_default=False)
    ] = None,
    zoo: Annotated[str | None, typer.Option(help="List families of this zoo.")] = None,
    task: Annotated[str | None, typer.Option(help="List families with labels of this task.")] = None,
) -> None:
    """List the known model families with the meaning of their labels and its source."""
    from clipzoo import experts, tasks
    from clipzoo.cli._console import console, plain
    from clipzoo.cli._tables import families
    from clipzoo.errors import PluginError

    if task:
        tasks.get(task)
    rows = [
        (name, family)
        for name in ([zoo] if zoo else experts.schemes())
        for family in experts.families_of(name)
        if task in (None, family.task) and (word or "").lower() in f"{family.name} {family.gives}".lower()
    ]
    if not rows:
        raise PluginError("no family matches all filters; remove an option or the word, or run `clipzoo experts ls`")
    console.print(families(rows))
    plain("tested: run with published weights in clipzoo; test your own weights with `clipzoo experts check URI`")


@app.command("check")
def check(
    uri: Annotated[str, typer.Argument(help="The URI of the expert.", show_default=False)],
    images: Annotated[
        str | None, typer.Option("--images", help="A dataset or folder of images to test on; default: rendered scenes.")
    ] = None,
    partner: Annotated[
        str | None, typer.Option("--with", help="An expert of depth to compare with one of normals, or the reverse.")
    ] = None,
    device: Device = "auto",
    seconds: Annotated[float, typer.Option(help="Time limit in seconds for the test of image sizes.")] = 60.0,
    short: Annotated[bool, typer.Option("--short", help="Run only a quick check of at most 49 predictions.")] = False,
) -> None:
    """Test that an expert keeps its contract; exit with code 1 if it does not."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from clipzoo import conformance, experts, locations
    from clipzoo.cli._console import console
    from clipzoo.cli._tables import verdicts
    from clipzoo.runs.before.preflight import pick_device

    with TemporaryDirectory() as cache:
        shown = conformance.load_pictures(locations.resolve_data(images, Path(cache))) if images else None
    expert, other = experts.create(uri), experts.create(partner) if partner else None
    report = conformance.check(expert, shown, partner=other, device=pick_device(device), seconds=seconds, quick=short)
    console.print(verdicts(report))
    if not report.ok:
        raise typer.Exit(1)
