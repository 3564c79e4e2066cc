"""The file of a plan: Arrow record batches, mapped into memory; all processes share its pages.

Shards and extensions are coded by dictionaries. The last batch is empty; its metadata are the plan's other values.
Plans of older versions are parquet files, which are read into memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipzoo import files

TEXT = pa.large_string()
"""Arrow's plain string type holds 2^31 bytes per column, less than the keys of a large dataset."""

CODED = pa.dictionary(pa.int32(), TEXT)
PARTS = "image", "caption"
SPANS = "offset", "size"

BATCH = 2**18
"""Rows of a record batch; at least, and those of one shard more at most."""

ARROW = b"ARROW1"


def schema(columns: Sequence[str], texts: bool = False) -> pa.Schema:
    """Return the schema of a plan with these label columns; ``texts`` if samples have caption fields."""
    fields = [pa.field("shard", CODED), pa.field("key", TEXT)]
    for part in PARTS:
        fields += [pa.field(f"{part}:ext", CODED), *(pa.field(f"{part}:{name}", pa.int64()) for name in SPANS)]
    fields += [pa.field("texts", TEXT)] if texts else []
    return pa.schema([*fields, *(pa.field(f"{one}:{name}", pa.int64()) for one in columns for name in SPANS)])


class PlanWriter:
    """Writes the rows of a plan shard by shard; at most `BATCH` rows and one shard are in memory.

    Args:
        sink: a path, or an Arrow output stream.
        shards: all names that may follow.
        columns: names of the label columns.
        texts: rows have the members of caption fields.
    """

    def __init__(
        self, sink: str | pa.NativeFile, shards: Sequence[str], columns: Sequence[str], texts: bool = False
    ) -> None:
        self.schema = schema(columns, texts)
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        self._file = pa.ipc.new_file(sink, self.schema, options=options)
        self._shards = pa.array(shards, TEXT)
        self._codes: dict[str, dict[str, int]] = {f"{part}:ext": {} for part in PARTS}
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> PlanWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, shard: int, rows: pa.Table) -> None:
        """Append the rows of a shard, given by its number; they have all columns but ``shard``, as plain text."""
        if not len(rows):
            return
        numbers = pa.array(np.full(len(rows), shard, np.int32))
        columns: dict[str, pa.Array] = {"shard": numbers}
        for name in rows.column_names:
            column = rows[name].combine_chunks()
            columns[name] = self._coded(column, self._codes[name]) if name in self._codes else column
        self._waiting.append(pa.table(columns))
        if sum(map(len, self._waiting)) >= BATCH:
            self._flush()

    def finish(self, marks: Mapping[str, str]) -> None:
        """Write the last rows, and the plan's other values."""
        self._flush()
        arrays = [self._array(one, pa.array([], one.type)) for one in self.schema]
        self._file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema), custom_metadata=dict(marks))

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting).combine_chunks()
            arrays = [self._array(one, table[one.name].chunk(0)) for one in self.schema]
            self._file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
            self._waiting = []

    def _array(self, one: pa.Field, values: pa.Array) -> pa.Array:
        """Return the values of a column; those of a coded one are codes, or none."""
        if one.type != CODED:
            return values
        words = self._shards if one.name == "shard" else pa.array(list(self._codes[one.name]), TEXT)
        codes = values if len(values) else pa.array([], pa.int32())
        return pa.DictionaryArray.from_arrays(codes, words)

    @staticmethod
    def _coded(texts: pa.Array, codes: dict[str, int]) -> pa.Array:
        """Return the code of each text, int32; new texts get the next codes."""
        local = texts.dictionary_encode()
        numbers = [codes.setdefault(word, len(codes)) for word in local.dictionary.to_pylist()]
        return pa.array(np.array(numbers, np.int32)[local.indices.to_numpy()])


def read(source: Path | pa.Buffer) -> tuple[pa.Table, dict[str, str]]:
    """Return the rows and the other values of a plan; the rows stay in the file.

    Raises:
        pa.ArrowException, OSError, ValueError, KeyError: it is not the file of a plan.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            if file.read(len(ARROW)) != ARROW:
                return _read_parquet(source)
    opened = pa.ipc.open_file(pa.memory_map(str(source)) if isinstance(source, Path) else source)
    count = opened.num_record_batches
    if not count:
        raise ValueError("it is not complete")
    batches = [opened.get_batch(number) for number in range(count - 1)]
    marks = opened.get_batch_with_custom_metadata(count - 1).custom_metadata or {}
    return pa.Table.from_batches(batches, opened.schema), {name.decode(): text.decode() for name, text in marks.items()}


def _read_parquet(path: Path) -> tuple[pa.Table, dict[str, str]]:
    table = pq.read_table(files.for_arrow(path))
    marks = {name.decode(): text.decode() for name, text in (table.schema.metadata or {}).items()}
    names = [name.removesuffix(":offset") for name in table.column_names if name.endswith(":offset")]
    wanted = schema([name for name in names if name not in PARTS], "texts" in table.column_names)
    columns = [
        table[one.name].cast(TEXT).dictionary_encode() if one.type == CODED else table[one.name].cast(one.type)
        for one in wanted
    ]
    return pa.table(columns, schema=wanted).unify_dictionaries().combine_chunks(), marks


def write(table: pa.Table, marks: Mapping[str, str], path: Path, parquet: bool = False) -> None:
    """Write a plan's file, as parquet or Arrow."""
    if parquet:
        pq.write_table(table.replace_schema_metadata(marks), files.for_arrow(path))
        return
    table = table.replace_schema_metadata(None).unify_dictionaries()
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
        file.write_batch(_empty(table), custom_metadata=dict(marks))


def _empty(table: pa.Table) -> pa.RecordBatch:
    """Return a batch without rows, with the table's dictionaries."""
    arrays = [
        pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), column.chunk(0).dictionary)
        if pa.types.is_dictionary(column.type) and column.num_chunks
        else pa.array([], column.type)
        for column in table.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)
