"""Which format a location is of."""

from __future__ import annotations

from clipzoo import plugins
from clipzoo.errors import DatasetError
from clipzoo.readers import _shards
from clipzoo.readers._location import Location
from clipzoo.readers.base import Reader


def open_location(location: Location) -> Reader:
    """The dataset at a location, by the one format that accepts it or that its option ``format`` names.

    Raises:
        DatasetError: no format accepts it, or several do.
        PluginError: there is no such format.
    """
    wanted = location.options.get("format")
    known = {name: plugins.load("readers", name).READER for name in plugins.names("readers")}
    fitting = [name for name, reader in known.items() if reader.accepts(location)] if wanted is None else [wanted]
    if not fitting:
        raise _shards.nothing(location.path)
    if len(fitting) > 1:
        ways = " or ".join(f"'{location.path}?format={name}'" for name in fitting)
        raise DatasetError(
            f"{location.path!r} holds data of several formats ({', '.join(fitting)}), and only one can be meant: give "
            f"{ways}, or the folder or file that you mean"
        )
    opened: Reader = plugins.load("readers", fitting[0]).READER.open(location)
    opened.folders += location.whole
    return opened
