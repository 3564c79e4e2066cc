"""``clipzoo label``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Device, as_share
from clipzoo.errors import MAX_FAILURES


def command(
    data: Annotated[
        str, typer.Argument(help="The dataset: a folder, file or pattern, and options behind ? (docs/data.md).")
    ],
    expert: Annotated[list[str], typer.Option("--expert", help="An expert's URI. May be repeated.")],
    out: Annotated[str, typer.Option("--out", help="The label store: a folder or address.")],
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Images a batch; default the expert's own.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16, of experts in torch.")] = "fp32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Their layout in memory.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile them first.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads of an operator; default a thread a core.")] = None,
    max_failures: Annotated[
        float, typer.Option(parser=as_share, metavar="SHARE", help="Stop when more fail: 5% or 0.05.")
    ] = MAX_FAILURES,
    shards: Annotated[
        list[str] | None, typer.Option("--shards", help="Only these: names or patterns, '0000[0-4]*'. May be repeated.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Label rows again that failed before.")] = False,
    check: Annotated[bool, typer.Option(help="Look at the experts' labels of a few pictures first, and warn.")] = True,
    log: Annotated[Path | None, typer.Option(help="Add a line of JSON a shard to this file.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: on all machines of a Ray cluster.")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="HOST:PORT of the cluster; default the running one.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Label a sample and throw it away; say what all would take.")
    ] = False,
    price: Annotated[float | None, typer.Option(help="Of an hour of this machine, for --estimate.")] = None,
) -> None:
    """Let experts pseudo-label a dataset; stopped at any moment, the same command goes on."""
    from clipzoo import labeling, locations
    from clipzoo.cli._console import console, estimated, labeled
    from clipzoo.runs.preflight import pick_device

    if price is not None and not estimate:
        raise typer.BadParameter("--price says what --estimate would cost: add --estimate, or leave --price out")
    if engine == "local" or estimate:  # a cluster's devices need not be here
        device = pick_device(device)
    tuning = labeling.Tuning(precision, channels_last, compile, threads)  # type: ignore[arg-type]  # it checks
    if estimate:
        with locations.resolved(data, out) as found:
            guess = labeling.estimate(found, expert, device=device, batch_size=batch_size, tuning=tuning)
        console.print(*estimated(guess, price), sep="\n")
        return
    reports = labeling.label(
        locations.resolve_into_store(data, out), expert, out, device=device, batch_size=batch_size,
        max_failures=max_failures, retry_failed=retry_failed, shards=shards, tuning=tuning, check=check, log=log,
        engine=engine,  # type: ignore[arg-type]  # it checks
        ray_address=ray_address,
    )  # fmt: skip
    labeled(reports)
