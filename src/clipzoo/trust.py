"""Whose code may run: what the user has said yes to, kept in his own configuration, never beside what it is about."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from clipzoo import files


def place() -> Path:
    """``clipzoo/trusted.json`` in the user's configuration folder, ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "clipzoo" / "trusted.json"


def known(code: Iterable[str], recipe: Path) -> bool:
    """Whether the user has said yes to all of this code, of the recipe in this very place."""
    return set(code) <= set(_read().get(str(recipe.resolve()), ()))


def remember(code: Sequence[str], recipe: Path) -> None:
    """Keep a yes; where the configuration cannot be written the user will be asked again."""
    if known(code, recipe):
        return
    told, where = _read(), str(recipe.resolve())
    told[where] = sorted({*told.get(where, ()), *code})
    with suppress(OSError):
        files.write(place(), json.dumps(told, indent=1, ensure_ascii=False).encode())


def listed(code: Sequence[str], recipe: object) -> str:
    """What is asked about, in words."""
    return (
        f"{recipe} names Python code that is not clipzoo's, nor of an installed plugin:\n"
        + "".join(f"  {one}\n" for one in code)
        + "It runs with all your rights"
    )


def _read() -> dict[str, list[str]]:
    """Absolute place of a recipe -> code in it that the user trusts; a damaged file trusts nothing."""
    try:
        found = json.loads(place().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {where: list(map(str, code)) for where, code in pairs if isinstance(code, list)}
