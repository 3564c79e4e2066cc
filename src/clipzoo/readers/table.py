"""CSV and TSV tables of image names and captions, with a header line.

Options: ``image``, ``caption`` and ``key`` name columns, ``root`` the folder of the images (by default that of their
table), ``outside=yes`` allows names that lead out of it, ``sep`` is the separator: tab, comma, semicolon, pipe, or a
character.
A broken row (its number of fields differs from the header's) is an entry with a reason.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place, read_at
from clipzoo.readers._location import Location, kind_of, listing
from clipzoo.readers._rows import OPTIONS, ROWS, Columns, Part, RowReader, digest, named, states_of
from clipzoo.readers.base import Span
from clipzoo.types import Failure

SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
LINE, LINES = 2**20, 64
"""The longest line in bytes, and the most lines of one row."""

csv.field_size_limit(max(csv.field_size_limit(), LINES * LINE))  # its default is 131,072 characters

Record = tuple[int, int, list[str], str]
"""(offset, size in bytes, fields, reason why the record is broken or "")."""


class Table(RowReader):
    """Text tables, read by the offsets of their rows."""

    def __init__(self, location: Location, paths: Mapping[str, Place]) -> None:
        states = states_of(paths.values())
        self.heads = {path: _head(path, _separator(path, location)) for path in paths.values()}
        columns = {path: _columns(names, location, path) for path, (names, _) in self.heads.items()}
        parts = {
            name: part
            for file, path in paths.items()
            for name, part in named(file, self._cut(path, columns[path])).items()
        }
        super().__init__(location, parts, columns, states)
        self.identity = digest(self.image_names(next(iter(self.parts.values()))))

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
        names, key = self.heads[part.path][0], self.columns[part.path].key
        at = names.index(key) if names.count(key) == 1 else None  # "" is the name of pandas' column of row numbers
        for offset, size, fields, fault in self._records(part):
            given = "" if fault or at is None else fields[at]
            yield (offset, size), given, Failure("invalid-text", fault) if fault else None

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
        return {name: value for name, value in zip(names, record[2], strict=True) if name}

    def contents(self, shard: str) -> str:
        """Return a digest of the names of its images."""
        return digest(self.image_names(self._part(shard)))

    def _cut(self, path: Place, columns: Columns) -> list[Part]:
        """Return the file's shards, by one pass over its rows."""
        names, separator = self.heads[path]
        starts: list[int] = []
        total = 0
        with listing.readable(path), files.open_file(path) as file:
            header(file, separator)
            for offset, *_ in records(file, separator, len(names), names.index(columns.image)):
                if total % ROWS == 0:
                    starts.append(offset)
                total += 1
        return [Part(path, i * ROWS, min(ROWS, total - i * ROWS), at) for i, at in enumerate(starts)] or [Part(path)]

    def _records(self, part: Part) -> Iterator[Record]:
        names, separator = self.heads[part.path]
        image = names.index(self.columns[part.path].image)
        with files.open_file(part.path) as file:
            file.seek(part.offset)
            for _, record in zip(range(part.rows), records(file, separator, len(names), image), strict=False):
                yield record

    def image_names(self, part: Part) -> list[str]:
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
    with listing.readable(path), files.open_file(path) as file:
        start = file.read(2)
        file.seek(0)
        names = header(file, separator)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DatasetError(f"{path} is UTF-16; convert it: iconv -f utf-16 -t utf-8 {path.name} > utf8-{path.name}")
    if len(set(names)) < 2:
        raise DatasetError(
            f"the first line of {path} is no header of two distinct columns or more: {', '.join(names)[:200]!r}; add "
            "one, such as image,caption, or name the separator, as in ?sep=semicolon"
        )
    return names, separator


def header(file: BinaryIO, separator: str) -> list[str]:
    """Return the names of the columns, and leave the file at its first row; no names if the header is broken."""
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    _, _, names, fault = next(records(file, separator, None), (0, 0, [], ""))
    return [] if fault else [name.strip().removeprefix("\ufeff") for name in names]


def _columns(names: Sequence[str], location: Location, path: Place) -> Columns:
    """Return the columns that are read, which must have names of their own; others may share one, or have none."""
    columns = Columns.of([name for name in dict.fromkeys(names) if name], location, path)
    for name, count in Counter(names).items():
        if count > 1 and name in columns.names:
            raise DatasetError(f"{path} has {count} columns named {name!r}; rename all but one in its first line")
    return columns


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


def records(file: BinaryIO, separator: str, width: int | None, image: int | None = None) -> Iterator[Record]:
    """Yield every record from the file's position on; a valid one has ``width`` fields. Empty lines are skipped.

    A stray quote would absorb the lines after it. A broken record is therefore only its first line, and the following
    lines are parsed again as separate records. So is a record in which a quote absorbed a row: a line of ``width``
    fields with the name of an image file in field ``image``.
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
            if image is not None and lines.left < LINES - 1 and _absorbs_row(fields, separator, image):
                break
            if fields:
                yield start, file.tell() - start, fields, ""
        file.seek(start)
        fields, fault = _alone(file, separator, width)
        yield start, file.tell() - start, fields, fault


def _absorbs_row(fields: Sequence[str], separator: str, image: int) -> bool:
    """Return True if a field of several lines has the image of another row, and as many separators as a row."""
    for at, field in enumerate(fields):
        lines = [line.split(separator) for line in field.split("\n")]
        if len(lines) == 1:
            continue
        lines[0] = [""] * at + lines[0]  # the fields before and after the quotes are those of the record
        lines[-1] += [""] * (len(fields) - at - 1)
        if any(len(line) == len(fields) and kind_of(line[image].strip()) == "image" for line in lines):
            return True
    return False


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
