"""A name -> the module that bears it: a file of a folder, or an installed entry point.

The file name is the plugin's name and ``ls`` is the registry. A third party adds one without touching this
package by an entry point in the group ``clipzoo.<folder>``, for example ``clipzoo.tasks``: docs/extending.md.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from clipzoo.errors import PluginError

MANY = 20
"""More names than these are not listed."""

EXPORTS = {
    "tasks": ("TASK",),
    "losses": ("loss", "learns"),
    "heads": ("Head",),
    "readers": ("READER",),
    "experts": ("create",),
    "importers": ("create",),
    "derived": ("create",),
    "evaluation.datasets": ("read",),
    "export": ("export", "sentence"),
}
"""Folder -> what the module behind an entry point has."""


@cache
def names(folder: str) -> tuple[str, ...]:
    """Names of all plugins of ``folder`` ("tasks", "heads", …), sorted; none is imported."""
    package = importlib.import_module(f"clipzoo.{folder}")
    own = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base" and m.name[0] != "_"]
    return tuple(sorted({*own, *installed(folder)}))


@cache
def installed(folder: str) -> Mapping[str, EntryPoint]:
    """Those that other packages bring, by name."""
    return {point.name: point for point in entry_points(group=f"clipzoo.{folder}")}


@cache  # called for every label that is decoded; a look through the installed packages is slow
def load(folder: str, name: str) -> ModuleType:
    """The module of plugin ``name`` of ``folder``.

    Raises:
        PluginError: no plugin bears the name (the message offers the nearest ones), or one that is installed is none.
    """
    known = names(folder)
    if name not in known:
        raise PluginError(f"clipzoo/{folder} has no {name!r}; {hint(name, known)}")
    point = installed(folder).get(name)
    return _module(folder, point) if point else importlib.import_module(f"clipzoo.{folder}.{name}")


def _module(folder: str, point: EntryPoint) -> ModuleType:
    what = f"the entry point {point.name} = {point.value!r} of the group clipzoo.{folder}"
    try:
        module: ModuleType = point.load()
    except Exception as error:  # anybody's code
        raise PluginError(
            f"{what} cannot be loaded ({type(error).__name__}: {error}); mend or uninstall its package"
        ) from error
    if lacking := [name for name in EXPORTS.get(folder, ()) if not hasattr(module, name)]:
        raise PluginError(f"{what} has no {' and no '.join(lacking)}; docs/extending.md shows what it has to have")
    return module


def near(name: str, known: Iterable[str], most: int = 3) -> str:
    """What may have been meant of the ``known`` names, as a question; empty where none is near."""
    found = difflib.get_close_matches(name, list(known), most)
    return f"did you mean {' or '.join(found)}?" if found else ""


def hint(name: str, known: Iterable[str]) -> str:
    """As `near`; where none is, what there is."""
    every = list(known)
    if len(every) > MANY:
        some = difflib.get_close_matches(name, every, MANY // 2, 0)
        return near(name, every) or f"the nearest of {len(every)} are: {', '.join(some)}"
    return near(name, every) or f"there are: {', '.join(every) or 'none'}"
