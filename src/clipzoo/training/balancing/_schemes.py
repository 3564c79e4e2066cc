"""Schemes by name, with their options."""

from __future__ import annotations

import inspect

import torch

from clipzoo import plugins
from clipzoo.errors import RecipeError
from clipzoo.plugins import Registry
from clipzoo.recipe import BalancingRecipe
from clipzoo.training.balancing.base import Balancing, BalancingPlugin, Columns

PLUGINS: Registry[BalancingPlugin] = Registry(
    "training.balancing", ("create",), noun="balancing scheme", option="training.balancing"
)


def create(recipe: BalancingRecipe, columns: Columns) -> Balancing:
    """Return the scheme of a recipe; `fixed` if there are no columns.

    Raises:
        RecipeError: an option is unknown, or its value is not possible.
    """
    made = PLUGINS.load(recipe.name).create
    known = list(inspect.signature(made).parameters)[1:]
    for option in recipe.options:
        if option not in known:
            raise RecipeError(
                f"training.balancing.options has {option!r}, but the balancing {recipe.name} has no such option; "
                f"{plugins.hint(option, known)}"
            )
    try:
        scheme = made(columns, **recipe.options)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"training.balancing.options is {recipe.options}, which the balancing {recipe.name} refuses: {error}. "
            "Correct this option, or remove it to use the default"
        ) from error
    return scheme if columns.names else Balancing()


def check(recipe: BalancingRecipe) -> Balancing:
    """Return the scheme for one column; errors as in `create`."""
    return create(recipe, Columns(("column",), torch.ones(1)))
