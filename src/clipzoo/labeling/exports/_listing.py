"""The labels of columns in the dataset's order, and the list of those that an export leaves out or changes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Protocol, cast

from clipzoo import tasks
from clipzoo.errors import LabelError, SampleError
from clipzoo.labeling.exports.base import Labeled
from clipzoo.progress import Progress
from clipzoo.readers import ROW, Entry, Reader, prefetched, shard_fingerprint
from clipzoo.store import Column
from clipzoo.store.rows import Row
from clipzoo.types import BoolArray, View, image_size

EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}
"""Format of an image file -> its usual extension, if that is another word."""

HEADER = "shard\tkey\tcolumn\tchange\treason\n"


class _Known(Protocol):
    valid: BoolArray


class Walk:
    """See `clipzoo.labeling.exports.base.Labels`. Each sample that is left out or changed is a line of ``lines``."""

    def __init__(self, columns: Sequence[Column], reader: Reader, progress: Progress, lines: IO[str]) -> None:
        self.columns, self.reader, self.progress, self.lines = columns, reader, progress, lines
        self.pictures = self.left_out = self.changed = self.unread = 0
        self._shard = ""
        self._lost: set[str] = set()

    def __iter__(self) -> Iterator[Labeled]:
        committed = [column.committed() for column in self.columns]
        labeled = set[str]().union(*committed)
        with prefetched(self.reader, [shard for shard in self.reader.shards if shard in labeled]) as turns:
            for done, shard in enumerate(self.reader.shards):
                self._shard = shard
                self.progress.step("export", done, len(self.reader.shards))
                if shard in labeled:
                    next(turns)
                    yield from self._of_shard(shard, [shard in one for one in committed])
                else:
                    self._without_labels(shard)
        self.progress.step("export", len(self.reader.shards), len(self.reader.shards))

    def _without_labels(self, shard: str) -> None:
        """List the samples of a shard without labels. On a network they would be downloaded: list only the shard."""
        if self.reader.threads > 1:
            self.unread += 1
            for column in self.columns:
                self._write("", column, "left out", "the shard is not labeled")
        else:
            for entry in self.reader.index(shard):
                self._labeled(entry, {})

    def _of_shard(self, shard: str, committed: Sequence[bool]) -> Iterator[Labeled]:
        """Yield the images of a shard that have a label; `StoreError` if a column labels other samples there."""
        rows: dict[str, dict[str, Row]] = {}
        entries = self.reader.index(shard)
        source = shard_fingerprint(self.reader, shard, entries)
        with ExitStack() as stack:
            for column, there in zip(self.columns, committed, strict=True):
                rows[column.name] = column.checked(shard, source) if there else {}
                if there:
                    stack.enter_context(column.cached(shard))
            for entry in entries:
                self._lost.clear()
                one = self._labeled(entry, {name: of.get(entry.key) for name, of in rows.items()})
                if one is not None:
                    self.pictures += 1
                    yield one
                    self._count(one)

    def _count(self, one: Labeled) -> None:
        """Count an image as left out if the writer has left out all of its labels."""
        if self._lost.issuperset(one.labels):
            self.pictures, self.left_out = self.pictures - 1, self.left_out + 1

    def _labeled(self, entry: Entry, rows: Mapping[str, Row | None]) -> Labeled | None:
        """Return an image with its labels, in pixels of the image; None if it has none."""
        labels: dict[str, object] = {}
        for column in self.columns:
            row = rows.get(column.name)
            if entry.error is not None or row is None or row["error"] is not None:
                why = entry.error or ("not labeled" if row is None else str(row["error"]))
                self._write(entry.key, column, "left out", why)
            else:
                try:
                    labels[column.name] = column.label(entry.shard, row)
                except LabelError as error:
                    self._write(entry.key, column, "left out", str(error))
        if labels:
            try:
                return self._in_pixels(entry, labels)
            except SampleError as error:
                for column in self.columns:
                    if column.name in labels:
                        self._write(entry.key, column, "left out", str(error))
        self.left_out += 1
        return None

    def _in_pixels(self, entry: Entry, labels: Mapping[str, object]) -> Labeled:
        sample = self.reader.read(entry)
        size, form = image_size(sample.image)
        fitting = {name: _resized(name, label, size) for name, label in labels.items()}
        extension = form if entry.image == ROW else entry.image
        first = next(iter(fitting.values()))
        name = f"{entry.key}.{extension}"
        return Labeled(entry.key, name, size, first, fitting, sample, EXTENSIONS.get(form, form))

    def leave_out(self, one: Labeled, column: Column, reason: str) -> None:
        """See `clipzoo.labeling.exports.base.Labels.leave_out`."""
        self._lost.add(column.name)
        self._write(one.key, column, "left out", reason)

    def note(self, one: Labeled, column: Column, change: str) -> None:
        """See `clipzoo.labeling.exports.base.Labels.note`."""
        self.changed += 1
        self._write(one.key, column, "changed", change)

    def _write(self, key: str, column: Column, change: str, reason: str) -> None:
        cells = (self._shard, key, column.name, change, reason)
        self.lines.write("\t".join(map(_in_a_cell, cells)) + "\n")


def waiting() -> IO[str]:
    """Return a temporary file for the lines of `Walk`."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")


def _resized(name: str, label: object, size: tuple[int, int]) -> object:
    """Return a label of the column ``name`` in an image of ``size`` (H, W)."""
    task = tasks.get(name.partition("/")[0])
    shape = cast(_Known, label).valid.shape
    return label if shape == size else task.crop_resize(label, View.whole(size))


def _in_a_cell(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
