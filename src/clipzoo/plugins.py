"""Plugins: a name -> the module of a folder that bears it, or an installed entry point.

The file name is the plugin's name and ``ls`` is the registry. Another package adds a plugin by an entry point in the
group ``clipzoo.<folder>``, for example ``clipzoo.tasks``: docs/extending.md. Each folder declares a `Registry`, typed
by the Protocol that its modules follow.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar, cast

from clipzoo.errors import PluginError

P = TypeVar("P")

LISTED = 20
"""Lists of more names are cut to the nearest ones."""

SHARED = frozenset({"base", "layers", "maps", "masked", "png", "rle"})
"""Public modules of plugin folders that are no plugins: what the plugins share."""


@dataclass(frozen=True, slots=True)
class Registry(Generic[P]):
    """The plugins of one folder.

    Attributes:
        folder: the folder's name below ``clipzoo/``, and of the entry-point group: "tasks", "heads", …
        exports: names that a module must have, as its Protocol ``P`` declares them.
        required_of_installed: further names that a module of another package must have.
    """

    folder: str
    exports: tuple[str, ...]
    required_of_installed: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return the names of all plugins, sorted; none is imported."""
        return names(self.folder)

    def installed(self) -> Mapping[str, EntryPoint]:
        """Return the plugins of other packages by name."""
        return installed(self.folder)

    def load(self, name: str) -> P:
        """Return the module of a plugin.

        Raises:
            PluginError: no plugin bears the name (the message offers the nearest ones), or an installed one cannot be
                imported or lacks an export.
        """
        return cast("P", _load(self, name))


@cache
def names(folder: str) -> tuple[str, ...]:
    """Return the names of all plugins of a folder, sorted; not even the folder is imported."""
    found = pkgutil.iter_modules([str(Path(__file__).parent.joinpath(*folder.split(".")))])
    own = {module.name for module in found if not module.name.startswith("_")}
    return tuple(sorted(own - SHARED | {*installed(folder)}))


@cache
def installed(folder: str) -> Mapping[str, EntryPoint]:
    """Return the plugins that other packages bring to a folder, by name."""
    return {point.name: point for point in entry_points(group=f"clipzoo.{folder}")}


@cache  # called for every label that is decoded; searching the installed packages is slow
def _load(registry: Registry[P], name: str) -> ModuleType:
    known = registry.names()
    if name not in known:
        raise PluginError(f"clipzoo/{registry.folder} has no {name!r}; {hint(name, known)}")
    point = registry.installed().get(name)
    return _import(registry, point) if point else importlib.import_module(f"clipzoo.{registry.folder}.{name}")


def _import(registry: Registry[P], point: EntryPoint) -> ModuleType:
    what = f"the entry point {point.name} = {point.value!r} of the group clipzoo.{registry.folder}"
    try:
        module: ModuleType = point.load()
    except Exception as error:  # anybody's code
        raise PluginError(
            f"{what} cannot be loaded ({type(error).__name__}: {error}); fix or uninstall its package"
        ) from error
    required = registry.exports + registry.required_of_installed
    if missing := [name for name in required if not hasattr(module, name)]:
        raise PluginError(f"{what} has no {' and no '.join(missing)}; docs/extending.md shows what it must have")
    return module


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return the ``known`` names that were probably meant, as a question; empty where none is similar."""
    found = difflib.get_close_matches(name, list(known), most)
    return f"did you mean {' or '.join(found)}?" if found else ""


def hint(name: str, known: Iterable[str]) -> str:
    """Return `nearest`, or the available names where none is similar."""
    every = list(known)
    if len(every) > LISTED:
        some = difflib.get_close_matches(name, every, LISTED // 2, 0)
        return nearest(name, every) or f"the nearest of {len(every)} are: {', '.join(some)}"
    return nearest(name, every) or f"there are: {', '.join(every) or 'none'}"
