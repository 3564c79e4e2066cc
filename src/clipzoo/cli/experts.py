"""``clipzoo experts``."""

from __future__ import annotations


def command() -> None:
    """The zoos that experts come from, and how their URIs look."""
    from rich.table import Table

    from clipzoo import plugins
    from clipzoo.cli._console import console

    table = Table("zoo", "what it is")
    for name in plugins.names("experts"):
        table.add_row(f"{name}:", (plugins.load("experts", name).__doc__ or "").strip().splitlines()[0])
    console.print(table)
