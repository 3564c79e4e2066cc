"""A name -> the module that bears it: a file of a folder, or an installed entry point.

The file name is the plugin's name and ``ls`` is the registry. A third party adds one without touching this
package by an entry point in the group ``clipzoo.<folder>``, for example ``clipzoo.tasks``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from clipzoo.errors import PluginError


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
        near = difflib.get_close_matches(name, known, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
        raise PluginError(f"clipzoo/{folder} has no {name!r}; {hint}")
    for point in entry_points(group=f"clipzoo.{folder}"):
        if point.name == name:
            module: ModuleType = point.load()
            return module
    return importlib.import_module(f"clipzoo.{folder}.{name}")
