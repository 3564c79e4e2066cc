"""Custom experts: ``python:package.module:Class``, importable or installed, or ``python:PATH/file.py:Class``.

Modules are imported from the working directory or the installed packages. A file is run as Python runs a script:
modules next to it can be imported.

The class is a subclass of `clipzoo.experts.Expert` with a ``card`` and a constructor without arguments. A card without
a ``revision`` gets a hash of the class's source file, so that labels of an edited expert are not mixed with earlier
ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from clipzoo.errors import ClipzooError, ExpertError
from clipzoo.experts.base import Expert, ExpertCard, sha256

_SOURCES: dict[str, tuple[ModuleSpec | None, str]] = {}
"""Name of a module -> its specification, a new one after each import, and the hash of the file that was executed."""


def runs_code(name: str) -> bool:
    """Return true: the class is imported."""
    return True


def create(name: str) -> Expert:
    """Return the expert of ``module:Class``; its card gets the complete URI.

    Raises:
        ExpertError: the module cannot be imported, the class is not an expert, or its card is missing.
    """
    module_name, colon, class_name = name.rpartition(":")
    if not colon or not module_name or not class_name or class_name.endswith(".py"):
        raise ExpertError(
            f"'python:{name}' names no class: write python:<module>:<Class>, such as python:my_expert:MyExpert, or "
            "python:<path>.py:<Class>"
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
        raise ExpertError(f"{class_name}.card is {_kind(card)}: set it to an ExpertCard in the class or in __init__")
    revision = card.revision or _source_hash(expert_class)
    expert.card = dataclasses.replace(card, uri=f"python:{name}", revision=revision)
    return expert


def _kind(value: object) -> str:
    """Return what a value is, in words."""
    if value is None:
        return "missing"
    return f"the class {value.__name__}" if isinstance(value, type) else f"of the type {type(value).__name__}"


def _source_hash(expert_class: type[Expert]) -> str:
    """Return a hash of the file that defines the class; empty if there is no such file.

    Raises:
        ExpertError: the file has changed since it was imported.
    """
    name = expert_class.__module__
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or not file or not Path(file).is_file():
        return ""
    digest, (spec, executed) = sha256(Path(file)), _SOURCES.get(name, (None, ""))
    if not executed or spec is not module.__spec__:
        _SOURCES[name] = module.__spec__, digest
    elif executed != digest:
        raise ExpertError(
            f"{file} has changed since this process imported it, so {expert_class.__name__} would run the earlier "
            "code: restart Python"
        )
    return f"source {digest[:16]}"


def _class(module_name: str, class_name: str) -> type[Expert]:
    module = _of_file(Path(module_name)) if module_name.endswith(".py") else _imported(module_name)
    value = getattr(module, class_name, None)
    if not (isinstance(value, type) and issubclass(value, Expert)):
        raise ExpertError(
            f"{module.__file__} defines no {class_name}: correct the name"
            if value is None
            else f"{module_name}:{class_name} is {_kind(value)}: make it a subclass of clipzoo.experts.Expert"
        )
    return value


def _of_file(path: Path) -> ModuleType:
    """Run a Python file, once in a process for each content, and return its module."""
    whole = path.resolve()
    try:
        source = whole.read_bytes()
    except OSError as error:
        problem = "cannot be read" if whole.is_file() else "does not exist"
        raise ExpertError(
            f"the file {path} {problem} in {Path.cwd()}: correct the path of python:{path}:<Class>, or run the "
            "command in the folder to which it is relative"
        ) from error
    digest = hashlib.sha256(source).hexdigest()
    name = f"clipzoo_expert_{whole.stem}_{hashlib.sha256(f'{whole} {digest}'.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(whole.parent) not in sys.path:
        sys.path.append(str(whole.parent))
    spec = spec_from_file_location(name, whole)
    assert spec  # its name ends in .py
    module = sys.modules[name] = module_from_spec(spec)
    _SOURCES[name] = module.__spec__, digest
    try:
        # not by the loader: its cache takes a file of the same second and length for the earlier one
        exec(compile(source, whole, "exec", dont_inherit=True), vars(module))
    except Exception as error:  # the user's code
        del sys.modules[name]
        raise ExpertError(f"{path} raises {type(error).__name__}: {error}. Correct this file") from error
    return module


def _imported(module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # not removed later: functions of the module may import others
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        raise ExpertError(
            f"cannot import {module_name!r} from {here} or the installed packages: {type(error).__name__}: {error}. "
            "Correct the name, or run the command in the folder of the module"
        ) from error
