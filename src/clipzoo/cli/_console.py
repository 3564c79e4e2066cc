"""The terminal: console, progress bars, and opening a recipe's run with them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from clipzoo.progress import PERIOD

if TYPE_CHECKING:
    from clipzoo.labeling import ColumnReport
    from clipzoo.recipe import Recipe
    from clipzoo.runs import Run

WIDE = 100_000
"""Width in characters of output that is not a terminal: tables are as wide as their content there."""


class _Console(Console):
    """A console that never cuts tables: folded on a terminal, unfolded in a pipe or file, where programs read them."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console.print` does."""
        if not self.is_terminal:
            self.width = WIDE
        for table in (one for one in objects if isinstance(one, Table)):
            for column in table.columns:
                column.overflow = "fold"
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render text, of prints and tables alike, with control characters escaped."""
        return super().render_str(visible(text), **options)


console = _Console()


def plain(text: str) -> None:
    """Print text without markup, highlighting and line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_reports(reports: Sequence[ColumnReport]) -> None:
    """Print the contents of columns after labeling, and an example of the most frequent failure of each."""
    from clipzoo.cli._tables import failure_examples, labeled

    console.print(labeled(reports))
    for example in failure_examples(reports):
        plain(example)


def bold(path: object) -> str:
    """Return a path in bold, with its brackets escaped."""
    return f"[bold]{escape(str(path))}[/]"


class Lines:
    """A `clipzoo.progress.Progress` that prints a line every `PERIOD` seconds, for output that is not a terminal."""

    def __init__(self, print: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.print, self.clock = print, clock
        self.began: dict[str, tuple[int, float]] = {}
        self.printed: dict[str, float] = {}

    def stage(self, text: str) -> None:
        """Print a headline."""
        self.print(f"▸ {text}")

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Print a line if the last one of ``what`` is `PERIOD` seconds old, and at its end if it took that long."""
        now = self.clock()
        first, began = self.began.setdefault(what, (done, now))
        ended = done >= total
        due = now - self.printed.setdefault(what, began) >= PERIOD
        if due or (ended and now - began >= PERIOD):
            self.printed[what] = now
            rate = (done - first) / max(now - began, 1e-9)
            left = f"{timedelta(seconds=round((total - done) / rate))} left" if rate and not ended else ""
            self.print(", ".join(part for part in (f"{what}: {done}/{total}", note, left) if part))
        if ended:
            del self.began[what], self.printed[what]


class Bars:
    """A `clipzoo.progress.Progress` that shows rich bars."""

    def __init__(self, bars: RichProgress) -> None:
        self.bars = bars
        self.ids: dict[str, TaskID] = {}

    def stage(self, text: str) -> None:
        """Print a headline above the bars."""
        self.bars.console.print(f"[bold]▸[/] {escape(text)}")

    def step(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar named ``what``, and remove it when it is full."""
        if what not in self.ids:
            self.ids[what] = self.bars.add_task(what, total=total, note="")
        self.bars.update(self.ids[what], completed=done, note=note)
        if done >= total:
            self.bars.remove_task(self.ids.pop(what))


@contextmanager
def bars() -> Iterator[Bars | Lines]:
    """Show progress in the block: bars on a terminal, a line every `PERIOD` seconds elsewhere (nohup, Slurm)."""
    if not console.is_terminal:
        yield Lines(_print_now)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)


def _print_now(text: str) -> None:
    """Print text without markup and flush it: output of a pipe is buffered by default."""
    plain(text)
    console.file.flush()


def load_recipe(
    recipe: Path, out: Path | None, overrides: list[str] | None, trust: bool = False
) -> tuple[Recipe, Path]:
    """Return the recipe of a file or run folder, and the run's folder; ask for trust in the code that it names."""
    from clipzoo import files
    from clipzoo import recipe as recipes
    from clipzoo.errors import CheckpointError
    from clipzoo.runs.before.preflight import check_places

    if recipe.is_dir():
        files.check_inside(recipe, ".", CheckpointError)
    file = recipe / "recipe.yaml" if recipe.is_dir() else recipe
    loaded = recipes.load(file, overrides or (), trust=True)
    folder = out or (recipe if recipe.is_dir() else _folder_of(loaded.name))
    if not trust:
        _confirm(loaded, file, overrides or (), folder)
    if not recipe.is_dir():
        check_places(loaded, recipe)
    return loaded, folder


def _folder_of(name: str) -> Path:
    """Return ``runs/<name>``; `RecipeError` for a name that leads elsewhere: a recipe may be from somebody else."""
    from clipzoo.errors import RecipeError

    if not name.strip() or name in (".", "..") or "/" in name or "\0" in name:
        raise RecipeError(
            f"name is {name!r}, which cannot be a folder in runs/: it is empty, `.` or `..`, or contains a slash or "
            "NUL. Choose another name, as with --set name=mine, or give another place with --out"
        )
    return Path("runs") / name


def interactive() -> bool:
    """Return True if the terminal can ask the user."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _confirm(recipe: Recipe, file: Path, typed: Sequence[str], folder: Path) -> None:
    """Ask for trust in the code that a recipe names and the user did not type; asked once per recipe and location."""
    from clipzoo import trust
    from clipzoo.errors import RecipeError
    from clipzoo.recipe import TOKENIZER

    own = any(one.startswith("student.trust_remote_code=") for one in typed)
    foreign = [uri for uri in recipe.code if not (own if uri.startswith(TOKENIZER) else _is_typed(uri, typed))]
    if not trust.known(foreign, file):
        listed = visible(trust.listed(foreign, file))
        if not interactive():
            raise RecipeError(
                f"{listed}, and there is no terminal to confirm it: read the code, and if you trust it, add --trust"
            )
        plain(listed)
        typer.confirm("Have you read the code and do you trust it?", abort=True)
        trust.remember(foreign, file)
    if recipe.code:  # the run's folder will hold the same recipe
        trust.remember(recipe.code, folder / "recipe.yaml")


def _is_typed(uri: str, typed: Sequence[str]) -> bool:
    """Return True if a value of ``--set`` names this URI, not only a longer one."""
    whole = re.compile(rf"(?<!\w){re.escape(uri)}(?![\w.:/#?&=-])")
    return any(whole.search(one) for one in typed)


@contextmanager
def open_run(
    recipe: Path,
    out: Path | None,
    overrides: list[str] | None,
    device: str = "auto",
    trust: bool = False,
    check: Callable[[Recipe], None] = lambda recipe: None,
) -> Iterator[Run]:
    """Open the run of a recipe, with bars on the terminal; if ``check`` raises, no folder is created.

    Of several processes, only the main one enters the block. The others take part in its trainings, and exit.
    """
    from clipzoo.runs.before.preflight import pick_device
    from clipzoo.runs.processes import lead, serve
    from clipzoo.training import joined
    from clipzoo.training.processes import ranks

    with joined(pick_device(device)) as own:
        main = ranks.is_main()
        if main:
            loaded, folder = load_recipe(recipe, out, overrides, trust)
            check(loaded)
            with bars() as progress, lead(loaded, folder, progress, own) as run:
                yield run
        else:
            serve(own)
    if not main:
        raise typer.Exit


def launched(
    gpus: int | None, recipe: Path, out: Path | None, overrides: list[str] | None, device: str, trust: bool
) -> bool:
    """Run this command on several processes, if ``--gpus`` asks for it and this is not one of them.

    Raises:
        typer.Exit: with the code of the first process that failed.
    """
    if gpus is None:
        return False
    from clipzoo.runs.before.preflight import pick_device
    from clipzoo.training.processes.launch import launch
    from clipzoo.training.processes.ranks import check_gpus, is_launched

    if is_launched():
        return False
    pick_device(device)
    if device != "cpu":  # with auto, too: --gpus without a GPU would train on the CPU unnoticed
        check_gpus(gpus)
    load_recipe(recipe, out, overrides, trust)  # asks for trust, and shows mistakes once
    code, cause = launch(gpus, sys.argv[1:])
    if cause:
        Console(stderr=True).print(f"[bold red]error[/]: {cause}", highlight=False, soft_wrap=True)
    if code:
        raise typer.Exit(code)
    return True


@contextmanager
def existing_run(folder: Path, trust: bool) -> Iterator[Run]:
    """Open the run in a folder, with bars on the terminal; errors as of `check_run_folder`."""
    check_run_folder(folder)
    with open_run(folder, None, None, trust=trust) as run:
        yield run


def check_run_folder(folder: Path) -> None:
    """Raise `CheckpointError` if the folder contains no run."""
    from clipzoo.errors import CheckpointError
    from clipzoo.plugins import hint

    if not folder.is_file() and not (folder / "recipe.yaml").is_file():
        runs = sorted(str(path.parent) for path in Path("runs").glob("*/recipe.yaml"))
        fix = hint(str(folder), runs) if runs else "create one with `clipzoo run RECIPE`"
        why = "is not a run folder: it has no recipe.yaml" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {why}; {fix}")


def print_preview(
    recipe: Path,
    out: Path | None,
    overrides: list[str] | None,
    device: str,
    arms: Sequence[str] = (),
    seed: int | None = None,
    trust: bool = False,
    gpus: int | None = None,
    labels_only: bool = False,
) -> None:
    """Print the dry run of a recipe: of all arms and seeds with evaluation, only of given ones, or of labeling.

    The seed is by default the recipe's first. Memory is that of each of ``gpus`` processes.
    """
    from clipzoo.cli._tables import two_columns
    from clipzoo.runs.before.dry_run import preview, preview_labels
    from clipzoo.runs.before.preflight import check_measurable, pick_device

    pick_device(device)
    loaded, folder = load_recipe(recipe, out, overrides, trust)
    with bars() as progress:
        if labels_only:
            rows = preview_labels(loaded, folder, progress=progress)
        else:
            if not arms:
                check_measurable(loaded)
            seeds = [loaded.seeds[0] if seed is None else seed] if arms else None
            rows = preview(loaded, folder, arms=arms, seeds=seeds, progress=progress, processes=gpus or 1).rows()
    console.print(two_columns(rows, "item", "value"))
    console.print("dry run: nothing was started or written")
