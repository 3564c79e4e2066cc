"""``clipzoo new``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from clipzoo.cli._options import Device

T = TypeVar("T")


def command(
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("recipe.yaml"),
    data: Annotated[str | None, typer.Option(help="The image–caption dataset.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Labels that you have, or where to put them; none. Default: labels, if it fits.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="'NAME WEIGHTS' of OpenCLIP, local-dir:, hf-hub:.")] = None,
    expert: Annotated[
        list[str] | None,
        typer.Option(help="An expert's URI, whose weights are fetched; or a column of the store. Repeat."),
    ] = None,
    bench: Annotated[str | None, typer.Option(help="Folder with probe, validation, test; or none.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    device: Device = "auto",
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: options and defaults.")] = False,
) -> None:
    """Five questions, each answer checked at once; writes a commented recipe. Options answer without being asked."""
    from rich.markup import escape

    from clipzoo import files, trust
    from clipzoo import recipe as recipes
    from clipzoo.cli._console import bars, bold, console
    from clipzoo.runs import new_recipe as draft
    from clipzoo.runs.preflight import pick_device

    draft.check_out(out)
    device = pick_device(device)

    def counted(location: str) -> draft.Data:
        with bars() as shown:
            return draft.check_data(location, lambda done, total: shown.step("shards", done, total))

    found = _ask("1. Where is the data (docs/data.md)", data, "demo:captioned", counted, yes)
    left = "".join(f"; left out: {count:,} × {reason}" for reason, count in found.left_out.items())
    console.print(f"   {found.samples:,} usable samples{left}", markup=False)
    place = store or draft.find_store(found)
    labels = draft.check_store(place, found)
    kept = draft.proposed_columns(labels)
    if store and labels and not kept:
        console.print(f"   {place} has no labels yet: they will be put there", markup=False, soft_wrap=True)
    if kept:
        console.print(
            f"   {place} has labels of it, not to be made again: {', '.join(kept)}", markup=False, soft_wrap=True
        )
    usual = draft.defaults(found.location, device)
    which = "2. Which CLIP: 'NAME WEIGHTS' of OpenCLIP, local-dir:, hf-hub:"
    start = _ask(which, model, usual["model"], draft.check_start, yes)
    cards = _ask(
        "3. Which experts (docs/experts.md), a space between", expert or None, " ".join(kept or usual["experts"]),
        lambda told: draft.check_experts(told.split() if isinstance(told, str) else told, labels), yes,
    )  # fmt: skip
    for name, card in cards.items():
        console.print(f"   {name}: {card.task}, license {card.license}", markup=False, soft_wrap=True)
    splits = _ask("4. Where to measure (docs/benchmarks.md)", bench, usual["benchmarks"], draft.check_benchmarks, yes)
    length = _ask(f"5. How many epochs, on {device}", epochs, usual["epochs"], draft.check_epochs, yes)
    text = draft.recipe_text(out, found, start, cards, splits, length, device, store=place if labels else None)
    files.deliver(out, text.encode())
    trust.remember(recipes.load(out, trust=True).code, out)  # whose experts were named in this command
    console.print(f"{bold(out)} is written; next: clipzoo {'run' if splits else 'train'} {escape(str(out))} --dry-run")


def _ask(question: str, given: Any, usual: Any, check: Callable[[Any], T], yes: bool) -> T:
    """The checked answer: the option's or the default where nothing is asked, else asked until it is right."""
    from clipzoo.cli._console import console
    from clipzoo.errors import ClipzooError

    if given is not None or yes:
        return check(usual if given is None else given)
    while True:
        try:
            return check(typer.prompt(question, default=usual, type=str))
        except ClipzooError as error:
            console.print(f"   {error}", style="red", markup=False, soft_wrap=True)
