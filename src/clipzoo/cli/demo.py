"""``clipzoo demo``."""

from __future__ import annotations

from clipzoo.cli._options import Out, Set


def command(out: Out = None, overrides: Set = None) -> None:
    """Run everything on the embedded dataset: takes minutes on two cores, needs no download, ends with a report."""
    from importlib import resources
    from pathlib import Path

    from clipzoo.cli import run

    recipe = resources.files("clipzoo.demo") / "recipe.yaml"
    run.command(Path(str(recipe)), out, overrides, "cpu")
