"""Parquet tables of images (bytes, names, or Hugging Face's Image) and captions, as hubs and img2dataset write them.

Options as for CSV tables, except ``sep``. Rows are read by row groups, which is fast in order; training reads them in
random order, so groups should be small (`GROUP_BYTES`).
"""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.readers._location import Location, listing
from clipzoo.readers._rows import OPTIONS, Columns, NumberedReader, Part, columns_of_text, cut, digest, named, states_of

GROUP_BYTES = 2**29
"""The size limit of a row group, uncompressed; its images are held in memory."""

CACHE_BYTES = 2**28
"""The size limit of the cached groups together; the last one is always cached."""


class Parquet(NumberedReader):
    """Parquet files, read by row groups."""

    def __init__(self, location: Location, paths: Mapping[str, Place]) -> None:
        self.mark = uuid4().hex  # a later reader of the same paths may find other files
        self.groups: dict[Place, list[int]] = {}  # rows before each group, and in all
        self.texts: dict[Place, list[str]] = {}
        columns: dict[Place, Columns] = {}
        parts: dict[str, Part] = {}
        self.sizes: dict[Place, tuple[list[int], list[int]]] = {}  # of each group: rows, bytes
        states = states_of(paths.values())
        opened = files.map_ahead(_opened, paths.values(), max(map(files.threads, paths.values())))
        for (name, path), found in zip(paths.items(), opened, strict=True):
            if isinstance(found, Exception):
                parts |= named(name, [Part(path, fault=f"the file cannot be read: {found}")])
                continue
            meta, schema = found
            columns[path] = Columns.of(schema.names, location, path, columns_of_text(schema))
            _refuse_large(path, meta, columns[path])
            rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            self.groups[path], self.texts[path] = [0, *accumulate(rows)], _texts(meta)
            self.sizes[path] = rows, [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
            parts |= named(name, cut(path, meta.num_rows))
        if not columns:
            raise DatasetError(f"{next(iter(parts.values())).path}: {next(iter(parts.values())).fault}")
        super().__init__(location, parts, columns, states)
        self.identity = digest([*self.sizes.values()])

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Return True for .parquet files, unless they are img2dataset's metadata of tars or of folders of images."""
        return "parquet" in location.kinds and "tar" not in location.kinds and not location.notes

    @classmethod
    def open(cls, location: Location) -> Parquet:
        """Open the tables of a file, folder or pattern.

        Raises:
            DatasetError: there is no readable table, columns are missing, or row groups are too large.
        """
        return cls(location, listing.find(location.allow(*OPTIONS).path, (".parquet",)))

    def row(self, path: Place, number: int, names: Sequence[str]) -> dict[str, object]:
        """See `NumberedReader.row`."""
        starts = self.groups[path]
        group = bisect.bisect_right(starts, number) - 1
        try:
            table = _cache.group(self.mark, path, group, names, self.texts[path])
            values: dict[str, object] = table.slice(number - starts[group], 1).to_pylist()[0]
        except (pa.ArrowException, OSError, ValueError, IndexError) as error:
            raise SampleError(f"row group {group} of {path.name} cannot be read: {error}", "cannot-read") from error
        return values

    def image_names(self, part: Part) -> Sequence[str]:
        """See `RowReader.image_names`."""
        column = self.columns[part.path].image
        starts, rows = self.groups[part.path], range(part.first, part.first + part.rows)
        names: list[str] = []
        with pq.ParquetFile(files.open_for_arrow(part.path)) as file:
            kind = file.schema_arrow.field(column).type
            if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
                return ()
            for group, first in enumerate(starts[:-1]):
                if first < rows.stop and starts[group + 1] > rows.start:
                    try:
                        values = file.read_row_group(group, columns=[column]).column(0)
                    except (pa.ArrowException, OSError):  # its samples are failures
                        continue
                    cut = values.slice(max(rows.start - first, 0), rows.stop - max(first, rows.start))
                    names += [name for name in cut.to_pylist() if name]
        return names

    def contents(self, shard: str) -> str:
        """Return a digest of the sizes of the file's row groups."""
        return digest(self.sizes.get(self._part(shard).path))


READER = Parquet


class _Groups:
    """A cache of row groups; one thread reads at a time, since others usually need the same group."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Clear the cache and its lock, which another thread may have held at a fork."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, Place, int, tuple[str, ...]], pa.Table] = OrderedDict()

    def group(self, reader: str, path: Place, number: int, names: Sequence[str], texts: Sequence[str]) -> pa.Table:
        """Return the columns ``names`` of a row group; equal values of the columns ``texts`` are stored once."""
        place = (reader, path, number, tuple(names))
        with self._lock:
            if place not in self._kept:
                with pq.ParquetFile(files.open_for_arrow(path), read_dictionary=list(texts)) as file:
                    self._kept[place] = file.read_row_group(number, columns=list(names), use_threads=False)
                while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > CACHE_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(place)
            return self._kept[place]


_cache = _Groups()
os.register_at_fork(after_in_child=_cache.forget)


def _opened(path: Place) -> tuple[pq.FileMetaData, pa.Schema] | Exception:
    """Return metadata and schema of a file, or the error if it cannot be read."""
    try:
        with pq.ParquetFile(files.open_for_arrow(path)) as file:
            return file.metadata, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        return error


def _texts(meta: pq.FileMetaData) -> list[str]:
    """Return the paths of the columns of bytes and text.

    A value that the file stores once for thousands of rows counts once in its size, and must be stored once in memory.
    """
    schema = meta.schema
    return [one.path for one in (schema.column(i) for i in range(len(schema))) if one.physical_type == "BYTE_ARRAY"]


def _refuse_large(path: Place, meta: pq.FileMetaData, columns: Columns) -> None:
    """Raise `DatasetError` if a row group would not fit in memory."""
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        chunks = [group.column(i) for i in range(group.num_columns)]
        wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns.names]
        size = sum(chunk.total_uncompressed_size for chunk in wanted)
        if size > GROUP_BYTES:
            raise DatasetError(
                f"row group {number} of {path} has {size} bytes, more than {GROUP_BYTES}, and is held in memory for "
                "each of its rows; write the file again with smaller ones, as docs/data.md shows (row_group_size=100)"
            )
