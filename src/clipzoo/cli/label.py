"""``clipzoo label``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Device, as_share
from clipzoo.errors import MAX_FAILURES

Data = Annotated[
    list[str],
    typer.Argument(
        help="The dataset: a folder, file or pattern, with options after ?; several are one (docs/data.md)."
    ),
]
Shards = Annotated[
    list[str] | None,
    typer.Option("--shards", help="Label only these shards: names or patterns such as '0000[0-4]*'. Repeatable."),
]
Codec = Annotated[
    str | None,
    typer.Option(help="How maps of a new column are written: png-rle, png-levels or png (docs/labels.md)."),
]


def command(
    data: Data,
    expert: Annotated[list[str], typer.Option("--expert", help="The URI of an expert. Repeatable.")],
    out: Annotated[str, typer.Option("--out", help="The label store: a folder or URL.")],
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Images per batch; default: the expert's own.")] = None,
    precision: Annotated[str, typer.Option(help="Precision of torch experts: fp32, bf16 or fp16.")] = "fp32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Run torch experts in the channels-last memory format.")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile torch experts with torch.compile.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads per operator; default: one per core.")] = None,
    max_failures: Annotated[
        float,
        typer.Option(parser=as_share, metavar="SHARE", help="Stop when a larger share of samples fails: 5% or 0.05."),
    ] = MAX_FAILURES,
    shards: Shards = None,
    retry_failed: Annotated[bool, typer.Option(help="Label samples again that failed before.")] = False,
    check: Annotated[bool, typer.Option(help="Run a quick check of the experts on a few images first.")] = True,
    log: Annotated[Path | None, typer.Option(help="Append a line of JSON per shard to this file.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for all machines of a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="HOST:PORT of the Ray cluster; default: the running one.")
    ] = None,
    codec: Codec = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Label a sample, discard the labels, and estimate the cost of the dataset, or of --shards.",
        ),
    ] = False,
    price: Annotated[float | None, typer.Option(help="Price of an hour of this machine, for --estimate.")] = None,
) -> None:
    """Pseudo-label a dataset with experts; rerunning the command resumes."""
    from clipzoo import labeling, locations
    from clipzoo.cli._console import console, print_reports
    from clipzoo.cli._tables import estimated, estimated_total
    from clipzoo.files import several
    from clipzoo.runs.before.preflight import pick_device

    if price is not None and not estimate:
        raise typer.BadParameter("--price applies only to --estimate: add --estimate, or remove --price")
    if engine == "local" or estimate:  # a cluster's devices are on other machines
        device = pick_device(device)
    tuning = labeling.Tuning(precision, channels_last, compile, threads)  # type: ignore[arg-type]  # it checks
    if estimate:
        with locations.resolved(several.combined(data), out) as found:
            guess = labeling.estimate(
                found, expert, device=device, batch_size=batch_size, tuning=tuning, shards=shards, codec=codec
            )
        console.print(estimated(guess), estimated_total(guess, price), sep="\n")
        return
    reports = labeling.label(
        locations.resolve_into_store(several.combined(data), out), expert, out, device=device, batch_size=batch_size,
        max_failures=max_failures, retry_failed=retry_failed, shards=shards, tuning=tuning, check=check, log=log,
        engine=engine,  # type: ignore[arg-type]  # it checks
        ray_address=ray_address, codec=codec,
    )  # fmt: skip
    print_reports(reports)
