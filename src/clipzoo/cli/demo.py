"""``clipzoo demo``."""

from __future__ import annotations

from clipzoo.cli._options import Out, Set


def command(out: Out = None, overrides: Set = None) -> None:
    """The whole tool on the embedded rooms: minutes on two cores, no download, a page at the end."""
    from importlib import resources
    from pathlib import Path

    from clipzoo.cli import run

    recipe = resources.files("clipzoo.demo") / "recipe.yaml"
    run.command(Path(str(recipe)), out, overrides, "cpu")
