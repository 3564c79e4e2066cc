"""Labels of a store as the truth of a benchmark, or in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow.compute as pc

from clipzoo import files
from clipzoo.benchmarks.base import Labels, Loader
from clipzoo.errors import PlanError
from clipzoo.files import AnyPath, Place
from clipzoo.readers import Entry, Reader, fingerprint
from clipzoo.store import Column, Store
from clipzoo.tasks.base import Convention

PART = 1 << 20


@dataclass(frozen=True)
class ColumnLabels:
    """The labels of one column, those of less confidence than ``floor`` left out."""

    column: Column
    floor: float = 0.0

    @property
    def convention(self) -> Convention:
        """See `Labels`."""
        return self.column.convention

    def loaders(self, entries: Sequence[Entry]) -> list[Loader | None]:
        """See `Labels`; the label of a row of the column."""
        wanted: dict[str, list[str]] = {}
        for entry in entries:
            wanted.setdefault(entry.shard, []).append(entry.key)
        rows = {
            (shard, row["key"]): partial(self.column.label, shard, row)
            for shard, keys in wanted.items()
            if self.column.has(shard)
            for row in self.column.rows(shard).filter(pc.field("key").isin(keys)).to_pylist()
            if row["error"] is None and (row["confidence"] is None or row["confidence"] >= self.floor)
        }
        return [rows.get((entry.shard, entry.key)) for entry in entries]

    def places(self) -> Iterator[Place]:
        """See `Labels`; the tars of the column."""
        return (self.column.file(shard, ".tar") for shard in sorted(self.column.committed()))

    def identity(self) -> str:
        """See `Labels`; the SHA-256 of whose labels they are, of every row and of every label."""
        told = hashlib.sha256(self.column.manifest.digest.encode())
        for shard, rows in self.column.tables():
            told.update(f"\n{shard}\n{rows.to_pylist()}\n".encode("utf-8", "surrogateescape"))
            with files.opened(self.column.file(shard, ".tar")) as file:
                while part := file.read(PART):
                    told.update(part)
        return told.hexdigest()


def truth_columns(store: Store, labels: AnyPath | Place) -> dict[str, str]:
    """Task -> its column ``<task>/truth`` of the store at ``labels``; `PlanError` if there is none."""
    truths = {column.task: column.name for column in store.columns() if column.slug == "truth"}
    if not truths:
        has = ", ".join(column.name for column in store.columns()) or "none"
        raise PlanError(
            f"{labels} has no column <task>/truth; it has: {has}; `clipzoo labels import --as truth` makes one of "
            "existing labels (docs/benchmarks.md)"
        )
    return truths


def column_labels(
    labels: AnyPath | Place,
    reader: Reader,
    columns: Mapping[str, str] | None = None,
    floors: Mapping[str, float] | None = None,
) -> dict[str, Labels]:
    """The labels of a store over the pictures of a reader.

    Args:
        labels: the root of the store.
        reader: of the dataset that it labels.
        columns: task -> column; by default every ``<task>/truth``.
        floors: task -> the least confidence of a label; by default none.

    Raises:
        PlanError: no truth; StoreError: a column is missing, or of another dataset.
    """
    store, identity, found = Store(labels), fingerprint(reader), dict[str, Labels]()
    for task, name in (columns or truth_columns(store, labels)).items():
        column = store.column(*name.split("/", 1))
        column.manifest.belongs(identity, column.path)
        found[task] = ColumnLabels(column, (floors or {}).get(task, 0.0))
    return found
