"""Plugins by name: modules of a plugin folder, or entry points of installed packages.

A plugin's name is its file name. Other packages add plugins by entry points in the group ``clipzoo.<folder>``, for
example ``clipzoo.tasks`` (docs/extending.md). Each folder declares a `Registry`, typed by the Protocol of its modules.
"""

from __future__ import annotations

import ast
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
"""Longer lists of names are reduced to the most similar ones."""

SHARED = frozenset({
    "arrays", "base", "boxes", "decode", "experts.calls", "families", "frames", "layers", "levels", "maps", "masked",
    "options", "palettes", "rle", "tasks.png",
})  # fmt: skip
"""Public modules of plugin folders that are shared by plugins and are not plugins themselves. A name with a folder
stands for the module of this folder alone."""


@dataclass(frozen=True, slots=True)
class Registry(Generic[P]):
    """The plugins of one folder.

    Attributes:
        folder: the folder's name below ``clipzoo/``, and of the entry-point group: "tasks", "heads", …
        exports: names that a module must have, as its Protocol ``P`` declares them.
        required_of_installed: further names that a module of another package must have.
        noun: of one plugin, as users know it; default: that of the folder.
        option: of the command line or field of a recipe that takes its name, if there is one.
    """

    folder: str
    exports: tuple[str, ...]
    required_of_installed: tuple[str, ...] = ()
    noun: str = ""
    option: str = ""

    def names(self) -> tuple[str, ...]:
        """Return the names of all plugins, sorted; none is imported."""
        return names(self.folder)

    def installed(self) -> Mapping[str, EntryPoint]:
        """Return the plugins of other packages by name."""
        return installed(self.folder)

    def load(self, name: str) -> P:
        """Return the module of a plugin.

        Raises:
            PluginError: there is no plugin of this name, or an installed one cannot be imported or misses an export.
        """
        return cast("P", _load(self, name))

    def description(self, name: str) -> str:
        """Return the docstring of a plugin's module; only those of other packages are imported.

        Raises:
            PluginError: as of `load`.
        """
        if name not in self.names() or name in self.installed():
            return _load(self, name).__doc__ or ""
        return ast.get_docstring(ast.parse(self._source(name))) or ""

    def mentions(self, name: str, export: str) -> bool:
        """Return True if the file of a built-in plugin has the word ``export``; it is not imported."""
        return export in self._source(name)

    def _source(self, name: str) -> str:
        module = Path(__file__).parent.joinpath(*self.folder.split("."), name)
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        return file.read_text(encoding="utf-8")


@cache
def names(folder: str) -> tuple[str, ...]:
    """Return the names of all plugins of a folder, sorted; not even the folder is imported."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent.joinpath(*folder.split(".")))])
    built_in = {module.name for module in modules if not module.name.startswith("_")}
    plugins = {name for name in built_in if not {name, f"{folder}.{name}"} & SHARED}
    return tuple(sorted(plugins | {*installed(folder)}))


@cache
def installed(folder: str) -> Mapping[str, EntryPoint]:
    """Return the plugins that other packages add to a folder, by name."""
    return {point.name: point for point in entry_points(group=f"clipzoo.{folder}")}


@cache  # called for every label that is decoded; searching the installed packages is slow
def _load(registry: Registry[P], name: str) -> ModuleType:
    known = registry.names()
    if name not in known:
        noun, place = registry.noun or f"{registry.folder} plugin", f" ({registry.option})" if registry.option else ""
        raise PluginError(f"there is no {noun} {name!r}{place}; {hint(name, known)}")
    point = registry.installed().get(name)
    return _import(registry, point) if point else importlib.import_module(f"clipzoo.{registry.folder}.{name}")


def _import(registry: Registry[P], point: EntryPoint) -> ModuleType:
    what = f"the entry point {point.name} = {point.value!r} of the group clipzoo.{registry.folder}"
    try:
        module: ModuleType = point.load()
    except Exception as error:  # third-party code
        raise PluginError(
            f"{what} cannot be loaded ({type(error).__name__}: {error}); fix or uninstall its package"
        ) from error
    required = registry.exports + registry.required_of_installed
    if missing := [name for name in required if not hasattr(module, name)]:
        raise PluginError(f"{what} has no {' and no '.join(missing)}; docs/extending.md shows what it must have")
    return module


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return the most similar ``known`` names as a question; "" if none is similar."""
    matches = difflib.get_close_matches(name, list(known), most)
    return f"did you mean {' or '.join(matches)}?" if matches else ""


def hint(name: str, known: Iterable[str]) -> str:
    """Return `nearest`, or the available names if none is similar."""
    every = list(known)
    if len(every) > LISTED:
        some = difflib.get_close_matches(name, every, LISTED // 2, 0)
        return nearest(name, every) or f"the nearest of {len(every)} are: {', '.join(some)}"
    return nearest(name, every) or f"there are: {', '.join(every) or 'none'}"
