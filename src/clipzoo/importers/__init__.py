"""Existing labels as experts; one file per format, named by the scheme of its URIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from clipzoo import experts
from clipzoo.importers.base import Importer
from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "Importer", "ImporterPlugin", "create"]


class ImporterPlugin(Protocol):
    """A module of ``importers/``; its name is the format of the labels and the scheme of their URIs."""

    create: Callable[[str], Importer]
    """Create the importer of the part of a URI after the scheme: the source and its options."""


PLUGINS: Registry[ImporterPlugin] = Registry("importers", ("create",), noun="import format", option="--format")


def create(format: str, source: str) -> Importer:
    """Return the importer of ``source``, a location with options, in a format of `PLUGINS`.

    Raises:
        ExpertError: an option is missing or invalid, or the source cannot be read.
        PluginError: the format is unknown, or its package cannot be imported.
    """
    return experts.with_canonical_uri(PLUGINS.load(format).create(source))
