"""Dataset formats; one file or folder per format.

A file exports ``READER``, a subclass of `Reader` with two class methods: ``accepts(location: Location) -> bool``, true
for locations of this format only, and ``open(location: Location) -> Reader``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from clipzoo.files import AnyPath, read_at
from clipzoo.readers._formats import PLUGINS, ReaderPlugin, open_location
from clipzoo.readers._location import IMAGES, Location
from clipzoo.readers._rows import ROW, RowReader
from clipzoo.readers.base import Entry, Reader, Span, prefetched, spread

__all__ = [
    "IMAGES", "PLUGINS", "ROW", "Entry", "Location", "Reader", "ReaderPlugin", "RowReader", "Span", "fingerprint",
    "open_dataset", "prefetched", "read_at", "shard_fingerprint", "spread",
]  # fmt: skip


def open_dataset(
    location: AnyPath, captions: Literal["required", "optional"] = "required", fields: Sequence[str] = ()
) -> Reader:
    """Open the dataset at ``location``: a folder, file, list, or glob or brace pattern, with options after ``?``.

    docs/data.md describes the formats and their options. If captions are optional, an image without a readable
    caption is a usable sample whose caption is "": for true labels and benchmarks, which need no captions. The option
    ``captions=optional`` of a location has the same meaning.
    ``fields`` names caption fields that samples carry in `Sample.fields`: columns, members and fields of ``.json``.

    Raises:
        DatasetError: there is no data, or its format is unknown or ambiguous.
        RemoteError: its address cannot be reached.
    """
    parsed = Location.parse(os.fspath(location))
    return open_location(replace(parsed, captions=parsed.captions and captions == "required", fields=tuple(fields)))


def fingerprint(reader: Reader) -> dict[str, object]:
    """Return a fingerprint of a dataset: the names of its shards, and the keys and image sizes of the first one.

    Returns:
        plain JSON values: ``sha256`` (hex), ``shards`` (count), ``first`` (name of the first shard), ``samples``
        (count in the first shard). Equal for equal data at any location. Images of the first shard that were encoded
        again under the same keys change it by their sizes in bytes.
    """
    first = reader.shards[0]
    entries = reader.index(first)
    identity = ["", reader.identity] if reader.identity else []
    text = "\n".join([*reader.shards, "", *_pictures(entries), *identity]).encode("utf-8", "surrogateescape")
    return {
        "sha256": hashlib.sha256(text).hexdigest(),
        "shards": len(reader.shards),
        "first": first,
        "samples": len(entries),
    }


def shard_fingerprint(reader: Reader, shard: str, entries: Sequence[Entry] = ()) -> str:
    """Return the SHA-256 of a shard's keys, the sizes of its images, and its `Reader.contents`.

    ``entries`` is the index of the shard, if the caller has it.
    """
    lines = [*_pictures(entries or reader.index(shard)), "", reader.contents(shard)]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _pictures(entries: Sequence[Entry]) -> list[str]:
    """Return "<key> <size in bytes>" of each image."""
    return [f"{entry.key} {entry.members.get(entry.image, (0, 0))[1]}" for entry in entries]
