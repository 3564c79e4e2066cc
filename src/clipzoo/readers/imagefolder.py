"""Hugging Face's imagefolder: images, and a ``metadata.csv`` or ``metadata.jsonl`` that has a row for each.

A row names its image by ``file_name``, from the folder of the table on; a key is the path below the dataset's folder
without the extension. Options as of CSV tables. Inside of tars such tables are read by the reader of tars.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place, read_at
from clipzoo.readers._location import Location
from clipzoo.readers._rows import OPTIONS, ROWS, Columns, Part, RowReader, digest, named
from clipzoo.readers.base import Reader, Span
from clipzoo.readers.table import LINE, Table
from clipzoo.readers.webdataset.metadata import NAME
from clipzoo.types import Failure


class _Beside(RowReader):
    """Rows whose images lie beside their table, wherever that is below the root."""

    def key_of(self, path: Place, key: str) -> str:
        """See `RowReader.key_of`: the name of the file without its extension."""
        by_name = key and self.columns[path].key == NAME
        return posixpath.splitext(self._below(path, key))[0] if by_name else key

    def image_of(self, path: Place, value: Any) -> Any:
        """See `RowReader.image_of`."""
        return self._below(path, value) if isinstance(value, str) and value else value

    def _below(self, path: Place, name: str) -> str:
        """The name from the root on of a file that a table names."""
        folder = path.parent.relative_to(self.images.root)  # type: ignore[arg-type]  # it is above all tables
        return posixpath.normpath(posixpath.join(folder.as_posix(), name))


class _Lines(RowReader):
    """JSON objects, one a line, read by the offsets of their lines."""

    def __init__(self, location: Location, paths: Mapping[str, Place]) -> None:
        columns = {path: Columns.of(_fields(path), location, path) for path in paths.values()}
        parts = {name: part for file, path in paths.items() for name, part in named(file, _cut(path)).items()}
        super().__init__(location, parts, columns)
        self.identity = self.contents(next(iter(parts)))

    def rows(self, part: Part) -> Iterator[tuple[Span, str, Failure | None]]:
        """See `RowReader.rows`."""
        key = self.columns[part.path].key
        with files.open_file(part.path) as file:
            file.seek(part.offset)
            for (offset, line), _ in zip(_lines(file), range(part.rows), strict=False):
                row = _row(line)
                failure = None if row else Failure("invalid-text", "the row cannot be read: it is no JSON object")
                yield (offset, len(line)), str(row.get(key) or "") if row else "", failure

    def values(self, path: Place, span: Span) -> Mapping[str, Any]:
        """See `RowReader.values`."""
        try:
            row = _row(read_at(path, *span))
        except OSError as error:
            raise SampleError(f"cannot read {path}: {error.strerror}", "cannot-read") from error
        if row is None:
            raise SampleError(f"{path} has changed since it was indexed: index it again", "cannot-read")
        return {name: row.get(name) for name in self.columns[path].names}

    def contents(self, shard: str) -> str:
        """Its rows' places and keys."""
        return digest([(span, key, str(failure or "")) for span, key, failure in self.rows(self._part(shard))])


class CsvFolder(_Beside, Table):
    """Images beside ``metadata.csv``."""


class LinesFolder(_Beside, _Lines):
    """Images beside ``metadata.jsonl``."""


class ImageFolders(Reader):
    """Opens either of them."""

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Whether images are there whose captions are in such a table, and in no files beside them."""
        return location.imagefolder

    @classmethod
    def open(cls, location: Location) -> Reader:
        """The images that the tables in a folder, and in those below it, name.

        Raises:
            DatasetError: there is no table, there are both kinds, or one has not the columns.
        """
        location.allow(*OPTIONS, "sep")
        paths = {path.relative_to(location.folder).as_posix(): path for path in location.metadata}  # type: ignore[arg-type]
        kinds = {name.rpartition(".")[2] for name in paths}
        if len(kinds) != 1:
            raise DatasetError(
                f"{location.path!r} has metadata of {len(kinds)} kinds; an imagefolder has metadata.csv or "
                "metadata.jsonl: give a folder with one of them"
            )
        asked = replace(location, options={"image": NAME, "key": NAME, **location.options})
        return CsvFolder(asked, paths) if kinds == {"csv"} else LinesFolder(asked, paths)


READER = ImageFolders


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line that is not empty; of one that is too long the beginning."""
    while line := file.readline(LINE):
        offset = file.tell() - len(line)
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(LINE)):
            pass
        if line.strip():
            yield offset, line


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _fields(path: Place) -> list[str]:
    with files.open_file(path) as file:
        first = next(_lines(file), (0, b""))[1]
    fields = [*(_row(first) or {})]
    if not fields:
        raise DatasetError(f"the first line of {path} is no JSON object; each line is one, with {NAME} and a caption")
    return fields


def _cut(path: Place) -> list[Part]:
    """The file's shards, by one pass over its lines."""
    starts: list[int] = []
    total = 0
    with files.open_file(path) as file:
        for offset, _ in _lines(file):
            if total % ROWS == 0:
                starts.append(offset)
            total += 1
    return [Part(path, i * ROWS, min(ROWS, total - i * ROWS), at) for i, at in enumerate(starts)] or [Part(path)]
