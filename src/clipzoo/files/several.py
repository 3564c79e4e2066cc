"""Several datasets in one location, as text: ``{"web": "shards/web", "art": "art.csv?caption=title"}``.

Recipes with a list and commands with several datasets are turned into this text, which travels like any other location.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from clipzoo.errors import DatasetError

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""A valid name of a dataset."""

_PATTERN = re.compile(r"[*?{\[]")
_ENDINGS = re.compile(r"(\.(tar|csv|tsv|parquet|yaml|yml|txt|jsonl))+$", re.IGNORECASE)


def combine(named: Mapping[str, str]) -> str:
    """Return the location of several datasets: name -> location."""
    return json.dumps(dict(sorted(named.items())), ensure_ascii=False)


def separate(location: str) -> dict[str, str] | None:
    """Return name -> location of a text that `combine` returned; None for any other location.

    Raises:
        DatasetError: the text is such a mapping, with an invalid name or a location that is no text.
    """
    if not location.startswith('{"'):
        return None
    try:
        named = json.loads(location)
    except ValueError:
        return None
    for name, text in named.items():
        if not isinstance(text, str) or not NAME.fullmatch(name):
            raise DatasetError(
                f"{location!r} has the invalid entry {name!r}: {text!r}. Write names of letters, digits, _ and -, each "
                'with one location, such as {"photos": "path/to/photos"}'
            )
    return dict(named)


def combined(locations: Sequence[str]) -> str:
    """Return one location for a command's datasets, which are named by their locations; a single one is unchanged.

    Raises:
        DatasetError: two datasets have one name.
    """
    if len(locations) == 1:
        return locations[0]
    named: dict[str, str] = {}
    for location in locations:
        name = name_of(location)
        if name in named:
            both = json.dumps({f"{name}1": named[name], f"{name}2": location}, ensure_ascii=False)
            raise DatasetError(
                f"the datasets {named[name]!r} and {location!r} are both called {name!r}, but names separate their "
                f"labels; name them in one argument: '{both}'"
            )
        named[name] = location
    return combine(named)


def name_of(location: str) -> str:
    """Return a name for a dataset: the last part of its location before a pattern, without ending and options."""
    path = re.sub(r"\?\w+=.*", "", location, flags=re.DOTALL).partition("://")[2 * ("://" in location)]
    parts = [part for part in re.split(r"[/\\:]", path) if part]
    while parts and _PATTERN.search(parts[-1]):
        parts.pop()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", _ENDINGS.sub("", parts[-1] if parts else "")).strip("-")
    return name or "data"
