"""Captions, classes and disagreement, which the tables of a store do not have: read once in the background.

Results are kept in memory for the life of the viewer, 6 bytes for each class of a label and 4 bytes for each pair of
columns and sample, in addition to the captions.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipzoo import tasks
from clipzoo.errors import ClipzooError, DatasetError, StoreError
from clipzoo.files import AnyPath
from clipzoo.locations import open_dataset
from clipzoo.readers import Entry, Reader, fingerprint, shard_fingerprint
from clipzoo.store import Column
from clipzoo.store.rows import SOURCE_MARK
from clipzoo.tasks.base import Task
from clipzoo.types import View
from clipzoo.viewer.table import LABELED, Table

CAPTION = 2000
"""Characters of a caption that are kept."""

Pairs = tuple[NDArray[np.int32], NDArray[np.uint16]]
"""Rows, ascending, and a class id of each."""


@dataclass(frozen=True)
class Labeled:
    """The dataset of columns, opened with pictures without captions as samples, and with them as failed samples.

    Fingerprints of labels record which of the two was labeled. That of a column is of the first shard alone, so where
    only later shards lack captions, both are possible.

    Attributes:
        every: the reader of all pictures.
        possible: the readers whose samples may have been labeled, by the fingerprint of the dataset.
    """

    every: Reader
    possible: tuple[Reader, ...]

    @classmethod
    def open(cls, data: AnyPath, columns: Sequence[Column]) -> Labeled:
        """Open the dataset.

        Raises:
            StoreError: a column belongs to another dataset.
            DatasetError: the dataset cannot be read.
        """
        every = open_dataset(data, captions="optional")
        readers = [every]
        with suppress(DatasetError):  # it has no captions at all
            readers.append(open_dataset(data))
        identities = [fingerprint(reader) for reader in readers]
        pairs = zip(readers, identities, strict=True)
        possible = tuple(one for one, identity in pairs if all(c.manifest.dataset == identity for c in columns))
        if not possible:
            for column in columns:
                column.manifest.belongs(identities[-1], column.path)
        return cls(every, possible or (every,))

    def shard(self, shard: str, columns: Sequence[Column]) -> tuple[Reader, list[Entry]]:
        """Return the reader whose samples of a shard are labeled in these columns, and its entries.

        Raises:
            StoreError: the labels are of other samples.
        """
        marks = [column.marks(shard) for column in columns]
        for reader in self.possible:
            entries = reader.index(shard)
            source = shard_fingerprint(reader, shard, entries)
            if all(mark.get(SOURCE_MARK, source) == source for mark in marks):
                break
        for column, mark in zip(columns, marks, strict=True):
            column.check_pictures(shard, mark, source)
        return reader, entries


class Entries:
    """Indexes of the dataset's shards; the ``most`` last ones are kept."""

    def __init__(self, table: Table, labeled: Labeled, most: int = 4) -> None:
        self.table, self.labeled, self.reader, self.most = table, labeled, labeled.every, most
        self._kept: dict[str, dict[str, Entry]] = {}
        self._states: dict[str, str] = {}
        self._lock = threading.Lock()

    def shard(self, shard: str) -> dict[str, Entry]:
        """Return key -> entry.

        Raises:
            StoreError: the dataset has no such shard, or other samples in it, or the shard has changed meanwhile.
        """
        with self._lock:
            state = self.reader.state(shard) if shard in self.reader.shards else ""
            if self._states.setdefault(shard, state) != state:  # the reader's index is of the file before
                raise StoreError(f"the shard {shard!r} has changed since the viewer read it. Rerun `clipzoo view`")
            if shard not in self._kept:
                self._kept[shard] = self._read(shard)
                while len(self._kept) > self.most:
                    self._kept.pop(next(iter(self._kept)))
            return self._kept[shard]

    def _read(self, shard: str) -> dict[str, Entry]:
        if shard not in self.reader.shards:
            where = f"{shard!r} is not in {self.reader.location!r}"
            raise StoreError(f"the shard {where}. Give the labeled dataset by --data")
        labeled = [column for column in self.table.columns if column.file(shard, ".parquet").is_file()]
        reader, entries = self.labeled.shard(shard, labeled)
        entries = entries if reader is self.reader else self.reader.index(shard)
        return {entry.key: entry for entry in entries}

    def of(self, row: int) -> Entry:
        """Return the entry of a row.

        Raises:
            StoreError: the dataset does not have it.
        """
        shard, key = self.table.shards[self.table.shard(row)], self.table.key(row)
        entries = self.shard(shard)
        if key not in entries:
            raise StoreError(f"the sample {key!r} is not in the shard {shard!r} of the dataset")
        return entries[key]


class Scan:
    """A thread that reads captions of all shards, then classes and disagreement of all labels."""

    def __init__(self, table: Table, entries: Entries) -> None:
        self.table, self.entries = table, entries
        counts = np.diff(table.starts).tolist()
        self.captions: list[pa.Array] = [pa.nulls(count, pa.string()) for count in counts]
        self.classes: dict[int, list[Pairs]] = {
            i: [(np.zeros(0, np.int32), np.zeros(0, np.uint16)) for _ in counts]
            for i, column in enumerate(table.columns)
            if column.convention.classes
        }
        self.pairs = [
            (a, b)
            for (a, one), (b, other) in combinations(enumerate(table.columns), 2)
            if one.task == other.task and one.convention == other.convention
        ]
        self.disagreement = [np.full(len(table), np.nan, np.float32) for _ in self.pairs]
        self.done, self.total, self.version, self.problem = 0, 2 * len(table), 0, ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="view-scan", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, and wait for the end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is read; return True if it is."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        for work in (self._read_captions, self._read_labels):
            for number in range(len(self.table.shards)):
                if self._stop.is_set():
                    return
                try:
                    work(number)
                except (ClipzooError, OSError) as error:
                    self.problem = self.problem or str(error)
                self.version += 1
        self.done = self.total

    def _rows(self, number: int) -> range:
        return range(int(self.table.starts[number]), int(self.table.starts[number + 1]))

    def _read_captions(self, number: int) -> None:
        entries = self.entries.shard(self.table.shards[number])
        keys = self.table.keys.slice(self._rows(number).start, len(self._rows(number))).to_pylist()
        self.captions[number] = pa.array([self._caption(entries.get(key)) for key in keys], pa.string())

    def _caption(self, entry: Entry | None) -> str | None:
        self.done += 1
        if entry is None or entry.failure is not None or self._stop.is_set():
            return None
        try:
            return self.entries.reader.read(entry).caption[:CAPTION]
        except (ClipzooError, OSError):
            return None

    def _read_labels(self, number: int) -> None:
        found: dict[int, tuple[list[int], list[int]]] = {column: ([], []) for column in self.classes}
        needed = {*self.classes, *(column for pair in self.pairs for column in pair)}
        for row in self._rows(number):
            self.done += 1
            if self._stop.is_set():
                return
            labels = {column: label for column in needed if (label := self._label(column, row)) is not None}
            for column in found.keys() & labels.keys():
                ids = present(labels[column])
                found[column][0].extend([row] * len(ids))
                found[column][1].extend(ids)
            for values, (a, b) in zip(self.disagreement, self.pairs, strict=True):
                if a in labels and b in labels:
                    values[row] = disagreement(self.table, a, labels[a], labels[b])
        for column, (rows, classes) in found.items():
            self.classes[column][number] = np.array(rows, np.int32), np.array(classes, np.uint16)

    def _label(self, column: int, row: int) -> object | None:
        if self.table.cells[column].state[row] != LABELED:
            return None
        try:
            return self.table.label(column, row)
        except ClipzooError:
            return None

    def with_class(self, column: int, number: int) -> NDArray[np.int32]:
        """Return the rows whose label has a class."""
        return np.concatenate([rows[ids == number] for rows, ids in self.classes[column]])

    def histogram(self, column: int) -> NDArray[np.intp]:
        """Return the number of samples with each class."""
        count = len(self.table.columns[column].convention.classes)
        return sum((np.bincount(ids, minlength=count) for _, ids in self.classes[column]), np.zeros(count, np.intp))

    def names(self, column: int, row: int) -> list[str]:
        """Return the names of the classes in a label, as far as they are read."""
        if column not in self.classes:
            return []
        rows, ids = self.classes[column][self.table.shard(row)]
        start, end = np.searchsorted(rows, [row, row + 1])
        return [self.table.columns[column].convention.classes[i] for i in ids[start:end].tolist()]


def present(label: object) -> list[int]:
    """Return the class ids in a label, sorted; ignored objects do not count."""
    ids, valid, ignored = (getattr(label, name, None) for name in ("ids", "valid", "ignored"))
    if not isinstance(ids, np.ndarray):
        return []
    if isinstance(ignored, np.ndarray):
        ids = ids[~ignored]
    elif isinstance(valid, np.ndarray) and valid.shape == ids.shape:
        ids = ids[valid]
    return cast(list[int], np.unique(ids).tolist())


def disagreement(table: Table, column: int, one: object, other: object) -> float:
    """Return the first measure of the task between two labels, 1 minus it if higher is better; NaN without overlap."""
    task: Task[object] = tasks.get(table.columns[column].task)
    metric = task.metric(table.columns[column].convention)
    name, measure = next(iter(metric.measures.items()))
    size = label_size(one)
    if size and label_size(other) != size:
        other = task.view(other, View.whole(size))
    value = metric.of(metric.statistics(one, other)[None])[name]
    return 1 - value if measure.direction == "higher" else value


def label_size(label: object) -> tuple[int, int] | None:
    """Return the height and width of a label."""
    size = getattr(label, "size", None)
    if isinstance(size, tuple):
        return cast(tuple[int, int], size)
    valid = getattr(label, "valid", None)
    return cast(tuple[int, int], valid.shape[-2:]) if isinstance(valid, np.ndarray) else None
