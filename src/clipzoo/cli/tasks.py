"""``clipzoo tasks``."""

from __future__ import annotations


def command() -> None:
    """The tasks, what their labels mean, and how they are measured."""
    from rich.table import Table

    from clipzoo import plugins
    from clipzoo.cli._console import console

    table = Table("task", "what a label means")
    for name in plugins.names("tasks"):
        table.add_row(name, (plugins.load("tasks", name).__doc__ or "").replace("`", "").strip())
    console.print(table)
