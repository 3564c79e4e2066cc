"""Dataset formats; one file a format.

A file exports ``READER``, a subclass of `Reader` with two class methods: ``accepts(location: Location) -> bool``, true
for locations of this format only, and ``open(location: Location) -> Reader``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from clipzoo.files import AnyPath, read_at
from clipzoo.readers._formats import PLUGINS, ReaderPlugin, open_location
from clipzoo.readers._location import IMAGES, Location
from clipzoo.readers._rows import ROW, RowReader
from clipzoo.readers.base import Entry, Reader, Span, prefetched, spread

__all__ = [
    "IMAGES", "PLUGINS", "ROW", "Entry", "Location", "Reader", "ReaderPlugin", "RowReader", "Span", "fingerprint",
    "open_dataset", "prefetched", "read_at", "shard_fingerprint", "spread",
]  # fmt: skip


def open_dataset(location: AnyPath, captions: Literal["required", "optional"] = "required") -> Reader:
    """The dataset at ``location``: a folder, file, list, or glob or brace pattern, and options behind ``?``.

    The formats and their options are in docs/data.md. Where captions are optional, a picture without one, or with one
    that cannot be read, is a usable sample whose caption is "": for label truth and benchmarks, which need none.

    Raises:
        DatasetError: nothing is there, or no format or more than one knows it.
        RemoteError: its address cannot be reached.
    """
    return open_location(replace(Location.parse(os.fspath(location)), captions=captions == "required"))


def fingerprint(reader: Reader) -> dict[str, Any]:
    """What tells a dataset from another without reading it: its shards' names and the first one's keys and sizes.

    Returns:
        plain JSON values: ``sha256`` (hex), ``shards`` (count), ``first`` (name of the first shard), ``samples``
        (count in the first shard). Equal for equal data wherever it lies. Pictures that were encoded anew under the
        same keys are seen by their sizes in bytes, in the first shard.
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
    """What tells a shard from another one of its name: SHA-256 of its keys and the sizes of its pictures.

    Where keys are numbers of rows, what they refer to is in it, too (`Reader.contents`). ``entries`` is its index, for
    who has it already.
    """
    told = [*_pictures(entries or reader.index(shard)), "", reader.contents(shard)]
    return hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()


def _pictures(entries: Sequence[Entry]) -> list[str]:
    """Key and bytes of each picture."""
    return [f"{entry.key} {entry.members.get(entry.image, (0, 0))[1]}" for entry in entries]
