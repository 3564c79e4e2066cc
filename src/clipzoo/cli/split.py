"""``clipzoo split``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SIZE = "a share, such as 10%, or a number of samples; 0 leaves it out."


def command(
    data: Annotated[
        list[str],
        typer.Argument(help="The dataset: a folder, shards, a table, or a YAML list; several are one (docs/data.md)."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to create.", show_default=False)],
    probe: Annotated[str, typer.Option(help=f"Size of the part that probes are fitted on: {SIZE}")] = "10%",
    validation: Annotated[str, typer.Option(help=f"Size of the validation part: {SIZE}")] = "10%",
    test: Annotated[str, typer.Option(help=f"Size of the test part: {SIZE}")] = "10%",
    heldout: Annotated[str, typer.Option(help="Classes, with commas, that are in the part heldout only.")] = "",
    classes: Annotated[
        str, typer.Option(help="The class of a sample: 'folder', the folder that holds it, or a field with text.")
    ] = "",
    series: Annotated[
        str, typer.Option(help="Keep samples with one value of this field in one part; 'folder' is their folder.")
    ] = "",
    series_pattern: Annotated[
        str, typer.Option(help="Keep samples in one part whose keys match this with equal groups: '(.+)_[0-9]+'.")
    ] = "",
    check: Annotated[
        Path | None, typer.Option("--check", help="A folder of `clipzoo check --resume`: nothing is checked twice.")
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Samples in a shard.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the random order.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the result of an earlier split.")] = False,
) -> None:
    """Split a dataset into training shards and benchmark folders; near-duplicates and series stay in one part."""
    from tempfile import TemporaryDirectory

    from clipzoo import locations
    from clipzoo.cli._console import bars, bold, console, plain
    from clipzoo.files import several
    from clipzoo.splitting import Options, split
    from clipzoo.splitting.report import notes, terminal_table

    options = Options(
        probe=probe,
        validation=validation,
        test=test,
        heldout=tuple(name.strip() for name in heldout.split(",") if name.strip()),
        classes=classes,
        series=series,
        series_pattern=series_pattern,
        shard_size=shard_size,
        seed=seed,
    )
    with TemporaryDirectory() as cache, bars() as progress:
        located = locations.resolve_data(several.combined(data), Path(cache))
        report = split(located, out, options, check=check, force=force, progress=progress)
    console.print(terminal_table(report))
    for note in notes(report):
        plain(note)
    console.print(f"parts: {bold(out)}; every sample with its part and reason: {bold(out / 'samples.parquet')}")
