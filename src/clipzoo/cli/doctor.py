"""``clipzoo doctor``."""

from __future__ import annotations


def command() -> None:
    """Print versions, devices and memory of this machine; include the output in bug reports."""
    from clipzoo.cli._console import console
    from clipzoo.cli._tables import machine, two_columns

    console.print(two_columns(machine(), "item", "value"))
