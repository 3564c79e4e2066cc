"""Trusted code: the user's confirmations, stored in the user's configuration and never next to a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from clipzoo import files


def place() -> Path:
    """Return ``clipzoo/trusted.json`` in the user's configuration folder, ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "clipzoo" / "trusted.json"


def known(code: Iterable[str], recipe: Path) -> bool:
    """Return True if the user has confirmed all of this code for the recipe at this location."""
    return set(code) <= set(_read().get(str(recipe.resolve()), ()))


def remember(code: Sequence[str], recipe: Path) -> None:
    """Store a confirmation; if the configuration cannot be written, the user will be asked again."""
    if known(code, recipe):
        return
    trusted, location = _read(), str(recipe.resolve())
    trusted[location] = sorted({*trusted.get(location, ()), *code})
    with suppress(OSError):
        files.write(place(), json.dumps(trusted, indent=1, ensure_ascii=False).encode())


def listed(code: Sequence[str], recipe: object) -> str:
    """Return the text that lists code for confirmation."""
    return (
        f"{recipe} names Python code that is part of neither clipzoo nor an installed plugin:\n"
        + "".join(f"  {one}\n" for one in code)
        + "This code runs with all your rights"
    )


def _read() -> dict[str, list[str]]:
    """Return absolute path of a recipe -> its trusted code; nothing if the file is missing or damaged."""
    try:
        values = json.loads(place().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {location: list(map(str, code)) for location, code in values.items() if isinstance(code, list)}
