"""Results of finished shards of a dataset check, kept in a folder so that a check resumes.

A shard is a file of JSON lines, compressed: a header, and one line per sample. It is written whole, and read again only
if the header is that of the shard as it is now.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from clipzoo import files
from clipzoo.checking.findings import ScannedSample
from clipzoo.readers import Reader
from clipzoo.types import MAX_PIXELS, Failure, hash64

FORMAT = 1
"""Raised when the results of a sample change their meaning."""

ENDING = ".jsonl.gz"
"""Ending of the file of a shard."""

Scanned = tuple[int, ScannedSample]
"""The number of an entry in its shard, and its result."""


def holds_results(folder: Path) -> bool:
    """Return True if a folder is one of kept results."""
    return any((folder / "shards").rglob(f"*{ENDING}"))


class Kept:
    """The kept results of a dataset in a folder.

    A shard has changed if the size or the time of modification of its files has changed, or the options of the
    location. For tables, the pictures in other files are not compared.
    """

    def __init__(self, folder: Path, reader: Reader) -> None:
        self.folder, self.reader = folder / "shards", reader
        self.options = reader.location.partition("?")[2]
        self.reused = 0
        self._headers: dict[str, bytes] = {}

    def has(self, shard: str) -> bool:
        """Return True if there are results of the shard as it is now."""
        header = self._header(shard)
        try:
            with gzip.open(self._path(shard), "rb") as file:
                return bool(header) and file.readline() == header
        except (OSError, EOFError, zlib.error):
            return False

    def load(self, shard: str) -> list[Scanned] | None:
        """Return the results of a shard; None if there are none, or the shard has changed since."""
        header = self._header(shard)
        try:
            with gzip.open(self._path(shard), "rb") as file:
                first, *lines = file.readlines()
        except (OSError, EOFError, ValueError, zlib.error):
            return None
        if not header or first != header:
            return None
        self.reused += 1
        return [_parsed(line) for line in lines]

    def save(self, shard: str, scanned: Sequence[Scanned]) -> None:
        """Write the results of a finished shard, unless a sample could not be read, which may be temporary."""
        header = self._header(shard)
        if header and not any(one.failure and one.failure.code == "cannot-read" for _, one in scanned):
            lines = [json.dumps([number, asdict(one)]).encode() + b"\n" for number, one in scanned]
            files.write(self._path(shard), gzip.compress(header + b"".join(lines), 5, mtime=0))

    def _path(self, shard: str) -> Path:
        return self.folder / f"{hash64(shard.encode('utf-8', 'surrogateescape')):016x}{ENDING}"

    def _header(self, shard: str) -> bytes:
        """Return the first line of a shard's file; empty if changes of the shard cannot be detected.

        It is that of the first call, so that a shard that changes while it is scanned does not keep old results.
        """
        if shard not in self._headers:
            stamp = self.reader.stamp(shard)
            values = [FORMAT, shard, self.options, self.reader.identity, MAX_PIXELS]
            self._headers[shard] = json.dumps([*values, stamp]).encode() + b"\n" if stamp else b""
        return self._headers[shard]


def _parsed(line: bytes) -> Scanned:
    number, values = json.loads(line)
    failure = values.pop("failure")
    values["size"], values["fields"] = tuple(values["size"]), tuple(values["fields"])
    return number, ScannedSample(failure=Failure(**failure) if failure else None, **values)
