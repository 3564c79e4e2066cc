"""Custom experts: ``python:package.module:Class``, importable from the working directory or installed.

The class is a subclass of `clipzoo.experts.Expert` with a ``card`` and a constructor without arguments. A card without
a ``revision`` gets a hash of the class's source file, so that labels of an edited expert are not mixed with earlier
ones.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

from clipzoo.errors import ClipzooError, ExpertError
from clipzoo.experts.base import Expert, ExpertCard, sha256


def runs_code(name: str) -> bool:
    """Return true: the class is imported."""
    return True


def create(name: str) -> Expert:
    """Return the expert of ``module:Class``; its card gets the complete URI.

    Raises:
        ExpertError: the module cannot be imported, the class is not an expert, or its card is missing.
    """
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        raise ExpertError(
            f"'python:{name}' names no class: write python:<module>:<Class>, such as python:my_expert:MyExpert"
        )
    expert_class = _class(module_name, class_name)
    try:
        expert = expert_class()
    except ClipzooError:
        raise
    except Exception as error:
        raise ExpertError(
            f"{module_name}.{class_name}() raised {type(error).__name__}: {error}. An expert is made without "
            "arguments: move the loading of weights into load()"
        ) from error
    card = getattr(expert, "card", None)
    if not isinstance(card, ExpertCard):
        raise ExpertError(f"{class_name}.card is {card!r}: set it to an ExpertCard in the class or in __init__")
    revision = card.revision or _source_hash(expert_class)
    expert.card = dataclasses.replace(card, uri=f"python:{name}", revision=revision)
    return expert


def _source_hash(expert_class: type[Expert]) -> str:
    """Return a hash of the file that defines the class; empty if there is no such file."""
    file = getattr(sys.modules.get(expert_class.__module__), "__file__", None)
    return f"source {sha256(Path(file))[:16]}" if file and Path(file).is_file() else ""


def _class(module_name: str, class_name: str) -> type[Expert]:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # not removed later: functions of the module may import others
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ExpertError(
            f"cannot import {module_name!r} from {here} or the installed packages: {type(error).__name__}: {error}. "
            "Correct the name, or run the command in the folder of the module"
        ) from error
    value = getattr(module, class_name, None)
    if not (isinstance(value, type) and issubclass(value, Expert)):
        raise ExpertError(
            f"{module.__file__} defines no {class_name}: correct the name"
            if value is None
            else f"{module_name}.{class_name} is {value!r}: make it a subclass of clipzoo.experts.Expert"
        )
    return value
