"""``metadata.jsonl`` and ``metadata.csv`` of Hugging Face's imagefolder: one row of captions per ``file_name``."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place, read_at
from clipzoo.readers._location import METADATA
from clipzoo.readers._samples.captions import parse_json
from clipzoo.readers.base import Span
from clipzoo.readers.table import header, records

FILES = METADATA
NAME = "file_name"
MOST = 2**28
"""The size limit of a metadata file in bytes: it is held in memory while its shard is indexed."""


def names(name: str) -> bool:
    """Return True if a file of this name holds rows of metadata."""
    return name.rpartition("/")[2] in FILES


def is_row(caption: str) -> bool:
    """Return True if the caption of an entry is a row of metadata."""
    return caption.startswith(FILES)


def rows(path: Place, name: str, span: Span, names: Sequence[str]) -> Iterator[tuple[str, Span, str]]:
    """Yield (file name, span, caption of the entry) for every row of a member; broken rows are skipped.

    ``names`` are the caption fields, of which the caption of an entry gives the columns in a CSV.

    Raises:
        DatasetError: the member is too large, or has no column `NAME`.
    """
    if span[1] > MOST:
        raise DatasetError(f"{name} in {path} is too large: {span[1]} bytes, more than {MOST}; split the tar")
    folder, data = PurePosixPath(name).parent, read_at(path, *span)
    parsed = _csv(data, f"{name} in {path}", names) if name.endswith(".csv") else _lines(data)
    for file, (offset, size), caption in parsed:
        yield (folder / file).as_posix(), (span[0] + offset, size), caption


def values(row: bytes, caption: str, names: Sequence[str]) -> Mapping[str, object]:
    """Return the fields of a row; those of a CSV are among ``names``.

    Raises:
        SampleError: the row is not valid JSON, or the tar has changed.
    """
    if not caption.startswith("metadata.csv"):
        return parse_json(row)
    fields = next(records(io.BytesIO(row), ",", None), (0, 0, [], ""))[2]
    places = [place.split("=") for place in caption.partition("?")[2].split("&") if place]
    if any(int(at) >= len(fields) for _, at in places):
        raise SampleError("its row of metadata.csv has changed since it was indexed: index it again", "cannot-read")
    return {names[int(field)]: fields[int(at)] for field, at in places}


def _lines(data: bytes) -> Iterator[tuple[str, Span, str]]:
    offset = 0
    for line in io.BytesIO(data):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        name = value.get(NAME) if isinstance(value, dict) else None
        if isinstance(name, str):
            yield name, (offset, len(line)), "metadata.jsonl"
        offset += len(line)


def _csv(data: bytes, where: str, names: Sequence[str]) -> Iterator[tuple[str, Span, str]]:
    """Yield the rows of a CSV; the caption gives the numbers of the caption fields, so reading needs no header.

    ``names`` are the caption fields.
    """
    file = io.BytesIO(data)
    columns = header(file, ",")
    if NAME not in columns:
        raise DatasetError(f"{where} has no column {NAME}; its columns are {', '.join(columns)}: add one")
    places = [f"{i}={columns.index(field)}" for i, field in enumerate(names) if field in columns]
    at = columns.index(NAME)
    for offset, size, fields, fault in records(file, ",", len(columns), at):
        if not fault:
            yield fields[at], (offset, size), "metadata.csv?" + "&".join(places)
