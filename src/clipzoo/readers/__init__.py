"""Dataset formats; one file a format.

A file exports ``READER``, a subclass of `Reader` with two class methods: ``accepts(location: Location) -> bool``, true
for locations of this format only, and ``open(location: Location) -> Reader``.
"""

from __future__ import annotations

import hashlib
from typing import Any

from clipzoo.readers._files import read_at
from clipzoo.readers._formats import open_location
from clipzoo.readers._location import Location
from clipzoo.readers.base import Entry, Reader, Span

__all__ = ["Entry", "Location", "Reader", "Span", "fingerprint", "open_dataset", "read_at"]


def open_dataset(location: str) -> Reader:
    """The dataset at ``location``: a folder, a file, or a glob or brace pattern, and options behind ``?``.

    The formats and their options are in docs/data.md.

    Raises:
        DatasetError: nothing is there, or no format or more than one knows it.
    """
    return open_location(Location.parse(location))


def fingerprint(reader: Reader) -> dict[str, Any]:
    """What tells a dataset from another without reading it: its shards' names, the first one's keys, its identity.

    Returns:
        plain JSON values: ``sha256`` (hex), ``shards`` (count), ``first`` (name of the first shard), ``samples``
        (count in the first shard). Equal for equal data wherever it lies; changed pixels are not seen.
    """
    first = reader.shards[0]
    keys = [entry.key for entry in reader.index(first)]
    identity = ["", reader.identity] if reader.identity else []
    text = "\n".join([*reader.shards, "", *keys, *identity]).encode("utf-8", "surrogateescape")
    return {
        "sha256": hashlib.sha256(text).hexdigest(),
        "shards": len(reader.shards),
        "first": first,
        "samples": len(keys),
    }
