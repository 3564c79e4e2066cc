"""The variants of a run: subsets of its columns, and their folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from clipzoo.errors import RecipeError
from clipzoo.runs.inputs import Inputs

LONGEST = 200
"""Characters of a folder's name, of the 255 that file systems allow."""


@dataclass(frozen=True)
class Variant:
    """A subset of the columns.

    Attributes:
        name: of the row, such as ``without depth/x``.
        kind: ``without`` one column, ``only`` one column, or ``named`` in the recipe.
        column: that is left out or kept; "" for a named subset.
        columns: that are trained on, in the order of the recipe.
        folder: of the run, relative to ``ablations``; equal subsets have one folder.
    """

    name: str
    kind: str
    column: str
    columns: tuple[str, ...]
    folder: str


def variants(inputs: Inputs, without: Sequence[str] | None = None, only: Sequence[str] | None = None) -> list[Variant]:
    """Return the variants of a recipe: without each column, with only each, and the recipe's own subsets.

    Args:
        inputs: of the run.
        without, only: names, tasks or experts; if one is given, only these variants are returned.

    Raises:
        RecipeError: the recipe has one column, or a name fits none.
    """
    every = tuple(inputs.specs)
    if len(every) < 2:
        raise RecipeError(
            f"columns has {len(every)} column, and an ablation compares subsets of at least two. Add a column, or "
            "compare clipzoo with clip-ft: `clipzoo run`"
        )
    chosen = without is not None or only is not None
    left_out = inputs.chosen(without or (), "--without") if chosen else every
    alone = inputs.chosen(only or (), "--only") if chosen else every
    named = {} if chosen else inputs.recipe.variants
    left = {name: tuple(one for one in every if one != name) for name in left_out}
    return [
        *(Variant(f"without {name}", "without", name, kept, _folder(kept, every)) for name, kept in left.items()),
        *(one for one in only_each(inputs) if one.column in alone),
        *(variant_of(inputs, name, sources) for name, sources in named.items()),
    ]


def only_each(inputs: Inputs) -> list[Variant]:
    """Return the variants with a single column; that of a recipe with one column is the run itself."""
    every = tuple(inputs.specs)
    return [Variant(f"only {name}", "only", name, (name,), _folder((name,), every)) for name in every]


def variant_of(inputs: Inputs, name: str, sources: Sequence[str]) -> Variant:
    """Return the variant of a name and of columns, tasks or experts of a recipe."""
    kept = tuple(inputs.chosen(sources, f"variants.{name}"))
    return Variant(name, "named", "", kept, _folder(kept, tuple(inputs.specs)))


def check_variants(inputs: Inputs) -> None:
    """Raise `RecipeError` if a variant of the recipe names no column of it, or is an arm whose losses all weigh 0."""
    recipe = inputs.recipe
    for name, sources in recipe.variants.items():
        weights = [inputs.specs[one][0].weight for one in inputs.chosen(sources, f"variants.{name}")]
        if name in recipe.named_arms and not recipe.training.contrastive_weight and not any(weights):
            raise RecipeError(
                f"training.contrastive_weight and the weights of all columns of the arm {name} are 0: give at least "
                f"one of these losses a weight, or remove {name} from arms"
            )


def _folder(kept: Sequence[str], every: Sequence[str]) -> str:
    few = len(kept) <= len(every) / 2
    columns = kept if few else [one for one in every if one not in kept]
    if not columns:
        return ""
    name = f"{'only' if few else 'without'}-" + "+".join(column.replace("/", "--") for column in columns)
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{digest}"
