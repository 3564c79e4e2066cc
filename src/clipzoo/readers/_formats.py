"""Selection of the format of a location."""

from __future__ import annotations

from typing import Protocol

from clipzoo.errors import DatasetError
from clipzoo.plugins import Registry
from clipzoo.readers._location import Location, listing
from clipzoo.readers.base import Reader


class ReaderClass(Protocol):
    """A subclass of `Reader` with two class methods."""

    def accepts(self, location: Location) -> bool:
        """Return True if the location is of this format; at most one format accepts a location."""

    def open(self, location: Location) -> Reader:
        """Return the dataset at the location; `DatasetError` if it cannot be read as a whole."""


class ReaderPlugin(Protocol):
    """A module of this folder."""

    READER: ReaderClass


PLUGINS: Registry[ReaderPlugin] = Registry("readers", ("READER",), noun="dataset format")


def open_location(location: Location) -> Reader:
    """Open a dataset by the format that accepts its location, or that its option ``format`` names.

    Raises:
        DatasetError: no format accepts it, or several do.
        PluginError: there is no such format.
    """
    requested = location.options.get("format")
    known = {name: PLUGINS.load(name).READER for name in PLUGINS.names()}
    accepting = [requested] if requested is not None else []
    if requested is None:
        accepting = [name for name, reader in known.items() if reader.accepts(location)]
    if not accepting:
        raise listing.nothing(location.path)
    if len(accepting) > 1:
        ways = " or ".join(f"'{location.path}?format={name}'" for name in accepting)
        raise DatasetError(
            f"{location.path!r} holds data of several formats ({', '.join(accepting)}), and only one can be read: give "
            f"{ways}, or a folder or file of one format"
        )
    opened = PLUGINS.load(accepting[0]).READER.open(location)
    opened.folders += location.whole
    opened.drawn = location.fields
    opened.reads_texts |= bool(location.fields)
    opened.captions_optional |= not location.captions
    return opened
