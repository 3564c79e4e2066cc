"""CSV and TSV tables of image names and captions, with a header line.

Options: ``image``, ``caption`` and ``key`` name columns, ``root`` the folder of the images (by default the table's),
``outside=yes`` allows names that lead out of it, ``sep`` is the separator: tab, comma, semicolon, pipe, or a character.
A broken row (its number of fields differs from the header's) is an entry with a reason.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place, read_at
from clipzoo.readers._location import Location, listing
from clipzoo.readers._rows import OPTIONS, ROWS, Columns, Part, RowReader, digest, named
from clipzoo.readers.base import Span
from clipzoo.types import Failure

SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
LINE, LINES = 2**20, 64
"""The longest line in bytes, and the most lines of one row."""

Record = tuple[int, int, list[str], str]
"""(offset, size in bytes, fields, reason why the record is broken or "")."""


class Table(RowReader):
    """Text tables, read by the offsets of their rows."""

    def __init__(self, location: Location, paths: Mapping[str, Place]) -> None:
        self.heads = {path: _head(path, _separator(path, location)) for path in paths.values()}
        columns = {path: Columns.of(names, location, path) for path, (names, _) in self.heads.items()}
        parts = {name: part for file, path in paths.items() for name, part in named(file, self._cut(path)).items()}
        super().__init__(location, parts, columns)
        self.identity = digest(self._images_of(next(iter(self.parts.values()))))

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Return True for .csv or .tsv files, unless they are metadata of tars or of an imagefolder."""
        return "table" in location.kinds and "tar" not in location.kinds and not location.imagefolder

    @classmethod
    def open(cls, location: Location) -> Table:
        """Open the tables of a file, folder or pattern.

        Raises:
            DatasetError: there is no table, or a header or column is missing.
        """
        location.allow(*OPTIONS, "sep")
        paths = listing.find(location.path, (".csv", ".tsv"))
        for path in paths.values():
            files.keep_cached(path)  # a request for each row would take longer
        return cls(location, paths)

    def rows(self, part: Part) -> Iterator[tuple[Span, str, Failure | None]]:
        """See `RowReader.rows`."""
        columns = self.columns[part.path]
        for offset, size, fields, fault in self._records(part):
            key = dict(zip(self.heads[part.path][0], fields, strict=True)).get(columns.key, "") if not fault else ""
            yield (offset, size), key, Failure("invalid-text", fault) if fault else None

    def values(self, path: Place, span: Span) -> Mapping[str, str]:
        """See `RowReader.values`."""
        names, separator = self.heads[path]
        try:
            data = read_at(path, *span)
        except OSError as error:
            raise SampleError(f"cannot read {path}: {error.strerror}", "cannot-read") from error
        record = next(records(io.BytesIO(data), separator, len(names)), None)
        if record is None or record[3] or record[1] < span[1]:
            raise SampleError(f"{path} has changed since it was indexed: index it again", "cannot-read")
        return dict(zip(names, record[2], strict=True))

    def contents(self, shard: str) -> str:
        """Return a digest of the names of its images."""
        return digest(self._images_of(self._part(shard)))

    def _cut(self, path: Place) -> list[Part]:
        """Return the file's shards, by one pass over its rows."""
        names, separator = self.heads[path]
        starts: list[int] = []
        total = 0
        with files.open_file(path) as file:
            rows = records(file, separator, len(names))
            next(rows)
            for offset, *_ in rows:
                if total % ROWS == 0:
                    starts.append(offset)
                total += 1
        return [Part(path, i * ROWS, min(ROWS, total - i * ROWS), at) for i, at in enumerate(starts)] or [Part(path)]

    def _records(self, part: Part) -> Iterator[Record]:
        names, separator = self.heads[part.path]
        with files.open_file(part.path) as file:
            file.seek(part.offset)
            for _, record in zip(range(part.rows), records(file, separator, len(names)), strict=False):
                yield record

    def _images_of(self, part: Part) -> list[str]:
        """Return the image names of a shard, which distinguish it from a shard with as many rows."""
        at = self.heads[part.path][0].index(self.columns[part.path].image)
        return [fields[at] for _, _, fields, fault in self._records(part) if not fault]


READER = Table


def _separator(path: Place, location: Location) -> str:
    given = location.options.get("sep", "tab" if path.suffix.lower() == ".tsv" else "comma")
    separator = SEPARATORS.get(given, given)
    if len(separator) != 1 or separator in '"\r\n':
        raise DatasetError(f"sep={given} is no separator; give {', '.join(SEPARATORS)}, or one character")
    return separator


def _head(path: Place, separator: str) -> tuple[list[str], str]:
    """Return (names of the columns, separator)."""
    with files.open_file(path) as file:
        start = file.read(2)
        file.seek(0)
        first = next(records(file, separator, None), None)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise DatasetError(f"{path} is UTF-16; convert it: iconv -f utf-16 -t utf-8 {path.name} > utf8-{path.name}")
    names = [name.strip().removeprefix("\ufeff") for name in first[2]] if first and not first[3] else []
    if len(names) < 2 or len(set(names)) < len(names):
        raise DatasetError(
            f"the first line of {path} is no header of two distinct columns or more: {', '.join(names)[:200]!r}; add "
            "one, such as image,caption, or name the separator, as in ?sep=semicolon"
        )
    return names, separator


class _BrokenError(Exception):
    """A line that cannot be read."""


class _Lines:
    """The lines of a file as text, at most `LINES` for a record; bytes that are not UTF-8 become surrogates."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = LINES
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.file.readline(LINE)
        if not line:
            self.ended = True
            raise StopIteration
        if len(line) == LINE and not line.endswith(b"\n"):
            raise _BrokenError(f"a line is longer than {LINE} bytes")
        self.left -= 1
        if self.left < 0:
            raise _BrokenError(f"a quote is not closed within {LINES} lines")
        return line.decode("utf-8", "surrogateescape")


def records(file: BinaryIO, separator: str, width: int | None) -> Iterator[Record]:
    """Yield every record from the file's position on; a valid one has ``width`` fields. Empty lines are skipped.

    A stray quote would absorb the lines after it. A broken record is therefore only its first line, and the following
    lines are parsed again as separate records.
    """
    while True:
        lines = _Lines(file)
        rows = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            start, lines.left = file.tell(), LINES
            try:
                fields = next(rows)
            except StopIteration:
                return
            except (csv.Error, _BrokenError):
                break
            if width is not None and fields and len(fields) != width:
                break
            if fields:
                yield start, file.tell() - start, fields, ""
        file.seek(start)
        fields, fault = _alone(file, separator, width)
        yield start, file.tell() - start, fields, fault


def _alone(file: BinaryIO, separator: str, width: int | None) -> tuple[list[str], str]:
    """Return (fields, reason why it is broken or "") of one line, which may have text after a closed quote."""
    line = file.readline(LINE)
    while not line.endswith(b"\n") and (rest := file.readline(LINE)):
        line = line[:LINE] + rest[-1:]  # the line is too long: read only to its end
    lines = _Lines(io.BytesIO(line))
    try:
        fields = next(csv.reader(lines, delimiter=separator), [])
    except (csv.Error, _BrokenError) as error:
        return [], f"the row cannot be read: {error}"
    if lines.ended:
        return [], "the row cannot be read: a quote is not closed"
    if width is not None and len(fields) != width:
        return [], f"the row has {len(fields)} fields, the header {width}: quote fields that hold the separator"
    return fields, ""
