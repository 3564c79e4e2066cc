"""Reading a recipe from YAML and plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from clipzoo import files
from clipzoo.errors import RecipeError
from clipzoo.files import AnyPath
from clipzoo.recipe.fields import Recipe
from clipzoo.recipe.mistakes import mistakes
from clipzoo.recipe.values import read_yaml
from clipzoo.trust import listed


def load(path: AnyPath, overrides: Sequence[str] = (), trust: bool = False) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: ``a.b=value`` each, the value in YAML; items of lists by number.
        trust: allow the Python code that the recipe names to run (docs/security.md).

    Raises:
        RecipeError: the recipe has mistakes, all of which are listed, or it names code that is not trusted.
    """
    recipe = _read(path, overrides)
    if recipe.code and not trust:
        raise RecipeError(
            f"{listed(recipe.code, path)}. Read this code. If you trust it, load the recipe with trust=True"
        )
    return recipe


def parse(values: Mapping[str, object], source: str = "recipe") -> Recipe:
    """Return a recipe from plain values.

    Args:
        values: fields of the recipe.
        source: name of the recipe in messages.

    Raises:
        RecipeError: the values have mistakes, all of which are listed.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = mistakes(values, error)
        count = f"{len(lines)} mistake{'s'[: len(lines) > 1]}"
        raise RecipeError(f"{source} has {count}:\n" + "\n".join(lines)) from error


def _read(path: AnyPath, overrides: Sequence[str]) -> Recipe:
    try:
        text = files.local(path, "a recipe").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        missing = files.missing(files.local(path, "a recipe"))
        raise RecipeError(f"{missing}. Give a recipe, or the folder of a run") from error
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    values = read_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path} holds {type(values).__name__}, and a recipe is a mapping from fields to values. Write it as "
            "described in docs/recipe.md"
        )
    for override in overrides:
        _override(values, override)
    options = "".join(f" --set {override}" for override in overrides)
    return parse(values, f"{path} with{options}" if options else str(path))


def _child(node: dict[str, object] | list[object], name: str, field: str) -> object:
    """Return the part of a recipe below ``node``, whose fields are set; short forms and null become mappings.

    Short forms are a dataset that is a plain location, and a balancing scheme that is a plain name.
    """
    if isinstance(node, list):
        number = int(name)
        if field == "data" and isinstance(node[number], str):
            node[number] = {"data": node[number]}
        return node[number]
    if node.get(name) is None:
        node[name] = {}
    if (field, name) == ("training", "balancing") and isinstance(node[name], str):
        node[name] = {"name": node[name]}
    return node[name]


def _override(values: dict[str, object], override: str) -> None:
    """Set the value of ``a.b=value`` in nested values."""
    path, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set takes a.b=value, not {override!r}")
    value = read_yaml(text, f"--set {override}")
    *parents, last = path.strip().split(".")
    node: Any = values
    try:
        for name in parents:
            node = _child(node, name, parents[0])
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise RecipeError(f"--set {override}: {path} is not a field of the recipe ({error})") from error
