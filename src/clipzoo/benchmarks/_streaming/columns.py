"""Columns of a store as the true labels of a benchmark, or as pseudo-labels in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from clipzoo import files
from clipzoo.benchmarks.base import Labels, Loader
from clipzoo.errors import PlanError
from clipzoo.files import AnyPath, Place
from clipzoo.readers import Entry, Reader, fingerprint
from clipzoo.store import Column, Store
from clipzoo.tasks.base import Convention

CHUNK = 1 << 20
"""Bytes that are hashed at a time."""


@dataclass(frozen=True)
class ColumnLabels:
    """The labels of one column, of which ``kept`` returns those to use, as rows; see `Labels`."""

    column: Column
    kept: Callable[[pa.Table], pa.Table] = field(default=lambda rows: rows)

    @property
    def convention(self) -> Convention:
        """The convention of the column."""
        return self.column.convention

    def loaders(self, entries: Sequence[Entry]) -> list[Loader | None]:
        """Return a function for each entry that reads its label; None for entries without one."""
        keys: dict[str, list[str]] = {}
        for entry in entries:
            keys.setdefault(entry.shard, []).append(entry.key)
        loaders: dict[tuple[str, str], Loader] = {}
        for shard in [shard for shard in keys if self.column.has(shard)]:
            rows = self.column.rows(shard).filter(pc.field("key").isin(keys[shard]))
            for row in self.kept(rows).to_pylist():
                if row["error"] is None:
                    loaders[shard, row["key"]] = partial(self.column.label, shard, row)
        return [loaders.get((entry.shard, entry.key)) for entry in entries]

    def places(self) -> Iterator[Place]:
        """Yield the tars of the column."""
        return (self.column.file(shard, ".tar") for shard in sorted(self.column.committed()))

    def identity(self) -> str:
        """Return the SHA-256 of the expert's identity, of every row and of every label."""
        digest = hashlib.sha256(self.column.manifest.digest.encode())
        for shard, rows in self.column.tables():
            digest.update(f"\n{shard}\n{rows.to_pylist()}\n".encode("utf-8", "surrogateescape"))
            with files.open_file(self.column.file(shard, ".tar")) as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()


def truth_columns(store: Store, labels: AnyPath | Place) -> dict[str, str]:
    """Return task -> its column ``<task>/truth`` of the store at ``labels``; raise `PlanError` if there is none."""
    columns = {column.task: column.name for column in store.columns() if column.slug == "truth"}
    if not columns:
        existing = ", ".join(column.name for column in store.columns()) or "none"
        raise PlanError(
            f"{labels} has no column <task>/truth; it has: {existing}. Dense tasks are measured on these columns. "
            "Import existing labels with `clipzoo labels import --as truth` (docs/benchmarks.md)"
        )
    return columns


def column_labels(
    labels: AnyPath | Place,
    reader: Reader,
    columns: Mapping[str, str] | None = None,
    kept: Mapping[str, Callable[[pa.Table], pa.Table]] | None = None,
) -> dict[str, Labels]:
    """Return task -> labels of a store for a dataset.

    Args:
        labels: the root of the store.
        reader: of the labeled dataset.
        columns: task -> column; by default every ``<task>/truth``.
        kept: task -> function from the rows of its column to those whose labels are used; by default all.

    Raises:
        PlanError: there is no column ``<task>/truth``.
        StoreError: a column is missing, or belongs to another dataset.
    """
    store, identity = Store(labels), fingerprint(reader)
    labels_of: dict[str, Labels] = {}
    for task, name in (columns or truth_columns(store, labels)).items():
        column = store.column(*name.split("/", 1))
        column.manifest.belongs(identity, column.path)
        labels_of[task] = ColumnLabels(column, (kept or {}).get(task, lambda rows: rows))
    return labels_of
