"""Your own expert: ``python:package.module:Class``, importable from the working directory or installed.

The class is a subclass of `clipzoo.experts.Expert` that is made without arguments and has a ``card``. A card without
a ``revision`` gets a hash of the class's source file: labels of an edited expert are not mixed with earlier ones.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

from clipzoo.errors import ClipzooError, ExpertError
from clipzoo.experts.base import Expert, ExpertCard, sha256


def runs_code(name: str) -> bool:
    """True: the class is imported."""
    return True


def create(name: str) -> Expert:
    """The expert of ``module:Class``, its card's URI set to the one it was called by.

    Raises:
        ExpertError: the module, the class, or what it makes is not an expert; the message says which.
    """
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        raise ExpertError(
            f"'python:{name}' names no class; write python:<module>:<Class>, as python:my_expert:MyExpert"
        )
    made = _class(module_name, class_name)
    try:
        expert = made()
    except ClipzooError:
        raise
    except Exception as error:
        raise ExpertError(
            f"{module_name}.{class_name}() raised {type(error).__name__}: {error}; an expert is made without "
            "arguments, and loads in load()"
        ) from error
    card = getattr(expert, "card", None)
    if not isinstance(card, ExpertCard):
        raise ExpertError(f"{class_name}.card is {card!r}; set it to an ExpertCard in the class or in __init__")
    revision = card.revision or _source(made)
    expert.card = dataclasses.replace(card, uri=f"python:{name}", revision=revision)
    return expert


def _source(made: type[Expert]) -> str:
    """A hash of the file that defines the class: an edited expert is another one."""
    file = getattr(sys.modules.get(made.__module__), "__file__", None)
    return f"source {sha256(Path(file))[:16]}" if file and Path(file).is_file() else ""


def _class(module_name: str, class_name: str) -> type[Expert]:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # stays there: the module's own late imports need it, too
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ExpertError(
            f"cannot import {module_name!r} from {here} or the installed packages: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Expert)):
        raise ExpertError(
            f"{module_name}.{class_name} is {found!r}; it must be a subclass of clipzoo.experts.Expert"
            + ("" if found is not None else f": {module.__file__} defines no such name")
        )
    return found
