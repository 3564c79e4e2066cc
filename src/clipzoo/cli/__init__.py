"""The command line: one file a verb, no logic; each verb imports what it needs when it is called."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from clipzoo.cli import (
    check,
    demo,
    doctor,
    eval,
    experts,
    export,
    inspect,
    label,
    labels,
    new,
    report,
    run,
    tasks,
    train,
)
from clipzoo.errors import ClipzooError, visible

app = typer.Typer(
    name="clipzoo",
    help="Teach CLIP where things are: pseudo-labels from model-zoo experts, joint training, honest measurement.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"clipzoo {version('clipzoo')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


for verb in (new, check, label, inspect, train, eval, report, run, export, demo, tasks, doctor):
    app.command(name=verb.__name__.rpartition(".")[2])(verb.command)
app.add_typer(experts.app)
app.add_typer(labels.app)


ELSEWHERE = "give another place"
REFUSED = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), f"{ELSEWHERE}, or the rights to write there"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"make room, or {ELSEWHERE}, and run the same again"),
    errno.EFBIG: f"no file may be as large there: {ELSEWHERE}, or raise ulimit -f",
    errno.EROFS: f"that disk is read-only: {ELSEWHERE}",
    errno.ENOTDIR: f"a part of it is a file: {ELSEWHERE}",
    errno.EEXIST: f"there is a file: {ELSEWHERE}",
    errno.EISDIR: "there is a folder: give a file",
    errno.ENAMETOOLONG: "give a shorter name",
}
"""What a disk refuses, which is no fault of the program, -> what to do."""


def main() -> None:
    """Entry point: errors meant for users are printed without a traceback; exit 2 for them, 130 if interrupted."""
    try:
        app()
    except ClipzooError as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        _refuse(f"{error.filename or 'the disk'}: {error.strerror}; {REFUSED[error.errno]}")
    except SystemExit as end:
        stopped = getattr(end.__context__, "__cause__", None)  # Typer exits with 130 from an interrupt
        if isinstance(stopped, KeyboardInterrupt):
            said = str(stopped) or "stopped; run the same command again to go on where it stopped"
            Console(stderr=True).print(escape(said), highlight=False, soft_wrap=True)
        raise


def _refuse(why: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error[/]: {escape(visible(why))}", highlight=False, soft_wrap=True)
    sys.exit(2)
