"""docs/reference.md, written from signatures and docstrings: ``python scripts/reference.py``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import clipzoo

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
HEAD = """# Reference

Every public name with its signature and docstring: those of `clipzoo` itself, then those of its rooms. Letters of
shapes: B images of a batch, H and W pixels, C channels, L tokens of a text, D of an embedding. This page is written by
`scripts/reference.py`.
"""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):")


def page() -> str:
    """The whole page."""
    lines, told = [HEAD], dict[int, str]()
    for room in ("clipzoo", *rooms()):
        module = importlib.import_module(room)
        lines += [f"## `{room}`", "", *([] if room == "clipzoo" else prose(module.__doc__)), ""]
        for name in module.__all__:
            lines += entry(f"{room}.{name}", getattr(module, name), told)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def rooms() -> list[str]:
    """Packages of clipzoo that say what is public, by name."""
    names = [f"clipzoo.{m.name}" for m in pkgutil.iter_modules(clipzoo.__path__) if m.ispkg]
    return [name for name in names if hasattr(importlib.import_module(name), "__all__")]


def entry(path: str, thing: Any, told: dict[int, str]) -> Iterator[str]:
    """One public name; what was told under another name is pointed to."""
    name = path.rpartition(".")[2]
    if not callable(thing) or not getattr(thing, "__module__", "").startswith("clipzoo"):
        yield from (f"### `{name}`", "", "A constant or alias of a type; see the source.", "")
        return
    if id(thing) in told:
        yield from (f"### `{name}`", "", f"See `{told[id(thing)]}`.", "")
        return
    told[id(thing)] = path
    yield from (f"### `{name}`", "", *code(name, thing), *prose(thing.__doc__), "")
    if inspect.isclass(thing) and not issubclass(thing, BaseModel):
        yield from members(thing)


def members(cls: type) -> Iterator[str]:
    """Public methods and properties that a class defines itself."""
    for name, raw in vars(cls).items():
        if name.startswith("_"):
            continue
        thing = getattr(raw, "func", None) or getattr(raw, "fget", None) or getattr(raw, "__func__", raw)
        if inspect.isfunction(thing):
            called = f"{cls.__name__}.{name}"
            is_value = isinstance(raw, property) or hasattr(raw, "func")
            yield from (f"#### `{called}`", "", *([] if is_value else code(called, thing)), *prose(thing.__doc__), "")


def code(name: str, thing: Any) -> list[str]:
    """The signature, wrapped; none of a recipe, whose fields have a page of their own."""
    if inspect.isclass(thing) and issubclass(thing, BaseModel):
        return ["Fields: [recipe.md](recipe.md).", ""] if thing.__module__ == "clipzoo.recipe" else []
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return []
    signature = inspect.signature(thing)
    parts: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not any(part.startswith("*") for part in parts):
            parts.append("*")
        parts.append(text(str(parameter)))
    back = signature.return_annotation
    arrow = f" -> {back}" if isinstance(back, str) and back != "None" else ""
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) > 110:
        line = f"{name}(\n    " + ",\n    ".join(parts) + f",\n){arrow}"
    return ["```python", line, "```", ""]


def text(part: str) -> str:
    """A part of a signature without the quotes of annotations and the addresses of functions."""
    plain = re.sub(r"<function .*? at 0x\w+>|<factory>", "…", part)
    return re.sub(r": '(.*?)'", r": \1", plain, count=1)


def prose(docstring: str | None) -> list[str]:
    """A docstring as Markdown: its sections become lists."""
    lines: list[str] = []
    listing = False
    for line in inspect.cleandoc(docstring or "").replace("``", "`").splitlines():
        if found := SECTION.fullmatch(line):
            listing = True
            lines += [f"*{found[1]}*", ""]
        elif listing and re.match(r" {4}\S", line):
            named = re.match(r"([\w, ]+): (.*)", line.strip())
            lines.append(f"- `{named[1]}`: {named[2]}" if named else f"- {line.strip()}")
        elif listing and line.startswith("     "):
            lines[-1] += f" {line.strip()}"
        else:
            listing = listing and not line
            lines.append(line)
    return [*lines, ""]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
