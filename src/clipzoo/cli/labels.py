"""``clipzoo labels …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo import plugins
from clipzoo.cli._options import as_share
from clipzoo.errors import MAX_FAILURES, StoreError, counted

app = typer.Typer(name="labels", help="Manage label stores, and import and export labels.", no_args_is_help=True)

StorePath = Annotated[str, typer.Argument(help="The label store: a folder or URL.", show_default=False)]
Name = Annotated[
    str, typer.Argument(help="The column <task>/<slug>; the task alone if it has one column.", show_default=False)
]


def _parts(store: str, name: str) -> tuple[str, str]:
    """Return task and slug of a column's name; a task alone is enough if it has one column.

    Raises:
        StoreError: the task alone is given, and it has several columns.
    """
    from clipzoo.store import Store

    columns = [one for one in Store(store).names() if one.startswith(f"{name}/")] if "/" not in name else []
    if len(columns) > 1:
        raise StoreError(f"{store} has {len(columns)} columns of {name}. Give one of them: {', '.join(columns)}")
    task, _, slug = (columns[0] if columns else name).partition("/")
    return task, slug


def _in_a_line(text: str) -> str:
    """Return a text with its line ends, tabs and control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@app.command("ls")
def ls(store: StorePath) -> None:
    """List the columns of a store with their labels, failures and cost."""
    from clipzoo.cli._console import console, plain
    from clipzoo.cli._tables import store_columns
    from clipzoo.store.store import HEADLESS, Store

    opened = Store(store)
    console.print(store_columns(opened.each(needed=True)))
    for name in opened.headless():
        plain(f"{opened.root / name} {HEADLESS}")


@app.command("show")
def show(
    store: StorePath,
    name: Name,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="List all samples without a label: shard, key and reason, separated by tabs."),
    ] = False,
) -> None:
    """Show the manifest, runs and failures of a column."""
    from clipzoo.cli._console import console, plain
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
    failures = report(column)
    for kind, count in failures.reasons.items():
        plain(f"{count} × {kind}\n    for example {failures.examples[kind]}")


@app.command("rm")
def rm(
    store: StorePath,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a column."""
    from clipzoo.cli._console import console
    from clipzoo.store import Store

    opened, parts = Store(store), _parts(store, name)
    if not yes:
        column = opened.column(*parts)
        typer.confirm(f"Delete {counted(column.manifest.counts.labels, 'label')} in {column.path}?", abort=True)
    opened.remove(*parts)
    console.print(f"deleted {'/'.join(parts)}")


@app.command("merge")
def merge(
    stores: Annotated[list[str], typer.Argument(help="Stores of the same dataset.", show_default=False)],
    out: Annotated[str, typer.Option("--out", help="The merged store; may be one of the stores.")],
) -> None:
    """Merge stores of one dataset that were labeled on several machines."""
    from clipzoo.cli._console import bars, console
    from clipzoo.store import Store
    from clipzoo.store import merge as merged

    with bars() as progress:
        columns = merged([Store(path) for path in stores], Store(out), progress.step)
    for column in columns:
        counts, total = column.manifest.counts, column.manifest.dataset.get("shards")
        shards = counted(counts.shards, "shard") if total == counts.shards else f"{counts.shards:,} of {total} shards"
        each = (shards, counted(counts.labels, "label"), counted(counts.failures, "failure"))
        console.print(f"{column.name}: {', '.join(each)}")


@app.command("verify")
def verify(
    store: StorePath,
    data: Annotated[str | None, typer.Option("--data", help="The dataset, whose keys are compared, too.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode all labels, not a sample.")] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="FILE", help="Append results to FILE; skip shards it has.")
    ] = None,
) -> None:
    """Check a store: checksums of all shards, and a sample of the labels. Exit with code 1 if there are problems."""
    from clipzoo import files, locations
    from clipzoo.cli._console import bars, console, plain
    from clipzoo.readers import open_dataset
    from clipzoo.store import Store, verification

    columns = Store(store).each(needed=True).values()  # raises before anything is unpacked
    log = None if resume is None else files.local(resume, "the log of --resume")
    with locations.resolved(data or "", store) as place, bars() as progress:
        reader = open_dataset(place) if data else None
        found = verification(Store(store), reader, progress.step, deep=deep, resume=log)
    for problem in found.problems:
        plain(str(problem))
    count = counted(len(found.problems), "problem") if found.problems else "no problems"
    console.print(
        f"{count} in {counted(found.labels, 'label')} of {counted(len(columns), 'column')}: {found.describe()}"
    )
    if found.problems:
        raise typer.Exit(1)


@app.command("import")
def import_(
    data: Annotated[str, typer.Argument(help="The labeled dataset.", show_default=False)],
    source: Annotated[str, typer.Argument(help="The folder, file or URL of the labels.", show_default=False)],
    format: Annotated[
        str, typer.Option("--format", help=f"The format: {', '.join(plugins.names('importers'))} (docs/labels.md).")
    ],
    out: Annotated[str, typer.Option("--out", help="The label store.")],
    answers: Annotated[
        list[str] | None, typer.Option("--set", help="The meaning of the labels, as question=answer. Repeatable.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="Name the column <task>/NAME; evaluation reads columns named truth.")
    ] = None,
    max_failures: Annotated[
        float,
        typer.Option(
            parser=as_share, metavar="SHARE", help="Stop when a larger share of samples has no label: 5% or 0.05."
        ),
    ] = MAX_FAILURES,
    retry_failed: Annotated[bool, typer.Option(help="Retry samples whose labels were missing or invalid.")] = False,
    codec: Annotated[
        str | None,
        typer.Option(help="How maps of a new column are written: png-rle, png-levels or png (docs/labels.md)."),
    ] = None,
) -> None:
    """Import existing labels as a column; their meaning must be stated and is never guessed."""
    from clipzoo import locations
    from clipzoo.cli._console import console, plain, print_reports
    from clipzoo.labeling import import_labels

    values = dict(one.partition("=")[::2] for one in answers or ()) | ({} if name is None else {"as": name})
    place = locations.resolve_into_store(data, out)
    result = import_labels(
        place, source, format, values, out, max_failures=max_failures, retry_failed=retry_failed, codec=codec
    )
    column, unmatched = result.column, result.samples - result.matched
    print_reports([column])
    without = f", {unmatched:,} without a label" if unmatched else ""
    samples = counted(column.labels + column.failures, "sample")  # `result.samples` lacks those without an image
    console.print(f"{samples}{without}: {column.labels:,} labeled, {column.failures:,} failed")
    for note, count in result.notes.items():
        plain(f"{count:,} × {note}")


@app.command("export")
def export(
    store: StorePath,
    to: Annotated[
        str, typer.Option("--to", help=f"The format: {', '.join(plugins.names('labeling.exports'))} (docs/labels.md).")
    ],
    data: Annotated[str, typer.Option("--data", help="The labeled dataset.")],
    out: Annotated[str, typer.Option("--out", help="The new folder, or the file of coco, which is replaced.")],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="The column <task>/<slug>. png, hf and webdataset hold several: repeatable."),
    ] = None,
) -> None:
    """Export columns in a format of other tools, in pixels of each image, with a README on their conventions."""
    from clipzoo import locations
    from clipzoo.cli._console import bars, plain
    from clipzoo.labeling import export_labels

    with locations.resolved(data, store) as place, bars() as progress:
        result = export_labels(store, place, to, out, column or (), progress)
    skipped = f", {counted(result.left_out, 'sample')} without a label skipped" if result.left_out else ""
    skipped += f", {counted(result.unread, 'shard')} without labels skipped" if result.unread else ""
    changed = f", {counted(result.changed, 'label')} changed" if result.changed else ""
    plain(f"{result.column}: {counted(result.pictures, 'image')} in {result.path}{skipped}{changed}")
    if result.listed:
        plain(f"the reasons are in {result.listed}")


@app.command("colors")
def colors(masks: Annotated[Path, typer.Argument(help="The folder of color-coded masks.", show_default=False)]) -> None:
    """List the colors of a folder of masks, and the import options if they are a known palette."""
    from clipzoo.cli._console import console, plain
    from clipzoo.labeling.colors import survey

    result = survey(masks)
    for color, share in result.shares.items():
        console.print(f"{color}  {share:.2%}", highlight=False)
    plain(result.advice)
