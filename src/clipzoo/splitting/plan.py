"""The plan of a split: a table with one row for each sample, in the order of the dataset.

``samples.parquet`` has the place of every sample in the dataset (``source_shard``, ``source_key``), its ``part``,
``shard`` and ``key`` there, its ``class``, the ``group`` it belongs to, and the ``reason``: why it is in the group, or
why it is in no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipzoo import files
from clipzoo.checking import Findings
from clipzoo.readers import Entry, Reader
from clipzoo.readers.decode import read_image
from clipzoo.readers.webdataset.layout import Layout
from clipzoo.readers.webdataset.tar import is_kept
from clipzoo.splitting.parts import PARTS
from clipzoo.splitting.samples import MISSING, Labeled
from clipzoo.types import Failure

TABLE = "samples.parquet"
NO_CLASS = "the sample has no class"


class Row(TypedDict):
    """A row of the table; empty texts and None where there is no value."""

    source_shard: str
    source_key: str
    number: int
    part: str
    shard: str
    key: str
    class_index: int | None
    group: int | None
    reason: str


_SCHEMA = pa.schema(
    [
        ("source_shard", pa.string()), ("source_key", pa.string()), ("number", pa.int64()), ("part", pa.string()),
        ("shard", pa.string()), ("key", pa.string()), ("class_index", pa.int64()), ("group", pa.int64()),
        ("reason", pa.string()),
    ]
)  # fmt: skip


class Places:
    """Gives samples their shards and keys, in the order of the dataset."""

    def __init__(self, shard_size: int) -> None:
        self.shard_size = shard_size
        self.counts = dict.fromkeys(PARTS, 0)
        self.keys: dict[str, set[str]] = {part: set() for part in PARTS}

    def take(self, part: str, key: str) -> tuple[str, str]:
        """Return (shard, key) of the next sample of a part; a key that a shard cannot have is changed."""
        if self.counts[part] % self.shard_size == 0:
            self.keys[part].clear()
        shard = f"{self.counts[part] // self.shard_size:05d}"
        self.counts[part] += 1
        clean = key.rpartition("/")[2].replace(".", "_") if "." in key.rpartition("/")[2] else ""
        clean = key.rpartition("/")[0] + "/" * ("/" in key) + clean if clean else key
        if Layout().split(f"{clean}.x") is None or not is_kept(f"{clean}.x"):
            clean = hashlib.sha256(key.encode()).hexdigest()[:16]
        unique, again = clean, 1
        while unique in self.keys[part]:
            again += 1
            unique = f"{clean}-{again}"
        self.keys[part].add(unique)
        return shard, unique


def write(
    path: Path, findings: Findings, reader: Reader, data: Labeled, parts: NDArray[np.int8], shard_size: int
) -> None:
    """Write the table of all samples, the unusable ones with their reasons."""
    sizes = np.bincount(data.roots, minlength=findings.usable)
    places, at = Places(shard_size), 0
    with files.atomic(path) as partial, pq.ParquetWriter(files.for_arrow(partial), _SCHEMA) as table:
        for shard, numbers in findings.usable_places():
            entries = reader.index(shard)
            index = {int(number): place for place, number in enumerate(numbers, at)}
            rows = [
                _row(shard, number, entry, index[number], data, parts, sizes, places)
                if number in index
                else _unusable(shard, number, entry, reader)
                for number, entry in enumerate(entries)
            ]
            table.write_table(pa.Table.from_pylist(rows, _SCHEMA))
            at += len(numbers)


def rows(path: Path, part: str | None = None) -> Iterator[Row]:
    """Yield the rows of the table, or those of one part."""
    with pq.ParquetFile(files.for_arrow(path)) as table:
        for batch in table.iter_batches(4096):
            for row in batch.to_pylist():
                if part is None or row["part"] == part:
                    yield row


def _row(
    shard: str, number: int, entry: Entry, place: int, data: Labeled, parts: NDArray[np.int8],
    sizes: NDArray[np.int64], places: Places,
) -> Mapping[str, object]:  # fmt: skip
    root, index = int(data.roots[place]), int(data.classes[place])
    common: dict[str, object] = {"source_shard": text(shard), "source_key": entry.key, "number": number}
    common["group"] = root if sizes[root] > 1 else None
    if parts[place] == MISSING:
        return {**common, "part": "", "shard": "", "key": "", "class_index": None, "reason": f"no-class: {NO_CLASS}"}
    part = PARTS[parts[place]]
    new_shard, key = places.take(part, entry.key)
    class_index = index if data.classnames else None
    reason = data.reasons.get(place, "") if sizes[root] > 1 else ""
    return {**common, "part": part, "shard": new_shard, "key": key, "class_index": class_index, "reason": reason}


def _unusable(shard: str, number: int, entry: Entry, reader: Reader) -> Mapping[str, object]:
    result = read_image(reader, entry)
    failure = result if isinstance(result, Failure) else Failure("cannot-read", "the sample could not be read")
    reason = f"{failure.code}: {failure.detail}"
    return {
        "source_shard": text(shard), "source_key": entry.key, "number": number, "part": "", "shard": "", "key": "",
        "class_index": None, "group": None, "reason": text(reason),
    }  # fmt: skip


def text(value: str) -> str:
    """Return a text without bytes that are not UTF-8."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
