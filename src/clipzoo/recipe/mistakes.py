"""Mistakes of a recipe, in a user's words: all of them, each with its place and its fix."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clipzoo import plugins
from clipzoo.recipe.data import TAGS
from clipzoo.recipe.fields import Recipe

Loc = tuple[str | int, ...]

_NUMBER, _WHOLE, _NAMED = "a number", "a whole number", "names and values, as {{name: value}}"
GIVE = {
    "string_type": "text", "bool_type": "true or false", "bool_parsing": "true or false",
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE, "int_parsing_size": "a smaller number",
    "float_type": _NUMBER, "float_parsing": _NUMBER, "finite_number": "a finite number",
    "tuple_type": "a list, as [a, b]", "dict_type": _NAMED, "model_type": _NAMED, "model_attributes_type": _NAMED,
    "greater_than": "a number above {gt:g}", "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}", "less_than_equal": "{le:g} or less",
    "too_short": "{min_length} or more in the list", "too_long": "{max_length} in the list, no more",
    "literal_error": "one of {expected}",
    "invalid-json-value": "text, a number, true, false, null, a list, or names and values",
}  # fmt: skip
"""Pydantic's type of error -> valid values."""
SHOWN = 60
"""Characters of an invalid value that are shown."""


def mistakes(values: Mapping[str, object], error: ValidationError) -> list[str]:
    """Return one line per mistake in ``values``, of which pydantic reported ``error``."""
    reported = [(e["loc"], _line(e)) for e in _errors(error) if not _all_items_wrong(e)]
    reported += _hidden(values, [loc for loc, _ in reported])
    return [line for _, line in reported]


def _all_items_wrong(error: ErrorDetails) -> bool:
    """Return True for a list that pydantic calls empty because every item of it is invalid."""
    return error["type"] == "too_short" and bool(error["input"])


def _hidden(values: Mapping[str, object], reported: Sequence[Loc]) -> list[tuple[Loc, str]]:
    """Return mistakes of fields together, which pydantic checks only when each field alone is valid.

    Fields that are already reported are removed first. Mistakes that name such a field are dropped, since its removal
    may cause them.
    """
    rest = copy.deepcopy(dict(values))
    for loc in reported:
        _remove(rest, loc)
    try:
        Recipe.model_validate(rest)
    except ValidationError as error:
        return [(e["loc"], _line(e)) for e in _errors(error) if _is_independent(e, reported)]
    return []


def _errors(error: ValidationError) -> list[ErrorDetails]:
    """Return pydantic's errors; their places are those of the values."""
    found = error.errors()
    for one in found:
        one["loc"] = tuple(name for name in one["loc"] if name not in TAGS)
    return found


def _is_independent(error: ErrorDetails, reported: Sequence[Loc]) -> bool:
    """Return True for a mistake of fields together that is neither reported nor caused by a reported field."""
    loc = error["loc"]
    if error["type"] != "value_error" or loc in reported:
        return False
    depth = len(loc)
    inside = {str(other[depth]) for other in reported if other[:depth] == loc and len(other) > depth}
    return not inside & set(re.findall(r"\w+", error["msg"]))


def _remove(values: Any, loc: Loc) -> None:
    """Delete the field at a place, if it exists. Items of lists stay, since places count them."""
    try:
        for name in loc[:-1]:
            values = values[name]
    except (KeyError, IndexError, TypeError):
        return
    if isinstance(values, dict) and loc:
        values.pop(loc[-1], None)


def _line(error: ErrorDetails) -> str:
    """Return pydantic's error as one line: place, value, valid values."""
    loc, kind, value = error["loc"], error["type"], error["input"]
    place = ".".join(map(str, loc)) or "recipe"
    if kind == "value_error":
        return f"  {place}: {error['msg'].removeprefix('Value error, ')}"
    if kind == "extra_forbidden":
        return f"  {place}: no such field; {plugins.hint(str(loc[-1]), _fields(Recipe, loc[:-1]))}"
    if kind == "missing":
        return f"  {place} is missing; give it, since it has no default"
    shown = _shown(value)
    if len(shown) > SHOWN:
        shown = f"{shown[:SHOWN]}…"
    if kind not in GIVE:
        return f"  {place} is {shown}; {error['msg']}"
    valid = GIVE[kind].format(**error.get("ctx", {}))
    line = f"  {place} is {shown}; give {valid}"
    similar = plugins.nearest(str(value), re.findall("'(.*?)'", valid), 1) if kind == "literal_error" else ""
    return f"{line}; {similar}" if similar else line


def _shown(value: object) -> str:
    try:
        return json.dumps(value, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # names that are no text, or a value within itself
        return _plain(value)


def _plain(value: object) -> str:
    """Return a value that JSON has not: a date of YAML, or the type of an object of Python."""
    return str(value) if isinstance(value, date) else f"a {type(value).__name__}"


def _fields(root: type[BaseModel], loc: Iterable[str | int]) -> Iterable[str]:
    model = root
    for name in loc:
        if isinstance(name, str):  # a number counts the parts of one field
            model = next(_models(model.model_fields[name].annotation))
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the parts of a recipe in the type of a field."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
