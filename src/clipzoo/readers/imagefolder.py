"""Hugging Face's imagefolder: images, and a ``metadata.csv`` or ``metadata.jsonl`` with one row per image.

A row names its image by ``file_name``, relative to the folder of the table; a key is the path below the dataset's
folder without the extension. Options as for CSV tables. The reader of tars reads such tables inside of tars.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place, read_at
from clipzoo.readers._location import Location, listing
from clipzoo.readers._rows import OPTIONS, ROWS, Columns, Part, RowReader, digest, named, states_of
from clipzoo.readers._samples.images import ImageFolder
from clipzoo.readers.base import Reader, Span
from clipzoo.readers.table import LINE, Table
from clipzoo.readers.webdataset.metadata import NAME
from clipzoo.types import Failure


class _RelativeToTable(RowReader):
    """Rows whose images are relative to the folder of their table."""

    def image_folder(self, location: Location, path: Place) -> ImageFolder:
        """Return the folder of the dataset; names are extended by the table's folder. See `RowReader.image_folder`."""
        return ImageFolder.of(location)

    def key_of(self, path: Place, key: str) -> str:
        """Return the name of the file without its extension; see `RowReader.key_of`."""
        by_name = key and self.columns[path].key == NAME
        return posixpath.splitext(self._below(path, key))[0] if by_name else key

    def image_of(self, path: Place, value: object) -> object:
        """See `RowReader.image_of`."""
        return self._below(path, value) if isinstance(value, str) and value else value

    def _below(self, path: Place, name: str) -> str:
        """Return the name, relative to the root, of a file that a table names."""
        root = self.images[path].root
        above = root if root in path.parents else self.folder
        folder = path.parent.relative_to(above)  # type: ignore[arg-type]  # both are on a disk, or on one network
        return posixpath.normpath(posixpath.join(folder.as_posix(), name))


class _Lines(RowReader):
    """JSON objects, one per line, read by the offsets of their lines."""

    def __init__(self, location: Location, paths: Mapping[str, Place]) -> None:
        states = states_of(paths.values())
        columns = {path: replace(_columns(path, location), drawn=location.fields) for path in paths.values()}
        parts = {name: part for file, path in paths.items() for name, part in named(file, _cut(path)).items()}
        super().__init__(location, parts, columns, states)
        self.identity = self.contents(next(iter(parts)))

    def rows(self, part: Part) -> Iterator[tuple[Span, str, Failure | None]]:
        """See `RowReader.rows`."""
        key = self.columns[part.path].key
        with files.open_file(part.path) as file:
            file.seek(part.offset)
            for (offset, line), _ in zip(_lines(file), range(part.rows), strict=False):
                row = _row(line)
                failure = None if row else Failure("invalid-text", "the row cannot be read: it is not a JSON object")
                given = row.get(key) if row else None
                yield (offset, len(line)), "" if given is None else str(given), failure

    def values(self, path: Place, span: Span) -> Mapping[str, object]:
        """See `RowReader.values`."""
        row = self.text_values(path, span)
        return {name: row.get(name) for name in self.columns[path].names}

    def text_values(self, path: Place, span: Span) -> Mapping[str, object]:
        """See `RowReader.text_values`."""
        try:
            row = _row(read_at(path, *span))
        except OSError as error:
            raise SampleError(f"cannot read {path}: {error.strerror}", "cannot-read") from error
        if row is None:
            raise SampleError(f"{path} has changed since it was indexed: index it again", "cannot-read")
        return row

    def contents(self, shard: str) -> str:
        """Return a digest of the spans and keys of its rows."""
        rows = self.rows(self._part(shard))
        return digest([(span, key, MALFORMED if failure else "") for span, key, failure in rows])


class CsvFolder(_RelativeToTable, Table):
    """Images with a ``metadata.csv``."""


class LinesFolder(_RelativeToTable, _Lines):
    """Images with a ``metadata.jsonl``."""


class ImageFolders(Reader):
    """The format of both kinds of tables."""

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Return True if the captions of images are in such a table only; see `Location.imagefolder`."""
        return location.imagefolder

    @classmethod
    def open(cls, location: Location) -> Reader:
        """Open the images that the tables in a folder, and in those below it, name.

        Raises:
            DatasetError: there is no table, there are both kinds, or columns are missing.
        """
        location.allow(*OPTIONS, "sep")
        metadata = location.metadata
        if not all(location.folder in path.parents for path in metadata):  # they are listed, or match a pattern
            location = replace(location, path=str(listing.files(location.path)[0]))
        paths = {path.relative_to(location.folder).as_posix(): path for path in metadata}  # type: ignore[arg-type]
        kinds = {name.rpartition(".")[2] for name in paths}
        if len(kinds) != 1:
            raise DatasetError(
                f"{location.path!r} has metadata of {len(kinds)} kinds; an imagefolder has metadata.csv or "
                "metadata.jsonl: give a folder with one of them"
            )
        by_name = replace(location, options={"image": NAME, "key": NAME, **location.options})
        return CsvFolder(by_name, paths) if kinds == {"csv"} else LinesFolder(by_name, paths)


READER = ImageFolders

MALFORMED = "the row cannot be read: it is no JSON object"
"""A constant in digests of malformed rows. It must not change: stores recognize their datasets by digests."""


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of every line that is not empty; a line that is too long is cut."""
    while line := file.readline(LINE):
        offset = file.tell() - len(line)
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(LINE)):
            pass
        if line.strip():
            yield offset, line


def _row(line: bytes) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _columns(path: Place, location: Location) -> Columns:
    """Return the columns by the fields of the first object; by those of all objects if some are missing there."""
    with listing.readable(path), files.open_file(path) as file:
        rows = filter(None, (_row(line) for _, line in _lines(file)))
        fields = dict.fromkeys(next(rows, {}))
        if not fields:
            raise DatasetError(f"no line of {path} is a JSON object; write one per line, with {NAME} and a caption")
        try:
            return Columns.of([*fields], location, path)
        except DatasetError:
            for row in rows:
                fields |= dict.fromkeys(row)
            return Columns.of([*fields], location, path)


def _cut(path: Place) -> list[Part]:
    """Return the file's shards, by one pass over its lines."""
    starts: list[int] = []
    total = 0
    with listing.readable(path), files.open_file(path) as file:
        for offset, _ in _lines(file):
            if total % ROWS == 0:
                starts.append(offset)
            total += 1
    return [Part(path, i * ROWS, min(ROWS, total - i * ROWS), at) for i, at in enumerate(starts)] or [Part(path)]
