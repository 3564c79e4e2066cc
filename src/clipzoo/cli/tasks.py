"""``clipzoo tasks``."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(help="Describe this task in full.", show_default=False)] = None,
) -> None:
    """List the tasks, or describe one with its measures, heads and losses."""
    from clipzoo import tasks
    from clipzoo.cli._console import console
    from clipzoo.cli._tables import first_line, task_facts, two_columns, without_markup

    if name is None:
        rows = [(one, first_line(tasks.PLUGINS.description(one))) for one in tasks.PLUGINS.names()]
        console.print(two_columns(rows, "task", "label"))
        console.print("clipzoo tasks NAME describes a task in full")
        return
    task = tasks.get(name)
    for paragraph in without_markup(tasks.PLUGINS.description(name)).split("\n\n"):
        console.print(" ".join(paragraph.split()), "", sep="\n", markup=False, highlight=False)
    console.print(two_columns(task_facts(task)))
