"""Several ranks of a training as forks of the process of a test."""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from clipzoo.errors import ClipzooError
from clipzoo.training import joined

FORK = multiprocessing.get_context("fork")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``function(*arguments)`` returns on each of so many ranks; an error of one is raised."""
    port, ends = free_port(), []
    for rank in range(ranks):
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_run, args=(theirs, environment(rank, ranks, port), function, arguments))
        process.start()
        theirs.close()
        ends.append((process, ours))
    results = [end.recv() if end.poll(120) else ("error", f"rank {rank}: late") for rank, (_, end) in enumerate(ends)]
    for process, _ in ends:
        process.join(20)
        process.kill()
    errors = [text for kind, text in results if kind == "error"]
    assert not errors, "\n".join(errors)
    return [torch.load(io.BytesIO(value), weights_only=False) for _, value in results]


def _run(end: Any, variables: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(variables)
    try:
        with joined("cpu"):
            file = io.BytesIO()  # multiprocessing would share the memory of tensors, which ends with the process
            torch.save(function(*arguments), file)
            end.send(("value", file.getvalue()))
    except BaseException:
        end.send(("error", traceback.format_exc()))
        os._exit(1)
    os._exit(0)


def started(ranks: int, function: Callable[[], Any]) -> list[Any]:
    """Return so many processes, which end as the ranks of the command line do."""
    port = free_port()
    processes = [FORK.Process(target=_end, args=(environment(rank, ranks, port), function)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def ended(ranks: int, function: Callable[[], Any]) -> list[int | None]:
    """Return the exit codes of so many ranks."""
    processes = started(ranks, function)
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes]


def _end(variables: dict[str, str], function: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    os.environ.update(variables)
    code = 0
    try:
        with joined("cpu"):
            function()
    except ClipzooError as error:
        code = 2
        if variables["RANK"] == "0":
            print(error, file=sys.stderr, flush=True)
    except SystemExit:
        code = 2
    os._exit(code)
