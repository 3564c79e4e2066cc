"""The command line: one file per verb, without logic; each verb imports what it needs when it is called."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from clipzoo.cli import (
    ablate,
    advise,
    check,
    checkpoint,
    demo,
    doctor,
    eval,
    experts,
    export,
    inspect,
    interpolate,
    label,
    labels,
    live,
    new,
    predict,
    push,
    report,
    run,
    split,
    tasks,
    train,
    view,
)
from clipzoo.errors import ClipzooError, visible
from clipzoo.stopping import Interrupted

app = typer.Typer(
    name="clipzoo",
    help="Teach CLIP where things are: pseudo-labels from model-zoo experts, joint training, evaluation.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"clipzoo {version('clipzoo')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for verb in (
    new, check, split, label, inspect, view, train, interpolate, eval, ablate, advise, report, run, predict, export,
    push, demo, tasks, doctor,
):  # fmt: skip
    app.command(name=verb.__name__.rpartition(".")[2], cls=getattr(verb, "Command", None))(verb.command)
app.command(name="app")(live.command)  # a module of this name would be replaced by the variable above
app.add_typer(experts.app)
app.add_typer(labels.app)
app.add_typer(checkpoint.app)


ELSEWHERE = "choose another path"
DISK_ERRORS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), f"{ELSEWHERE}, or change the permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free some space, or {ELSEWHERE}, and rerun the command"),
    errno.EFBIG: f"the file exceeds the size limit: {ELSEWHERE}, or raise ulimit -f",
    errno.EROFS: f"the disk is read-only: {ELSEWHERE}",
    errno.ENOTDIR: f"a part of the path is a file: {ELSEWHERE}",
    errno.EEXIST: f"the path is a file: {ELSEWHERE}",
    errno.EISDIR: "the path is a folder: give a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: f"{ELSEWHERE}, or remove the link",
    errno.EINVAL: ELSEWHERE,
    **dict.fromkeys(
        (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ENOTCONN),
        "the disk, or the connection to it, failed: check it, and rerun the command",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "too many files are open: raise ulimit -n, or close programs, and rerun the command",
    ),
}
"""Errors of disks, which are no faults of the program -> the fix."""


SPINS = "2000"
"""How long idle threads of a torch operator wait busily: OpenMP of GCC, whose default is 300,000 turns. They then leave
their core to the processes that load data, which makes training on a CPU faster (docs/training.md)."""


def main() -> None:
    """Run the command line; user errors are printed without a traceback, with exit code 2.

    A run that a signal has stopped exits with 128 plus the signal's number (`clipzoo.stopping.Interrupted`).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # before torch is imported
    try:
        app()
    except ClipzooError as error:
        _exit_with(str(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS or (error.errno == errno.EINVAL and error.filename is None):
            raise
        _exit_with(f"{error.filename or 'the disk'}: {error.strerror}; {DISK_ERRORS[error.errno]}")
    except SystemExit as end:
        stopped = getattr(end.__context__, "__cause__", None)  # Typer exits with 130 from an interrupt
        if isinstance(stopped, KeyboardInterrupt):
            message = str(stopped) or "stopped; rerun the command to resume"
            Console(stderr=True).print(escape(message), highlight=False, soft_wrap=True)
        if isinstance(stopped, Interrupted):
            sys.exit(stopped.exit_code)
        raise


def _exit_with(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error[/]: {escape(visible(message))}", highlight=False, soft_wrap=True)
    sys.exit(2)
