"""Export of a trained student; one file a format, each of which measures its parity with the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "ExportPlugin"]


class ExportPlugin(Protocol):
    """A module of this folder."""

    export: Callable[..., Mapping[str, Any]]
    """(student, folder, images, captions, card, heads) -> the parity that was measured; writes the folder."""

    sentence: Callable[[Mapping[str, Any]], str]
    """The parity in words."""


PLUGINS: Registry[ExportPlugin] = Registry("export", ("export", "sentence"))
