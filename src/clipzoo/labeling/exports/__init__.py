"""A column's labels in the formats of others; one file a format, whose name is the format's.

A file has ``TASKS``, the tasks whose labels the format holds, and `base.Write` as ``write``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clipzoo import files, tasks
from clipzoo.errors import StoreError
from clipzoo.files import AnyPath, Place
from clipzoo.labeling.exports.base import Labeled, LabelFormatPlugin
from clipzoo.plugins import Registry
from clipzoo.readers import Entry, Reader, fingerprint, in_turn, open_dataset
from clipzoo.readers._rows import ROW
from clipzoo.store import Column, Store
from clipzoo.types import View, image_size

__all__ = ["PLUGINS", "Exported", "LabelFormatPlugin", "Labeled", "export_labels"]

PLUGINS: Registry[LabelFormatPlugin] = Registry("labeling.exports", ("TASKS", "write"))


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written where: pictures with a label, and how many samples have none and are left out."""

    column: str
    path: Place
    pictures: int
    left_out: int


def export_labels(store: AnyPath, data: AnyPath, to: str, out: AnyPath, column: str = "") -> Exported:
    """Write a column of a store in another format, in the frames of the dataset's own pictures.

    Args:
        store: the store.
        data: the dataset that it labels.
        to: the format, a file of this folder.
        out: where to; replaced if it is there.
        column: ``<task>/<slug>``; may be left out where one column is of a task that the format holds.

    Raises:
        PluginError: there is no such format.
        StoreError: no column, or several, can be meant, or the column is of another dataset.
        DatasetError: the dataset cannot be read.
    """
    form = PLUGINS.load(to)
    chosen = _chosen(Store(store), column, form.TASKS, to)
    reader = open_dataset(os.fspath(data))
    chosen.manifest.belongs(fingerprint(reader), chosen.path)
    walk = _Walk(chosen, reader)
    form.write(walk, chosen, files.place(out))
    return Exported(chosen.name, files.place(out), walk.pictures, walk.left_out)


def _chosen(store: Store, name: str, held: tuple[str, ...], to: str) -> Column:
    """The column that is meant."""
    found = {one.name: one for one in store.columns(needed=True)}
    fitting = [one for one in found.values() if one.task in held]
    if name and name in found and found[name] in fitting:
        return found[name]
    if name or len(fitting) != 1:
        have = ", ".join(one.name for one in fitting) or "none"
        what = f"--column {name!r} is none of them" if name else "name one by --column"
        raise StoreError(f"{to} is of {', '.join(held)}, of which {store.root} has the columns {have}: {what}")
    return fitting[0]


class _Walk:
    """Iterates over the labels of a column, shard by shard in the dataset's order; counts on the way."""

    def __init__(self, column: Column, reader: Reader) -> None:
        self.column, self.reader, self.task = column, reader, tasks.get(column.task)
        self.pictures = self.left_out = 0

    def __iter__(self) -> Iterator[Labeled]:
        committed = self.column.committed()
        with in_turn(self.reader, [shard for shard in self.reader.shards if shard in committed]) as turns:
            for shard in turns:
                rows = {row["key"]: row for row in self.column.rows(shard).to_pylist()}
                for entry in self.reader.index(shard):
                    row = rows.get(entry.key)
                    if row is None or row["error"] is not None or entry.error is not None:
                        self.left_out += 1
                    else:
                        self.pictures += 1
                        yield self._labeled(entry, self.column.label(shard, row))

    def _labeled(self, entry: Entry, label: Any) -> Labeled:
        """A label in the frame of its picture."""
        size, form = image_size(self.reader.read(entry).image)
        if label.valid.shape != size:
            label = self.task.crop_resize(label, View.whole(size))
        ending = form if entry.image == ROW else entry.image
        return Labeled(entry.key, f"{entry.key}.{ending}", size, label)
