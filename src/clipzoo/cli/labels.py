"""``clipzoo labels …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import as_share
from clipzoo.errors import MAX_FAILURES

app = typer.Typer(name="labels", help="Look after label stores, and bring labels in.", no_args_is_help=True)

StorePath = Annotated[str, typer.Argument(help="A label store: a folder or address.", show_default=False)]
Name = Annotated[str, typer.Argument(help="A column, <task>/<slug>; the task where it has one.", show_default=False)]


def _parts(store: str, name: str) -> tuple[str, str]:
    """Task and slug of a column's name; a task alone will do where there is one of it."""
    from clipzoo.store import Store

    own = [one for one in Store(store).names() if one.startswith(f"{name}/")] if "/" not in name else []
    task, _, slug = (own[0] if len(own) == 1 else name).partition("/")
    return task, slug


def _in_a_line(text: str) -> str:
    """A text whose line ends, tabs and control characters are written as a programmer would."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@app.command("ls")
def ls(store: StorePath) -> None:
    """What columns a store has, and what they cost."""
    from rich.markup import escape
    from rich.table import Table

    from clipzoo.cli._console import console
    from clipzoo.pages.gallery import card
    from clipzoo.store import Column, Store

    shown = ("column", "expert", "license", "shards", "labels", "failures", "bytes", "seconds", "images/s")
    table = Table()
    for name in shown:
        table.add_column(name, min_width=24 if name == "column" else None)
    for name, column in Store(store).each(needed=True).items():
        if isinstance(column, Column):
            told = {**card(column), "bytes": f"{column.manifest.counts.bytes:,}"}
        else:
            told = {**dict.fromkeys(shown, ""), "column": name, "expert": str(column)}
        table.add_row(*(escape(told[name]) for name in shown))
    console.print(table)


@app.command("show")
def show(
    store: StorePath,
    name: Name,
    failed: Annotated[
        bool, typer.Option("--failed", help="Every sample without a label: shard, key and reason, tabs between.")
    ] = False,
) -> None:
    """A column's manifest, its runs, and why samples have no label; or all of these samples."""
    from clipzoo.cli._console import console
    from clipzoo.labeling import report
    from clipzoo.store import Store, runs

    column = Store(store).column(*_parts(store, name))
    if failed:
        for row in column.failures():
            typer.echo("\t".join(map(_in_a_line, map(str, row))))
        return
    console.print_json(column.manifest.model_dump_json())
    for line in runs(column.path):
        console.print(", ".join(f"{key}: {value}" for key, value in line.items() if key != "software"), markup=False)
    found = report(column)
    for kind, count in found.reasons.items():
        told = f"{count} × {kind}\n    as {found.examples[kind]}"
        console.print(told, markup=False, highlight=False, soft_wrap=True)


@app.command("rm")
def rm(store: StorePath, name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Remove a column for good."""
    from clipzoo.cli._console import console
    from clipzoo.store import Store

    found, parts = Store(store), _parts(store, name)
    if not yes:
        column = found.column(*parts)
        typer.confirm(f"remove {column.manifest.counts.labels:,} labels in {column.path}?", abort=True)
    found.remove(*parts)
    console.print(f"{'/'.join(parts)} is removed")


@app.command("merge")
def merge(
    stores: Annotated[list[str], typer.Argument(help="Stores over one dataset.", show_default=False)],
    out: Annotated[str, typer.Option("--out", help="The merged store; may be one of them.")],
) -> None:
    """Stores of one dataset, labeled on several machines, as one."""
    from clipzoo.cli._console import bars, console
    from clipzoo.store import Store
    from clipzoo.store import merge as merged

    with bars() as progress:
        columns = merged([Store(path) for path in stores], Store(out), progress.step)
    for column in columns:
        counts = column.manifest.counts
        console.print(f"{column.name}: {counts.shards} shards, {counts.labels:,} labels, {counts.failures:,} failures")


@app.command("verify")
def verify(
    store: StorePath,
    data: Annotated[str | None, typer.Option("--data", help="The dataset; its keys are compared, too.")] = None,
) -> None:
    """Read every byte of a store and say what is wrong with it; exit 1 if anything is."""
    from clipzoo import demo
    from clipzoo.cli._console import bars, console
    from clipzoo.readers import open_dataset
    from clipzoo.store import Column, Store
    from clipzoo.store import verify as verified

    columns = Store(store).each(needed=True).values()  # before anything is unpacked
    with demo.looked_at(data or "", store) as place, bars() as progress:
        problems = verified(Store(store), open_dataset(place) if data else None, progress.step)
    for problem in problems:
        console.print(str(problem), markup=False, soft_wrap=True)
    labels = sum(column.manifest.counts.labels for column in columns if isinstance(column, Column))
    found = f"{len(problems)} problems" if problems else "nothing is wrong"
    console.print(f"{found} in {labels:,} labels of {len(columns)} columns")
    if problems:
        raise typer.Exit(1)


@app.command("import")
def import_(
    data: Annotated[str, typer.Argument(help="The dataset that is labeled.", show_default=False)],
    source: Annotated[str, typer.Argument(help="The folder, file or address of the labels.", show_default=False)],
    format: Annotated[
        str, typer.Option("--format", help="files, tars, rows, coco, panoptic, or voc; see docs/labels.md.")
    ],
    out: Annotated[str, typer.Option("--out", help="The label store.")],
    answers: Annotated[
        list[str] | None, typer.Option("--set", help="What the labels mean: question=answer. May be repeated.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="The column is called <task>/NAME; evaluation reads those called truth.")
    ] = None,
    max_failures: Annotated[
        float, typer.Option(parser=as_share, metavar="SHARE", help="Stop when more have no label: 5% or 0.05.")
    ] = MAX_FAILURES,
    retry_failed: Annotated[bool, typer.Option(help="Look again for labels that were missing or unsound.")] = False,
) -> None:
    """Labels that exist, as a column; what they mean is asked, and nothing is guessed."""
    from clipzoo import demo
    from clipzoo.cli._console import console, labeled
    from clipzoo.labeling import import_labels

    told = dict(one.partition("=")[::2] for one in answers or ()) | ({} if name is None else {"as": name})
    place = demo.locate_beside(data, out)
    found = import_labels(place, source, format, told, out, max_failures=max_failures, retry_failed=retry_failed)
    labeled([found.column])
    column, lack = found.column, found.samples - found.matched
    without = f", {lack:,} without a label" if lack else ""
    console.print(f"{found.samples:,} samples{without}: {column.labels:,} labeled, {column.failures:,} failed")
    for what, count in found.notes.items():
        console.print(f"{count:,} × {what}", markup=False, highlight=False, soft_wrap=True)


@app.command("export")
def export(
    store: StorePath,
    to: Annotated[str, typer.Option("--to", help="The format: coco; see docs/labels.md.")],
    data: Annotated[str, typer.Option("--data", help="The dataset that is labeled.")],
    out: Annotated[str, typer.Option("--out", help="The file to write; replaced if it is there.")],
    column: Annotated[str, typer.Option("--column", help="<task>/<slug>, where several could be meant.")] = "",
) -> None:
    """Write a column for other tools, in pixels of each picture."""
    from clipzoo import demo
    from clipzoo.cli._console import console
    from clipzoo.labeling import export_labels

    with demo.looked_at(data, store) as place:
        found = export_labels(store, place, to, out, column)
    left = f", {found.left_out:,} samples without a label are left out" if found.left_out else ""
    console.print(f"{found.column}: {found.pictures:,} pictures in {found.path}{left}", markup=False, soft_wrap=True)


@app.command("colors")
def colors(masks: Annotated[Path, typer.Argument(help="A folder of color-coded masks.", show_default=False)]) -> None:
    """The colors of a folder of masks, and the answers to give if they are a known palette's."""
    from clipzoo.cli._console import console
    from clipzoo.labeling.colors import survey

    found = survey(masks)
    for color, share in found.shares.items():
        console.print(f"{color}  {share:.2%}", highlight=False)
    console.print(found.advice, markup=False, soft_wrap=True)
