"""The rows of a store as arrays: one row per sample, from the tables of all columns, without decoding a label.

Memory is constant per row: the key and 4 bytes, and 29 bytes for each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipzoo.errors import StoreError
from clipzoo.store import Column
from clipzoo.store.rows import Row

D = TypeVar("D", bound=np.generic)

NO_ROW, LABELED, FAILED = 0, 1, 2
"""The state of a sample in a column."""


@dataclass(frozen=True)
class Cells:
    """The rows of a column; ``reason`` is an index of ``reasons``, -1 if there is a label or no row."""

    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    valid: NDArray[np.float32]
    confidence: NDArray[np.float32]
    reason: NDArray[np.int32]
    reasons: list[str]
    state: NDArray[np.uint8]


@dataclass(frozen=True)
class Table:
    """Samples in the order of shards; ``starts`` has the first row of each shard, and the number of rows last."""

    columns: Sequence[Column]
    shards: list[str]
    starts: NDArray[np.int64]
    keys: pa.ChunkedArray
    cells: list[Cells]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def shard(self, row: int) -> int:
        """Return the number of a row's shard."""
        return int(np.searchsorted(self.starts, row, "right")) - 1

    def key(self, row: int) -> str:
        """Return a row's key."""
        return str(self.keys[row].as_py())

    def reason(self, column: int, row: int) -> str:
        """Return why a sample has no label, or ""."""
        cells = self.cells[column]
        return cells.reasons[cells.reason[row]] if cells.reason[row] >= 0 else ""

    def label(self, column: int, row: int) -> object:
        """Return a decoded label.

        Raises:
            StoreError: the sample has none.
            LabelError: it cannot be decoded.
        """
        cells = self.cells[column]
        if cells.state[row] == NO_ROW:
            raise StoreError("the sample has no row in this column")
        stored: Row = {
            "key": self.key(row),
            "offset": int(cells.offset[row]),
            "size": int(cells.size[row]) if cells.state[row] == LABELED else None,
            "valid_share": float(cells.valid[row]),
            "confidence": None,
            "error": self.reason(column, row) or None,
            "code": None,
        }
        label: object = self.columns[column].label(self.shards[self.shard(row)], stored)
        return label


def read_table(columns: Sequence[Column]) -> Table:
    """Return the rows of all columns, joined by shard and key; `StoreError` if no shard is labeled yet."""
    tables = [dict(column.tables()) for column in columns]
    shards = sorted(set[str]().union(*tables))
    if not shards:
        raise StoreError(
            f"no shard is labeled yet in {', '.join(str(column.path) for column in columns)}, so there is nothing to "
            "show. Shards are stored when they are complete: wait for the first one, or rerun `clipzoo label`"
        )
    keys: list[pa.Array] = []
    parts: list[list[pa.Table]] = [[] for _ in columns]
    for shard in shards:
        here = [table.pop(shard, None) for table in tables]
        known = _union([table["key"].combine_chunks() for table in here if table is not None])
        keys.append(known)
        for part, table in zip(parts, here, strict=True):
            part.append(_aligned(table, known))
    starts = np.cumsum([0, *map(len, keys)])
    return Table(columns, shards, starts, pa.chunked_array(keys, pa.string()), [_cells(part) for part in parts])


def _union(keys: Sequence[pa.Array]) -> pa.Array:
    known = keys[0]
    for other in keys[1:]:
        if not known.equals(other):
            new = other.filter(pc.invert(pc.is_in(other, known)))
            known = pa.concat_arrays([known, new])
    return known


def _aligned(table: pa.Table | None, keys: pa.Array) -> pa.Table:
    """Return the rows of a shard in the order of ``keys``; null for keys without a row."""
    names = ["key", "offset", "size", "valid_share", "confidence", "error"]
    if table is None:
        kinds = [pa.string(), pa.int64(), pa.int64(), pa.float32(), pa.float32(), pa.string()]
        return pa.table({name: pa.nulls(len(keys), kind) for name, kind in zip(names, kinds, strict=True)})
    table = table.select(names).replace_schema_metadata(None)
    if not table["key"].combine_chunks().equals(keys):
        table = table.take(pc.index_in(keys, table["key"].combine_chunks()))
    return table


def _cells(parts: Sequence[pa.Table]) -> Cells:
    table = pa.concat_tables(parts)
    there, failed = _array(table["key"].is_valid(), np.bool_), _array(table["size"].is_null(), np.bool_)
    state = np.where(~there, NO_ROW, np.where(failed, FAILED, LABELED)).astype(np.uint8)
    errors = pc.if_else(pa.array(state == FAILED), pc.fill_null(table["error"], "no reason is stored"), None)
    coded = errors.combine_chunks().dictionary_encode()
    return Cells(
        offset=_array(pc.fill_null(table["offset"], -1), np.int64),
        size=_array(pc.fill_null(table["size"], -1), np.int64),
        valid=_array(pc.fill_null(table["valid_share"], 0.0), np.float32),
        confidence=_array(pc.fill_null(table["confidence"], float("nan")), np.float32),
        reason=_array(pc.fill_null(coded.indices, -1), np.int32),
        reasons=coded.dictionary.to_pylist(),
        state=state,
    )


def _array(values: pa.ChunkedArray | pa.Array, kind: type[D]) -> NDArray[D]:
    return np.asarray(values, dtype=kind)
