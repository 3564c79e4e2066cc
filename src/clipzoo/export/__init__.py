"""Export of trained students, one file for each format, which also measures the parity with the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "ExportPlugin"]


class ExportPlugin(Protocol):
    """A module of this folder."""

    export: Callable[..., Mapping[str, Any]]
    """(student, folder, images, captions, card, heads) -> parity. Writes the folder and measures its parity."""

    sentence: Callable[[Mapping[str, Any]], str]
    """Parity -> its sentence in the README of the export."""


PLUGINS: Registry[ExportPlugin] = Registry("export", ("export", "sentence"))
