"""The plan: every usable sample with the places of its labels, built before training starts.

Images and columns are joined by shard and key. A sample with a missing label stays in the plan. A sample that cannot
be read is left out and counted by reason. The order of an epoch is a pure function of (seed, epoch), so a run can
stop at any step and resume at the exact sample.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipzoo import files
from clipzoo.data import planfile
from clipzoo.data.filters import Where
from clipzoo.data.joining import ShardRows, indexed, joined
from clipzoo.data.order import GROUP, EpochOrder
from clipzoo.data.spreading import THREADS, over_shards
from clipzoo.errors import CheckpointError, PlanError, brief
from clipzoo.files import AnyPath
from clipzoo.progress import Progress, Silent
from clipzoo.readers import fingerprint
from clipzoo.readers.base import Entry, Reader
from clipzoo.store import Column


@dataclass(frozen=True)
class Plan:
    """A table of samples, one per row.

    Columns of ``table``: shard, key, image and caption (extension, offset, size), and for every label column its
    offset and size, null if the label is missing. ``texts``, if the dataset was opened with caption fields, has their
    members as JSON: name -> (offset, size). The table of a loaded plan is mapped from its file.

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
        path: AnyPath | None = None,
        processes: int | None = None,
        progress: Progress | None = None,
    ) -> Plan:
        """Join a dataset with columns.

        Args:
            reader: the dataset.
            columns: name -> column.
            min_confidence: name -> least confidence of used labels.
            where: name -> condition on used labels.
            max_samples: largest number of samples in the plan.
            path: file to which the plan is written shard by shard; by default it is built in memory.
            processes: the most processes that index shards, by default one for each core; more than one if
                the dataset is of tar files on a local disk and takes longer than `spreading.PATIENCE`.
            progress: receives the number of shards that are done.

        Raises:
            PlanError: no sample is usable, or no label of a column matches a sample.
            StoreError: a column is of another dataset or other images, has shards made under another manifest, or has
                rows without labels.
        """
        identity = fingerprint(reader) if columns else {}
        for column in columns.values():
            column.manifest.belongs(identity, column.path)
        floors, where = min_confidence or {}, where or {}
        shards = over_shards(partial(joined, reader, columns, floors, where), reader, reader.shards, processes)

        def written(sink: str | pa.NativeFile) -> None:
            names = list(columns)
            with closing(shards), planfile.PlanWriter(sink, reader.shards, names, reader.reads_texts) as writer:
                writer.finish(_written(writer, reader, columns, shards, max_samples, progress or Silent()))

        if path is None:
            memory = pa.BufferOutputStream()
            written(memory)
            plan = cls._of(*planfile.read(memory.getvalue()))
            plan._check(reader, columns, floors, where)
            return plan
        with files.atomic(files.local(path, "a plan"), exclusive=True) as draft:
            written(str(draft))
            plan = cls._of(*planfile.read(draft))
            plan._check(reader, columns, floors, where)
        return plan

    @classmethod
    def load(cls, path: AnyPath) -> Plan:
        """Load a plan that `save` or `build` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        path = files.local(path, "a plan")
        try:
            return cls._of(*planfile.read(path))
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} is not a plan ({brief(error)}). Delete it and the plan.json next to it, and rerun the "
                "command: both are made again from dataset and labels"
            ) from error

    @classmethod
    def _of(cls, table: pa.Table, marks: Mapping[str, str]) -> Plan:
        pairs = [line.rsplit("\t", 1) for line in marks.get("left_out", "").splitlines()]
        tars, places = (json.loads(marks.get(name, "{}")) for name in ("tars", "places"))
        left_out = {reason: int(count) for reason, count in pairs}
        return cls(table, left_out, tars, {shard: (a, b) for shard, (a, b) in places.items()})

    def save(self, path: AnyPath) -> None:
        """Write to a file, atomically: as parquet if its name ends with ``.parquet``, else as Arrow, to be mapped."""
        path = files.local(path, "a plan")
        with files.atomic(path, exclusive=True) as draft:
            planfile.write(
                self.table, _marks(self.left_out, self.tars, self.places), draft, parquet=path.suffix == ".parquet"
            )

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
        shards = set(self.shards)
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
        states = dict(zip(shards, files.map_ahead(reader.state, shards, min(reader.threads, THREADS)), strict=True))
        stale = [shard for shard in shards if not states[shard] or states[shard] != self.places[shard][0]]
        now = over_shards(partial(indexed, reader), reader, stale)
        current = {shard: (states[shard], digest) for shard, digest in zip(stale, now, strict=True)}
        changed = [shard for shard, (_, digest) in current.items() if digest != self.places[shard][1]]
        return changed, replace(self, places={**self.places, **current})

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each shard in the plan, and the number of rows, int64 [shards + 1]."""
        starts, first, last = [np.zeros(0, np.int64)], 0, None
        for batch in self._batches:
            codes = batch["shard"].indices.to_numpy()
            inner = np.flatnonzero(codes[1:] != codes[:-1]) + 1
            starts.append(first + (inner if codes[0] == last else np.append(0, inner)))
            first, last = first + len(codes), codes[-1]
        return np.append(np.concatenate(starts), first)

    @property
    def shards(self) -> list[str]:
        """The shard at each of `starts`."""
        return [row["shard"] for row in self._taken(self.starts[:-1], ["shard"])]

    def epoch(self, seed: int, epoch: int, group: int = GROUP) -> EpochOrder:
        """Return the order of an epoch, drawn as it is read: shards permuted, then samples within groups of them."""
        return EpochOrder(self.starts, seed, epoch, group)

    def order(self, seed: int, epoch: int, group: int = GROUP) -> NDArray[np.int64]:
        """Return the row indices of a whole epoch, int64 [N]. `epoch` gives the same order and keeps no array of it."""
        return self.epoch(seed, epoch, group).take(np.arange(len(self)))

    def rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows with these ``indices``, in order: name of the table's column -> string, integer or None."""
        return self._taken(np.asarray(indices, np.int64), self.table.column_names)

    def without(self, rows: Sequence[int]) -> Plan:
        """Return the plan without some rows, in ascending order. Nothing is copied."""
        edges = [-1, *rows, len(self)]
        kept = [self.table.slice(a + 1, b - a - 1) for a, b in pairwise(edges) if b > a + 1]
        return replace(self, table=pa.concat_tables(kept) if kept else self.table.slice(0, 0))

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return [batch for batch in self.table.to_batches() if len(batch)]

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, self._batches)])

    def _taken(self, indices: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return columns of some rows. `pa.Table.take` copied all keys of a table of several chunks (pyarrow < 19)."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"the plan has {len(self)} rows")
        found: list[dict[str, Any]] = [{} for _ in indices]
        numbers = np.searchsorted(self._firsts, indices, "right") - 1
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            part = self._batches[number].select(names).take(pa.array(indices[places] - self._firsts[number]))
            plain = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in part.columns]
            for place, values in zip(places, zip(*(one.to_pylist() for one in plain), strict=True), strict=True):
                found[place] = dict(zip(names, values, strict=True))
        return found

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


def _written(
    writer: planfile.PlanWriter,
    reader: Reader,
    columns: Mapping[str, Column],
    shards: Iterator[ShardRows],
    max_samples: int | None,
    progress: Progress,
) -> dict[str, str]:
    """Write the rows of all shards, and return the plan's other values."""
    left_out, total = Counter[str](), 0
    states: dict[str, tuple[str, str]] = {}
    tars: dict[str, dict[str, str]] = {name: {} for name in columns}
    unmarked = defaultdict[str, list[str]](list)
    for number, (shard, made) in enumerate(zip(reader.shards, shards, strict=False)):
        left_out.update(made.left_out)
        states[shard] = made.place
        for name, checksum in made.tars.items():
            tars[name][shard] = checksum
        for name in made.unmarked:
            unmarked[name].append(shard)
        rows = made.rows if max_samples is None else made.rows.slice(0, max_samples - total)
        writer.add(number, rows)
        total += len(rows)
        progress.step("indexing", number + 1, len(reader.shards), f"{total:,} samples")
        if total == max_samples:
            progress.step("indexing", len(reader.shards), len(reader.shards))
            break
    for name, names in unmarked.items():
        columns[name].warn_unmarked(names)
    return _marks(left_out, tars, states)


def _marks(
    left_out: Mapping[str, int], tars: Mapping[str, Mapping[str, str]], states: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    reasons = "\n".join(f"{reason}\t{count}" for reason, count in left_out.items())
    return {"left_out": reasons, "tars": json.dumps(tars), "places": json.dumps(states)}


def _percent(part: int, whole: int) -> str:
    """Format a share as "98 %"; 0 and 100 are only used if exact."""
    share = 100 * part / max(whole, 1)
    if part in (0, whole) or 0.5 <= share < 99.5:
        return f"{share:.0f} %"
    return f"{min(max(share, 0.1), 99.9):.1f} %"
