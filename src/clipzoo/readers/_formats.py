"""Which format a location is of."""

from __future__ import annotations

from typing import Protocol

from clipzoo.errors import DatasetError
from clipzoo.plugins import Registry
from clipzoo.readers._location import Location, listing
from clipzoo.readers.base import Reader


class ReaderClass(Protocol):
    """A subclass of `Reader` with two class methods."""

    def accepts(self, location: Location) -> bool:
        """Whether the location is of this format; true for one format only."""

    def open(self, location: Location) -> Reader:
        """Return the dataset at the location; `DatasetError` if it cannot be read as a whole."""


class ReaderPlugin(Protocol):
    """A module of this folder."""

    READER: ReaderClass


PLUGINS: Registry[ReaderPlugin] = Registry("readers", ("READER",))


def open_location(location: Location) -> Reader:
    """The dataset at a location, by the one format that accepts it or that its option ``format`` names.

    Raises:
        DatasetError: no format accepts it, or several do.
        PluginError: there is no such format.
    """
    wanted = location.options.get("format")
    known = {name: PLUGINS.load(name).READER for name in PLUGINS.names()}
    fitting = [name for name, reader in known.items() if reader.accepts(location)] if wanted is None else [wanted]
    if not fitting:
        raise listing.nothing(location.path)
    if len(fitting) > 1:
        ways = " or ".join(f"'{location.path}?format={name}'" for name in fitting)
        raise DatasetError(
            f"{location.path!r} holds data of several formats ({', '.join(fitting)}), and only one can be meant: give "
            f"{ways}, or the folder or file that you mean"
        )
    opened = PLUGINS.load(fitting[0]).READER.open(location)
    opened.folders += location.whole
    return opened
