"""Export of a column's labels in other formats, one file per format.

A file has ``TASKS``, the tasks that the format supports, and ``write``, a `base.Write`.
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
from clipzoo.readers import ROW, Entry, Reader, fingerprint, open_dataset, prefetched
from clipzoo.store import Column, Store
from clipzoo.types import View, image_size

__all__ = ["PLUGINS", "Exported", "LabelFormatPlugin", "Labeled", "export_labels"]

PLUGINS: Registry[LabelFormatPlugin] = Registry("labeling.exports", ("TASKS", "write"))


@dataclass(frozen=True, slots=True)
class Exported:
    """An export: its column and path, the number of images with a label, and of samples left out for lack of one."""

    column: str
    path: Place
    pictures: int
    left_out: int


def export_labels(store: AnyPath, data: AnyPath, to: str, out: AnyPath, column: str = "") -> Exported:
    """Write a column of a store in another format, in pixels of the dataset's images.

    Args:
        store: the store.
        data: the labeled dataset.
        to: the format, the name of a file in this folder.
        out: the output file; replaced if it exists.
        column: ``<task>/<slug>``; optional if only one column is of a task that the format supports.

    Raises:
        PluginError: the format is unknown.
        StoreError: no column or several fit, or the column is of another dataset.
        DatasetError: the dataset cannot be read.
    """
    plugin = PLUGINS.load(to)
    chosen = _chosen(Store(store), column, plugin.TASKS, to)
    reader = open_dataset(os.fspath(data))
    chosen.manifest.belongs(fingerprint(reader), chosen.path)
    walk = _Walk(chosen, reader)
    plugin.write(walk, chosen, files.place(out))
    return Exported(chosen.name, files.place(out), walk.pictures, walk.left_out)


def _chosen(store: Store, name: str, supported: tuple[str, ...], to: str) -> Column:
    """Return the named column, or the only one that fits."""
    fitting = {one.name: one for one in store.columns(needed=True) if one.task in supported}
    if name in fitting:
        return fitting[name]
    if name or len(fitting) != 1:
        have = ", ".join(fitting) or "none"
        fix = f"--column {name} is not one of them" if name else "choose one with --column"
        raise StoreError(
            f"the format {to} supports {', '.join(supported)}. {store.root} has these columns of it: {have}; {fix}"
        )
    return next(iter(fitting.values()))


class _Walk:
    """Iterates over the labels of a column in the dataset's order, and counts them."""

    def __init__(self, column: Column, reader: Reader) -> None:
        self.column, self.reader, self.task = column, reader, tasks.get(column.task)
        self.pictures = self.left_out = 0

    def __iter__(self) -> Iterator[Labeled]:
        committed = self.column.committed()
        with prefetched(self.reader, [shard for shard in self.reader.shards if shard in committed]) as turns:
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
        """Return a label in pixels of its image."""
        size, extension = image_size(self.reader.read(entry).image)
        if label.valid.shape != size:
            label = self.task.crop_resize(label, View.whole(size))
        extension = extension if entry.image == ROW else entry.image
        return Labeled(entry.key, f"{entry.key}.{extension}", size, label)
