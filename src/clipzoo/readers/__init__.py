"""Dataset formats; one file a format.

A file exports ``READER``, a subclass of `Reader` with two class methods: ``accepts(location) -> bool`` and
``open(location) -> Reader``.
"""

from __future__ import annotations

import hashlib
from typing import Any

from clipzoo import plugins
from clipzoo.errors import DatasetError
from clipzoo.readers._files import read_at
from clipzoo.readers.base import Entry, Reader, Span

__all__ = ["Entry", "Reader", "Span", "fingerprint", "open_dataset", "read_at"]


def open_dataset(location: str) -> Reader:
    """The dataset at ``location``: a folder of shards, one shard, or a glob or brace pattern of them.

    Raises:
        DatasetError: nothing is there, or no format knows it.
    """
    formats = plugins.names("readers")
    for name in formats:
        reader = plugins.load("readers", name).READER
        if reader.accepts(location):
            opened: Reader = reader.open(location)
            return opened
    raise DatasetError(f"no reader knows {location!r}; there are: {', '.join(formats)}")


def fingerprint(reader: Reader) -> dict[str, Any]:
    """What tells a dataset from another without reading it: its shards' names and the first one's keys.

    Returns:
        plain JSON values: ``sha256`` (hex), ``shards`` (count), ``first`` (name of the first shard), ``samples``
        (count in the first shard). Equal for equal data wherever it lies; changed pixels are not seen.
    """
    first = reader.shards[0]
    keys = [entry.key for entry in reader.index(first)]
    text = "\n".join([*reader.shards, "", *keys]).encode("utf-8", "surrogateescape")
    return {
        "sha256": hashlib.sha256(text).hexdigest(),
        "shards": len(reader.shards),
        "first": first,
        "samples": len(keys),
    }
