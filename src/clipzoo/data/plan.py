"""The plan: every usable sample with the places of its labels, built before training starts.

Images and columns are joined by shard and key. A sample with a missing label stays in the plan. A sample that cannot
be read is left out and counted by reason. The order of an epoch is a pure function of (seed, epoch), so a run can
stop at any step and resume at the exact sample.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipzoo import files
from clipzoo.data.filters import Where
from clipzoo.errors import CheckpointError, PlanError, brief
from clipzoo.files import AnyPath
from clipzoo.readers import fingerprint, shard_fingerprint
from clipzoo.readers.base import Entry, Reader
from clipzoo.store import TAR_MARK, Column, marks_of

_SPANS = ("offset", "size")

_TEXT = pa.large_string()
"""Arrow's plain string type holds 2^31 bytes per column, less than the keys of a large dataset."""

INDEXED = 8
"""Number of shards that are indexed in parallel from a network."""


@dataclass(frozen=True)
class Plan:
    """A table of samples, one per row.

    Columns of ``table``: shard, key, image and caption (extension, offset, size), and for every label column its
    offset and size, null if the label is missing. ``texts``, if the dataset was opened with caption fields, has their
    members as JSON: name -> (offset, size).

    Attributes:
        left_out: kind of failure -> number of samples that cannot be used.
        tars: label column -> shard with rows -> checksum of its labels, "" if the store has none. Empty in old plans.
        places: shard -> (`Reader.state`, digest of its samples' places) when it was indexed. Empty in old plans.
    """

    table: pa.Table
    left_out: Mapping[str, int]
    tars: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    places: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        reader: Reader,
        columns: Mapping[str, Column],
        *,
        min_confidence: Mapping[str, float] | None = None,
        where: Mapping[str, Where] | None = None,
        max_samples: int | None = None,
    ) -> Plan:
        """Join a dataset with columns.

        Args:
            reader: the dataset.
            columns: name -> column.
            min_confidence: name -> least confidence of used labels.
            where: name -> condition on used labels.
            max_samples: largest number of samples in the plan.

        Raises:
            PlanError: no sample is usable, or no label of a column matches a sample.
            StoreError: a column is of another dataset or other images, has shards made under another manifest, or has
                rows without labels.
        """
        identity = fingerprint(reader) if columns else {}
        for column in columns.values():
            column.manifest.belongs(identity, column.path)
        tables, left_out, total = [], Counter[str](), 0
        places: dict[str, tuple[str, str]] = {}
        tars: dict[str, dict[str, str]] = {name: {} for name in columns}
        unmarked = defaultdict[str, list[str]](list)
        indexes = files.map_ahead(reader.index, reader.shards, min(reader.threads, INDEXED))
        for shard, entries in zip(reader.shards, indexes, strict=False):
            left_out.update(e.failure.kind for e in entries if e.failure)
            table = _samples([e for e in entries if not e.failure], bool(reader.drawn))
            places[shard] = reader.state(shard), _places(reader, shard, entries)
            source = shard_fingerprint(reader, shard, entries) if columns else ""
            for name, column in columns.items():
                rows = column.rows(shard) if column.has(shard) else None
                if rows is not None:
                    marks = marks_of(rows.schema)
                    column.check_meaning(shard, marks)
                    if not column.check_pictures(shard, marks, source):
                        unmarked[name].append(shard)
                    tars[name][shard] = marks.get(TAR_MARK, "")
                table = _join(table, name, rows, (min_confidence or {}).get(name), (where or {}).get(name))
            tables.append(table if max_samples is None else table.slice(0, max_samples - total))
            total += len(tables[-1])
            if total == max_samples:
                break
        for name, shards in unmarked.items():
            columns[name].warn_unmarked(shards)
        plan = cls(pa.concat_tables(tables) if tables else _samples([]), dict(left_out), tars, places)
        plan._check(reader, columns, min_confidence or {}, where or {})
        return plan

    @classmethod
    def load(cls, path: AnyPath) -> Plan:
        """Load a plan that `save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        path = files.local(path, "a plan")
        try:
            table = pq.read_table(path)
            marks = {name.decode(): text.decode() for name, text in (table.schema.metadata or {}).items()}
            pairs = [line.rsplit("\t", 1) for line in marks.get("left_out", "").splitlines()]
            left_out = {reason: int(count) for reason, count in pairs}
            tars, places = (json.loads(marks.get(name, "{}")) for name in ("tars", "places"))
            table = table.cast(_wide(table.schema))
            table.select(_samples([]).column_names)
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} is not a plan ({brief(error)}). Delete it and the plan.json next to it, and rerun the "
                "command: both are made again from dataset and labels"
            ) from error
        # otherwise every `take` would combine the chunks
        return cls(table.combine_chunks(), left_out, tars, {shard: (a, b) for shard, (a, b) in places.items()})

    def save(self, path: AnyPath) -> None:
        """Write as parquet, atomically."""
        reasons = "\n".join(f"{reason}\t{count}" for reason, count in self.left_out.items())
        marks = {"left_out": reasons, "tars": json.dumps(self.tars), "places": json.dumps(self.places)}
        with files.atomic(files.local(path, "a plan"), exclusive=True) as draft:
            pq.write_table(self.table.replace_schema_metadata(marks), draft)

    def __len__(self) -> int:
        return len(self.table)

    def coverage(self) -> dict[str, float]:
        """Return label column -> share of the samples with a label."""
        names = [n.removesuffix(":offset") for n in self.table.column_names if n.endswith(":offset")]
        return {
            n: 1 - self.table[f"{n}:offset"].null_count / max(len(self), 1)
            for n in names
            if n not in ("image", "caption")
        }

    def labeled(self) -> dict[str, int]:
        """Return label column -> number of samples with a label."""
        return {name: len(self) - self.table[f"{name}:offset"].null_count for name in self.coverage()}

    def summary(self) -> Iterator[str]:
        """Yield a line per label column: number of samples with a label, and of shards without labels."""
        shards = set(self.table["shard"].unique().to_pylist())
        for name, labels in self.labeled().items():
            missing = len(shards - set(self.tars[name])) if name in self.tars else 0
            share = _percent(labels, len(self))
            yield f"{name}: {labels:,} of {len(self):,} samples have a label ({share})" + (
                f"; {missing:,} of {len(shards):,} shards are not labeled" if missing else ""
            )

    def changed_shards(self, reader: Reader) -> tuple[list[str], Plan]:
        """Return the shards whose samples have changed since they were indexed, and the plan with new file states.

        Only shards whose files may have changed are indexed again.
        """
        shards = list(self.places)
        states = dict(zip(shards, files.map_ahead(reader.state, shards, min(reader.threads, INDEXED)), strict=True))
        stale = [shard for shard in shards if not states[shard] or states[shard] != self.places[shard][0]]
        now = files.map_ahead(lambda s: _places(reader, s, reader.index(s)), stale, min(reader.threads, INDEXED))
        current = {shard: (states[shard], digest) for shard, digest in zip(stale, now, strict=True)}
        changed = [shard for shard, (_, digest) in current.items() if digest != self.places[shard][1]]
        return changed, replace(self, places={**self.places, **current})

    def order(self, seed: int, epoch: int, group: int = 16) -> NDArray[np.int64]:
        """Return the row indices of an epoch, int64 [N]: shards permuted, then samples within groups of ``group`` "
        "shards."""
        rng = np.random.default_rng([seed, epoch])
        shards = self.table["shard"].dictionary_encode().combine_chunks().indices.to_numpy()
        starts = np.searchsorted(shards, np.arange(shards.max() + 2))
        permuted = rng.permutation(len(starts) - 1)
        parts = []
        for first in range(0, len(permuted), group):
            rows = [np.arange(starts[s], starts[s + 1]) for s in permuted[first : first + group]]
            parts.append(rng.permutation(np.concatenate(rows)))
        return np.concatenate(parts)

    def rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows with these ``indices``, in order: name of the table's column -> string, integer or None."""
        rows: list[dict[str, Any]] = self.table.take(list(indices)).to_pylist()
        return rows

    def _check(
        self,
        reader: Reader,
        columns: Mapping[str, Column],
        floors: Mapping[str, float],
        where: Mapping[str, Where],
    ) -> None:
        if not len(self):
            reasons = ", ".join(f"{count}× {reason}" for reason, count in self.left_out.items()) or "it is empty"
            raise PlanError(f"{reader.location} has no usable sample ({reasons}). `clipzoo check` lists the reasons")
        for name, share in self.coverage().items():
            if share == 0 and name in floors and columns[name].manifest.counts.labels:
                raise PlanError(
                    f"no label of {name} reaches min_confidence {floors[name]:g}, or none has a key of "
                    f"{reader.location}. Lower min_confidence"
                )
            if share == 0 and name in where and columns[name].manifest.counts.labels:
                raise PlanError(
                    f"no label of {name} meets its condition where: {where[name].text!r}, or none has a key of "
                    f"{reader.location}. Relax the condition"
                )
            if share == 0:
                raise PlanError(
                    f"no label of {name} ({columns[name].path}) has a key of {reader.location}: the store is empty "
                    "or was made from another dataset. Label this dataset, or give the store of its labels"
                )


def entry_of(row: Mapping[str, Any]) -> Entry:
    """Return the reader's entry of a row of the plan."""
    texts = {name: tuple(span) for name, span in json.loads(row.get("texts") or "{}").items()}
    members = {row[f"{part}:ext"]: (row[f"{part}:offset"], row[f"{part}:size"]) for part in ("image", "caption")}
    return Entry(row["key"], row["shard"], texts | members, row["image:ext"], row["caption:ext"], texts=tuple(texts))


def _samples(entries: list[Entry], drawn: bool = False) -> pa.Table:
    fields: dict[str, pa.Array] = {
        "shard": pa.array([e.shard for e in entries], _TEXT),
        "key": pa.array([e.key for e in entries], _TEXT),
    }
    for part in ("image", "caption"):
        exts = [getattr(e, part) for e in entries]
        spans = [e.members[ext] for e, ext in zip(entries, exts, strict=True)]
        fields[f"{part}:ext"] = pa.array(exts, _TEXT)
        for i, name in enumerate(_SPANS):
            fields[f"{part}:{name}"] = pa.array([span[i] for span in spans], pa.int64())
    if drawn:  # members that hold caption fields
        texts = [json.dumps({name: e.members[name] for name in e.texts}) if e.texts else "" for e in entries]
        fields["texts"] = pa.array(texts, _TEXT)
    return pa.table(fields)


def _places(reader: Reader, shard: str, entries: Sequence[Entry]) -> str:
    """Return a digest of the places of a shard's samples, and of its contents."""
    samples = [f"{e.key} {e.error} {e.image} {e.caption} {sorted(e.members.items())}" for e in entries]
    text = "\n".join([*samples, reader.contents(shard)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _wide(schema: pa.Schema) -> pa.Schema:
    """Return a plan's schema with large strings; old plans have plain strings."""
    return pa.schema([(one.name, _TEXT if one.type == pa.string() else one.type) for one in schema])


def _percent(part: int, whole: int) -> str:
    """Format a share as "98 %"; 0 and 100 are only used if exact."""
    share = 100 * part / max(whole, 1)
    if part in (0, whole) or 0.5 <= share < 99.5:
        return f"{share:.0f} %"
    return f"{min(max(share, 0.1), 99.9):.1f} %"


def _join(
    samples: pa.Table, name: str, labels: pa.Table | None, floor: float | None, where: Where | None = None
) -> pa.Table:
    """Left join of one shard's labels by key; ``labels`` is None if the shard is not labeled."""
    spans: dict[str, tuple[int, int]] = {}
    if labels is not None and where is not None:
        labels = labels.filter(pa.array([where.holds(row) for row in labels.to_pylist()], pa.bool_()))
    if labels is not None:
        rows = labels.to_pydict()
        for key, offset, size, confidence in zip(
            rows["key"], rows["offset"], rows["size"], rows["confidence"], strict=True
        ):
            if size is not None and (floor is None or confidence is None or confidence >= floor):
                spans[key] = (offset, size)
    matched = [spans.get(key) for key in samples["key"].to_pylist()]
    for i, part in enumerate(_SPANS):
        values = pa.array([span[i] if span else None for span in matched], pa.int64())
        samples = samples.append_column(f"{name}:{part}", values)
    return samples
