"""The plan: every usable sample with the places of its labels, known before training starts.

Images and columns are joined by shard and key. A sample whose label is missing stays, with no label of that column;
a sample that cannot be read at all is left out and counted by reason. The order of an epoch is a pure function of
(seed, epoch), so a run can stop at any step and go on at the exact sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipzoo import files
from clipzoo.errors import PlanError, kind_of
from clipzoo.files import AnyPath
from clipzoo.readers import fingerprint
from clipzoo.readers.base import Entry, Reader
from clipzoo.store import Column

_SPANS = ("offset", "size")

INDEXED = 8
"""Shards that are indexed at once, from a network."""


@dataclass(frozen=True)
class Plan:
    """A table of samples, one row each.

    Columns of ``table``: shard, key, image and caption (extension, offset, size), and for every label column its
    offset and size, null where the label is missing.
    """

    table: pa.Table
    left_out: Mapping[str, int]

    @classmethod
    def build(
        cls,
        reader: Reader,
        columns: Mapping[str, Column],
        *,
        min_confidence: Mapping[str, float] | None = None,
        max_samples: int | None = None,
    ) -> Plan:
        """Join a dataset with columns.

        Args:
            reader: the dataset.
            columns: name -> column; every shard of the dataset should be committed in each.
            min_confidence: name -> least confidence of a label that is used.
            max_samples: stop after so many usable samples.

        Raises:
            PlanError: nothing usable, or labels that fit no sample.
            StoreError: a column is of another dataset, or of a shard has the rows alone and not the labels.
        """
        identity = fingerprint(reader) if columns else {}
        for column in columns.values():
            column.manifest.belongs(identity, column.path)
        tables, left_out, total = [], Counter[str](), 0
        indexes = files.ahead(reader.index, reader.shards, min(reader.threads, INDEXED))
        for shard, entries in zip(reader.shards, indexes, strict=False):
            left_out.update(kind_of(e.error) for e in entries if e.error)
            table = _samples([e for e in entries if not e.error])
            for name, column in columns.items():
                table = _join(table, name, column, shard, (min_confidence or {}).get(name))
            tables.append(table if max_samples is None else table.slice(0, max_samples - total))
            total += len(tables[-1])
            if total == max_samples:
                break
        plan = cls(pa.concat_tables(tables) if tables else _samples([]), dict(left_out))
        plan._check(reader, columns, min_confidence or {})
        return plan

    @classmethod
    def load(cls, path: AnyPath) -> Plan:
        """The plan that `save` wrote; an OSError or pyarrow's error where there is none or it is damaged."""
        table = pq.read_table(
            files.local(path, "a plan")
        ).combine_chunks()  # taking rows of many chunks would join them at every batch
        reasons = (table.schema.metadata or {}).get(b"left_out", b"")
        pairs = (line.rsplit("\t", 1) for line in reasons.decode().splitlines())
        return cls(table, {reason: int(count) for reason, count in pairs})

    def save(self, path: AnyPath) -> None:
        """Write as parquet, whole or not at all."""
        reasons = "\n".join(f"{reason}\t{count}" for reason, count in self.left_out.items())
        with files.whole(files.local(path, "a plan"), alone=True) as beside:
            pq.write_table(self.table.replace_schema_metadata({"left_out": reasons}), beside)

    def __len__(self) -> int:
        return len(self.table)

    def coverage(self) -> dict[str, float]:
        """Label column -> share of the samples that have a label."""
        names = [n.removesuffix(":offset") for n in self.table.column_names if n.endswith(":offset")]
        return {
            n: 1 - self.table[f"{n}:offset"].null_count / max(len(self), 1)
            for n in names
            if n not in ("image", "caption")
        }

    def order(self, seed: int, epoch: int, group: int = 16) -> NDArray[np.int64]:
        """The rows in the order of an epoch, int64 [N]: shards permuted, then samples inside ``group`` shards."""
        rng = np.random.default_rng([seed, epoch])
        shards = self.table["shard"].combine_chunks().dictionary_encode().indices.to_numpy()
        starts = np.searchsorted(shards, np.arange(shards.max() + 2))
        permuted = rng.permutation(len(starts) - 1)
        parts = []
        for first in range(0, len(permuted), group):
            rows = [np.arange(starts[s], starts[s + 1]) for s in permuted[first : first + group]]
            parts.append(rng.permutation(np.concatenate(rows)))
        return np.concatenate(parts)

    def rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of these ``indices``, in their order: name of the table's column -> string, whole number or None."""
        rows: list[dict[str, Any]] = self.table.take(list(indices)).to_pylist()
        return rows

    def _check(self, reader: Reader, columns: Mapping[str, Column], floors: Mapping[str, float]) -> None:
        if not len(self):
            reasons = ", ".join(f"{count}× {reason}" for reason, count in self.left_out.items()) or "it is empty"
            raise PlanError(f"{reader.location} has no usable sample ({reasons}); run `clipzoo label` on it for a list")
        for name, share in self.coverage().items():
            if share == 0 and name in floors and columns[name].manifest.counts.labels:
                raise PlanError(
                    f"no label of {name} reaches min_confidence {floors[name]:g}, or none bears a key of "
                    f"{reader.location}; `clipzoo labels show {name}` tells how sure they are: lower it"
                )
            if share == 0:
                raise PlanError(
                    f"no label of {name} ({columns[name].path}) bears a key of {reader.location}: the store is empty "
                    "or was made from another dataset; label this dataset, or name its own store"
                )


def entry_of(row: Mapping[str, Any]) -> Entry:
    """The reader's entry of a plan row."""
    members = {row[f"{part}:ext"]: (row[f"{part}:offset"], row[f"{part}:size"]) for part in ("image", "caption")}
    return Entry(row["key"], row["shard"], members, row["image:ext"], row["caption:ext"])


def _samples(entries: list[Entry]) -> pa.Table:
    fields: dict[str, pa.Array] = {
        "shard": pa.array([e.shard for e in entries], pa.string()),
        "key": pa.array([e.key for e in entries], pa.string()),
    }
    for part in ("image", "caption"):
        exts = [getattr(e, part) for e in entries]
        spans = [e.members[ext] for e, ext in zip(entries, exts, strict=True)]
        fields[f"{part}:ext"] = pa.array(exts, pa.string())
        for i, name in enumerate(_SPANS):
            fields[f"{part}:{name}"] = pa.array([span[i] for span in spans], pa.int64())
    return pa.table(fields)


def _join(samples: pa.Table, name: str, column: Column, shard: str, floor: float | None) -> pa.Table:
    """Left join of one shard by key."""
    spans: dict[str, tuple[int, int]] = {}
    if column.has(shard):
        rows = column.rows(shard).to_pydict()
        for key, offset, size, error, sure in zip(
            rows["key"], rows["offset"], rows["size"], rows["error"], rows["confidence"], strict=True
        ):
            if error is None and (floor is None or sure is None or sure >= floor):
                spans[key] = (offset, size)
    found = [spans.get(key) for key in samples["key"].to_pylist()]
    for i, field in enumerate(_SPANS):
        values = pa.array([span[i] if span else None for span in found], pa.int64())
        samples = samples.append_column(f"{name}:{field}", values)
    return samples
