"""``clipzoo new``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from clipzoo.cli._options import Device

if TYPE_CHECKING:
    from clipzoo.runs.new_recipe import Data

T = TypeVar("T")
G = TypeVar("G")


def command(
    out: Annotated[Path, typer.Option("--out", help="The recipe file to write.")] = Path("recipe.yaml"),
    data: Annotated[
        list[str] | None, typer.Option(help="The image–caption dataset (docs/data.md). Repeatable: several are one.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="The label store to use or create, or none; default: labels, if it is of this dataset."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The CLIP model: 'NAME WEIGHTS' of OpenCLIP, local-dir:… or hf-hub:….")
    ] = None,
    expert: Annotated[
        list[str] | None, typer.Option(help="The URI of an expert, or a column of the store. Repeatable.")
    ] = None,
    bench: Annotated[
        str | None, typer.Option(help="The benchmark folder with probe, validation and test, or none.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="The number of epochs.")] = None,
    device: Device = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the recipe file if it exists; its dataset is the default.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: use options and defaults.")] = False,
) -> None:
    """Write a commented recipe from five answers, which may be given as options."""
    from rich.markup import escape

    from clipzoo import files, trust
    from clipzoo import recipe as recipes
    from clipzoo.cli._console import bold, console, plain
    from clipzoo.errors import shell_word
    from clipzoo.files import several
    from clipzoo.runs import new_recipe as draft
    from clipzoo.runs.before.preflight import pick_device

    draft.check_out(out, force)
    device = pick_device(device)
    found = _dataset(store, several.combined(data) if data else None, yes, out)
    place = store or draft.find_store(found)
    labels = draft.check_store(place, found)
    existing = draft.proposed_columns(labels)
    if existing:
        plain(f"   {place} has labels of this dataset, which will be used: {', '.join(existing)}")
    elif store and labels:
        plain(f"   {place} has no labels yet; new labels will be stored there")
    usual = draft.defaults(found.location, device)
    question = "2. CLIP model: 'NAME WEIGHTS' of OpenCLIP, local-dir:… or hf-hub:…"
    start = _ask(question, model, usual["model"], draft.check_start, yes)
    cards = _ask(
        "3. Experts (docs/experts.md), separated by spaces", expert or None, " ".join(existing or usual["experts"]),
        lambda uris: draft.check_experts(uris.split() if isinstance(uris, str) else uris, labels), yes,
    )  # fmt: skip
    for name, card in cards.items():
        plain(f"   {name}: {card.task}, license {card.license}")
    splits = _ask("4. Benchmark (docs/benchmarks.md)", bench, usual["benchmarks"], draft.check_benchmarks, yes)
    length = _ask(f"5. Number of epochs, on {device}", epochs, usual["epochs"], draft.check_epochs, yes)
    text = draft.recipe_text(out, found, start, cards, splits, length, device, store=place if labels else None)
    files.write_output(out, text.encode())
    trust.remember(recipes.load(out, trust=True).code, out)  # the user named its experts in this command
    verb, named = "run" if splits else "train", escape(shell_word(out))
    console.print(f"recipe: {bold(out)}; next: clipzoo {verb} {named} --dry-run", soft_wrap=True)


def _dataset(store: str | None, data: str | None, yes: bool, out: Path) -> Data:
    """Return the dataset of the recipe, and print its samples.

    That of an existing store is not guessed; the default is that of the recipe which is overwritten, if there is one.
    """
    from clipzoo.cli._console import plain
    from clipzoo.errors import RecipeError, counted
    from clipzoo.runs.new_recipe import dataset_of

    given = store not in (None, "none")
    if given and yes and data is None:
        raise RecipeError(
            "--store is given with --yes, but the dataset of its labels is missing: add --data LOCATION, or leave out "
            "--yes to be asked"
        )
    usual = dataset_of(out) if out.exists() and data is None else "demo:captioned"
    if usual is None and yes and not given:
        raise RecipeError(f"{out} exists and is no recipe, so its dataset is unknown: add --data LOCATION")
    if yes and data is None and out.exists():
        plain(f"   the dataset stays that of {out}: {usual}")
    found = _ask("1. Dataset (docs/data.md)", data, None if given else usual, _check_data, yes)
    skipped = "".join(f"; skipped: {count:,} × {reason}" for reason, count in found.left_out.items())
    plain(f"   {counted(found.samples, 'usable sample')}{skipped}")
    return found


def _check_data(location: str) -> Data:
    """Return the checked dataset, with a bar on the terminal."""
    from clipzoo.cli._console import bars
    from clipzoo.runs.new_recipe import check_data

    with bars() as progress:
        return check_data(location, lambda done, total: progress.step("shards", done, total))


def _ask(question: str, given: G | None, usual: G | None, check: Callable[[G], T], yes: bool) -> T:
    """Return the checked answer: the option, the default with ``yes``, or the first valid answer of the user."""
    from clipzoo.cli._console import console
    from clipzoo.errors import ClipzooError

    if given is not None or yes:
        return check(cast(G, usual if given is None else given))
    while True:
        try:
            return check(typer.prompt(question, default=usual, type=str))
        except ClipzooError as error:
            console.print(f"   {error}", style="red", markup=False, soft_wrap=True)
