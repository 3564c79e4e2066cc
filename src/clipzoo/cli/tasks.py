"""``clipzoo tasks``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from clipzoo.tasks import Convention, Task


def command(
    name: Annotated[str | None, typer.Argument(help="One of them, told in full.", show_default=False)] = None,
) -> None:
    """The tasks and what their labels mean; of one, also its measures, and the heads and losses that learn it."""
    from rich.markup import escape
    from rich.table import Table

    from clipzoo import tasks
    from clipzoo.cli._console import console

    told = {one: (tasks.PLUGINS.load(one).__doc__ or "").replace("`", "").strip() for one in tasks.PLUGINS.names()}
    if name is None:
        table = Table("task", "what a label is")
        for one, text in told.items():
            table.add_row(one, escape(text.partition("\n")[0]))
        console.print(table, "clipzoo tasks NAME tells one in full", sep="\n")
        return
    task = tasks.get(name)
    for paragraph in told[name].split("\n\n"):
        console.print(" ".join(paragraph.split()), "", sep="\n", markup=False, highlight=False)
    table = Table(show_header=False)
    for what, line in _rows(task):
        table.add_row(what, escape(line))
    console.print(table)


def _rows(task: Task[Any]) -> Iterator[tuple[str, str]]:
    """(what, found) of the task's measures, and of what a recipe's column may name, with its options."""
    from clipzoo import heads
    from clipzoo.tasks import Convention

    kinds = get_args(get_args(get_type_hints(Convention)["kind"])[0])
    meant = {kind: Convention(("a", "b"), kind, "z") for kind in kinds}
    yield "stored as", f".{task.extension}"
    for number, (measure, how) in enumerate(task.metric(meant[kinds[0]]).measures.items()):
        read = f"{measure}{f' in {how.unit}' if how.unit else ''}, {how.direction} is better"
        yield "" if number else "measures", read
    fitting = [one for one in heads.PLUGINS.names() if _fits(one, task, meant[kinds[0]])]
    for number, one in enumerate(sorted(fitting, key=lambda one: one != task.head)):
        default = " (default)" if one == task.head else ""
        yield "" if number else "heads", f"{one}{_options(heads.PLUGINS.load(one).Head)}{default}"
    losses: dict[tuple[str, ...], list[str]] = {}
    for kind, convention in meant.items():
        losses.setdefault(task.offered(convention), []).append(kind)
    for offered, of in losses.items():
        what = "losses" if len(losses) == 1 else f"losses, {' and '.join(of)}"
        lines = [f"{one}{_options(task.criterion(meant[of[0]], one))}" for one in offered]
        yield what, "\n".join([f"{lines[0]} (default)", *lines[1:]] if lines else ["its own"])


def _fits(head: str, task: Task[Any], convention: Convention) -> bool:
    from clipzoo import heads

    try:
        heads.create(head, [8], task.raw_channels(convention))
    except Exception:  # anybody's code
        return False
    return True


def _options(function: Callable[..., Any]) -> str:
    """Keywords with their defaults, as a recipe's ``head_options`` or ``loss_options`` names them."""
    import inspect

    known = inspect.signature(function).parameters.values()
    found = [f"{one.name}: {one.default}" for one in known if one.default is not one.empty]
    return f" {{{', '.join(found)}}}" if found else ""
