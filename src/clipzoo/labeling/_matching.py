"""Matching of samples with existing labels: each label belongs to one sample."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipzoo import files
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import Expert
from clipzoo.importers import Importer
from clipzoo.labeling.plan import Job
from clipzoo.readers import Reader
from clipzoo.store import Column
from clipzoo.types import hash64

Keys = Callable[[str], Iterable[str]]
"""Returns the keys of a shard that may have a label."""


class Places:
    """The places of an importer's labels: 8 bytes of hash per label, to find two samples that share one."""

    def __init__(self, expert: Importer) -> None:
        self.expert = expert
        self.shards: list[str] = []
        self._hashes = array("Q")

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, shard: str, keys: Iterable[str]) -> list[str]:
        """Add the labels of a shard's samples. Return the keys without a label."""
        self.shards.append(shard)
        without = []
        for key in keys:
            place = _place(self.expert, key)
            if place is None:
                without.append(key)
            else:
                self._hashes.append(_hash(place))
        return without

    def check(self, keys: Keys) -> None:
        """Raise `ExpertError` if two samples share a label. Their keys are read again only if two hashes are equal."""
        ordered = np.sort(np.frombuffer(self._hashes, np.uint64))
        repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        owners: dict[str, tuple[str, str]] = {}
        for own in ((shard, key) for shard in self.shards if repeated for key in keys(shard)):
            place = _place(self.expert, own[1])
            if place is not None and _hash(place) in repeated and owners.setdefault(place, own) != own:
                raise ExpertError(_twice(place, owners[place], own))


def usable_keys(reader: Reader, shard: str) -> list[str]:
    """Return the keys of a shard's usable samples."""
    return [entry.key for entry in reader.index(shard) if entry.error is None]


def check_distinct(reader: Reader, experts: Sequence[Expert], columns: Sequence[Column], jobs: Sequence[Job]) -> None:
    """Raise `ExpertError` if two samples share an existing label.

    Samples are those of the jobs, and those with a label in the columns. Only the shards of the jobs are indexed.
    """
    found = {i: Places(one) for i, one in enumerate(experts) if isinstance(one, Importer) and not one.distinct}
    needed = {job.shard: of for job in jobs if (of := [found[i] for i in job.columns if i in found])}
    for shard, keys in _keys_of(reader, needed):
        for places in needed[shard]:
            places.add(shard, keys)
    for i, places in found.items():
        _check_column(reader, columns[i], places)


def _keys_of(reader: Reader, shards: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the keys of the usable samples of shards; those on a network are indexed by several threads."""
    return files.map_ahead(lambda shard: (shard, usable_keys(reader, shard)), shards, reader.threads)


def _check_column(reader: Reader, column: Column, places: Places) -> None:
    """Check the places of the shards to be labeled, together with those of the column's other shards."""
    new = set(places.shards)

    def keys(shard: str) -> list[str]:
        return usable_keys(reader, shard) if shard in new else _with_label(column.rows(shard))

    if new:
        for shard, rows in column.tables():
            if shard not in new:
                places.add(shard, _with_label(rows))
        places.check(keys)


def _with_label(rows: pa.Table) -> list[str]:
    labeled: list[str] = rows.filter(pc.is_valid(rows["size"]))["key"].to_pylist()
    return labeled


def _place(expert: Importer, key: str) -> str | None:
    """Return the place of a sample's label; None if there is none, or the key is not a valid name of a label."""
    try:
        return expert.place(key)
    except (SampleError, OSError):
        return None


def _hash(place: str) -> int:
    return hash64(place.encode("utf-8", "surrogateescape"))


def _twice(place: str, one: tuple[str, str], other: tuple[str, str]) -> str:
    """Return the error for two samples, each (shard, key), that share a label."""
    (shard, key), (other_shard, other_key) = one, other
    if key != other_key:
        return (
            f"the samples {key!r} and {other_key!r} would both get the label {place!r}. Match by whole keys: "
            "match=key, with labels named by keys"
        )
    return (
        f"the samples {key!r} of the shards {shard!r} and {other_shard!r} would both get the label {place!r}. Keys "
        "must be unique over all shards: change the keys (in tables by ?key=), or import each shard into its own store"
    )
