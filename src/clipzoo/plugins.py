"""A name -> the module that bears it: a file of a folder, or an installed entry point.

The file name is the plugin's name and ``ls`` is the registry. A third party adds one without touching this
package by an entry point in the group ``clipzoo.<folder>``, for example ``clipzoo.tasks``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from clipzoo.errors import PluginError

MANY = 20
"""More names than these are not listed."""


@cache
def names(folder: str) -> tuple[str, ...]:
    """Names of all plugins of ``folder`` ("tasks", "heads", …), sorted; none is imported."""
    package = importlib.import_module(f"clipzoo.{folder}")
    own = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base" and m.name[0] != "_"]
    return tuple(sorted({*own, *(point.name for point in entry_points(group=f"clipzoo.{folder}"))}))


@cache  # called for every label that is decoded; a look through the installed packages is slow
def load(folder: str, name: str) -> ModuleType:
    """The module of plugin ``name`` of ``folder``.

    Raises:
        PluginError: no plugin bears the name; the message offers the nearest ones.
    """
    known = names(folder)
    if name not in known:
        raise PluginError(f"clipzoo/{folder} has no {name!r}; {hint(name, known)}")
    for point in entry_points(group=f"clipzoo.{folder}"):
        if point.name == name:
            module: ModuleType = point.load()
            return module
    return importlib.import_module(f"clipzoo.{folder}.{name}")


def near(name: str, known: Iterable[str]) -> str:
    """What may have been meant of the ``known`` names, as a question; empty where none is near."""
    found = difflib.get_close_matches(name, list(known), 3)
    return f"did you mean {' or '.join(found)}?" if found else ""


def hint(name: str, known: Iterable[str]) -> str:
    """As `near`; where none is, what there is."""
    every = list(known)
    if len(every) > MANY:
        some = difflib.get_close_matches(name, every, MANY // 2, 0)
        return near(name, every) or f"the nearest of {len(every)} are: {', '.join(some)}"
    return near(name, every) or f"there are: {', '.join(every) or 'none'}"
