"""Progress of a run on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from clipzoo.errors import visible

if TYPE_CHECKING:
    from clipzoo.labeling import ColumnReport, Estimate
    from clipzoo.recipe import Recipe
    from clipzoo.runs import Run

WIDE = 100_000
"""Columns of what is no terminal: a table is as wide as its content there."""
KINDS = 3
"""Kinds of failures that the table of labeling shows."""


class _Console(Console):
    """Tables of which nothing is cut: folded on a terminal, whole in a pipe or file, where programs read them."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does it."""
        if not self.is_terminal:
            self.width = WIDE
        for table in (one for one in objects if isinstance(one, Table)):
            for column in table.columns:
                column.overflow = "fold"
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does it, through which all text of prints and tables goes; control characters are written out."""
        return super().render_str(visible(text), **options)


console = _Console()


def bold(path: object) -> str:
    """A path, set off from the words around it; its brackets are no markup."""
    return f"[bold]{escape(str(path))}[/]"


class Bars:
    """A `clipzoo.progress.Progress` as rich bars."""

    def __init__(self, bars: RichProgress) -> None:
        self.bars = bars
        self.ids: dict[str, TaskID] = {}

    def stage(self, text: str) -> None:
        """A headline above the bars."""
        self.bars.console.print(f"[bold]▸[/] {escape(text)}")

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of ``what``; a full one is removed."""
        if what not in self.ids:
            self.ids[what] = self.bars.add_task(what, total=total, note="")
        self.bars.update(self.ids[what], completed=done, note=note)
        if done >= total:
            self.bars.remove_task(self.ids.pop(what))


def cards(told: Sequence[Mapping[str, str]]) -> Table:
    """Columns side by side, each as `clipzoo.pages.gallery.summary` tells it."""
    table = Table(title="Columns", show_lines=True)
    for name in ("", *(card["column"] for card in told)):
        table.add_column(escape(name))
    for name in [name for name in told[0] if name != "column"]:
        table.add_row(name, *(escape(card[name]) for card in told))
    return table


def labeled(reports: Sequence[ColumnReport]) -> None:
    """Print what columns hold after labeling, what is new, and what it cost; and an example of what failed most."""
    table = Table()
    for name in ("column", "labels", "of them new", "failures", "bytes a label", "ms an image"):
        table.add_column(name, min_width=20 if name == "column" else None)
    for r in reports:
        why = "".join(f"\n{count} × {escape(reason)}" for reason, count in list(r.reasons.items())[:KINDS])
        if (more := len(r.reasons) - KINDS) > 0:
            why += f"\nand {more} more kind{'s'[: more > 1]}"
        if r.halved_to:
            why += f"\nout of memory: batches were halved to {r.halved_to}"
        cost = (f"{r.bytes_per_image:,.0f}", f"{1000 * r.seconds_per_image:,.1f}")
        table.add_row(f"{r.task}/{r.slug}", f"{r.labels:,}", f"{r.labeled:,}", f"{r.failures:,}{why}", *cost)
    console.print(table)
    for r in reports:
        for example in list(r.examples.values())[:1]:
            told = f"{r.task}/{r.slug}: for example {example}\nall of them: {r.listing}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)


def estimated(guess: Estimate, price: float | None) -> tuple[Table, str]:
    """What labeling would take, by columns and in all."""
    table = Table()
    for name in ("column", "bytes", "ms an image", "failures"):
        table.add_column(name, min_width=20 if name == "column" else None)
    for c in guess.columns:
        table.add_row(c.name, f"{c.bytes:,.0f}", f"{1000 * c.seconds_per_image:,.1f}", f"{c.failures:.1%}")
    told = f"{guess.samples:,} samples: {timedelta(seconds=round(guess.seconds))}, {guess.bytes / 1e6:,.1f} MB"
    if price is not None:
        told += f", {guess.price(price):,.2f} at {price:g} an hour"
    return table, f"{told}; from {guess.measured:,} that were labeled and thrown away"


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars on the terminal while the block lasts."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)


def located(recipe: Path, out: Path | None, overrides: list[str] | None, trust: bool) -> tuple[Recipe, Path]:
    """The recipe of a file, or of a folder that holds one, and the run's folder; its code is asked about."""
    from clipzoo import files
    from clipzoo import recipe as recipes
    from clipzoo.errors import CheckpointError
    from clipzoo.runs.preflight import check_places

    if recipe.is_dir():
        files.check_inside(recipe, ".", CheckpointError)
    file = recipe / "recipe.yaml" if recipe.is_dir() else recipe
    loaded = recipes.load(file, overrides or (), trust=True)
    folder = out or (recipe if recipe.is_dir() else Path("runs") / loaded.name)
    if not trust:
        _confirm(loaded, file, overrides or (), folder)
    if not recipe.is_dir():
        check_places(loaded, recipe)
    return loaded, folder


def interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _confirm(recipe: Recipe, file: Path, typed: Sequence[str], folder: Path) -> None:
    """Ask, once for a recipe in its place, whether code may run that it names and that was not ``typed``."""
    from clipzoo import trust
    from clipzoo.errors import RecipeError
    from clipzoo.recipe import TOKENIZER

    own = any(one.startswith("student.trust_remote_code=") for one in typed)
    foreign = [
        uri for uri in recipe.code if not (own if uri.startswith(TOKENIZER) else any(uri in one for one in typed))
    ]
    if not trust.known(foreign, file):
        listed = visible(trust.listed(foreign, file))
        if not interactive():
            raise RecipeError(
                f"{listed}, and without a terminal nobody can be asked: read it, and if you trust it, add --trust"
            )
        console.print(listed, markup=False, highlight=False, soft_wrap=True)
        typer.confirm("Have you read it, and shall it run?", abort=True)
        trust.remember(foreign, file)
    if recipe.code:  # the run's folder will hold the same recipe
        trust.remember(recipe.code, folder / "recipe.yaml")


@contextmanager
def opened(
    recipe: Path,
    out: Path | None,
    overrides: list[str] | None,
    device: str = "auto",
    trust: bool = False,
    check: Callable[[Recipe], None] = lambda recipe: None,
) -> Iterator[Run]:
    """The run of a recipe, with bars on the terminal; what ``check`` refuses leaves no folder behind."""
    from clipzoo import runs
    from clipzoo.runs.preflight import pick_device

    loaded, folder = located(recipe, out, overrides, trust)
    check(loaded)
    with bars() as progress:
        yield runs.Run(loaded, folder, progress, pick_device(device))


@contextmanager
def found(folder: Path, trust: bool) -> Iterator[Run]:
    """The run that a folder holds, with bars on the terminal; `CheckpointError` if it holds none."""
    from clipzoo.errors import CheckpointError
    from clipzoo.plugins import hint

    if not folder.is_file() and not (folder / "recipe.yaml").is_file():
        runs = sorted(str(path.parent) for path in Path("runs").glob("*/recipe.yaml"))
        what = hint(str(folder), runs) if runs else "`clipzoo run RECIPE` makes one"
        raise CheckpointError(f"{folder} is no run's folder, for it has no recipe.yaml; {what}")
    with opened(folder, None, None, trust=trust) as run:
        yield run


def previewed(
    recipe: Path,
    out: Path | None,
    overrides: list[str] | None,
    device: str,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    trust: bool = False,
) -> None:
    """Print what a run would do: of all of its arms and seeds and measured, or of these alone."""
    from clipzoo.runs.dry_run import preview
    from clipzoo.runs.preflight import check_measurable, pick_device

    pick_device(device)

    loaded, folder = located(recipe, out, overrides, trust)
    with bars() as progress:
        if not arms:
            check_measurable(loaded)
        found = preview(loaded, folder, arms=arms, seeds=seeds, progress=progress)
    table = Table("what", "found")
    for what, said in found.rows():
        table.add_row(what, escape(said))
    console.print(table)
    console.print("nothing was started, nothing written")
