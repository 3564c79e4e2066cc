"""The pictures on which students are measured, in memory at the student's size.

All splits go through the one decoder and a deterministic view: the whole image squashed, or its largest
centred crop with the aspect of the size (what OpenCLIP's evaluation transform sees).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from clipzoo import files, tasks
from clipzoo.errors import ClipzooError, DatasetError, PlanError
from clipzoo.evaluation.datasets import PLUGINS
from clipzoo.files import AnyPath, Place
from clipzoo.readers import fingerprint, in_turn, open_dataset
from clipzoo.readers.base import Entry, Reader
from clipzoo.store import Column, Store
from clipzoo.tasks.base import Convention, Task
from clipzoo.types import ImageArray, View, decode_image

Crop = Literal["whole", "centre"]


def view_of(image: ImageArray, size: tuple[int, int], crop: Crop) -> View:
    """The deterministic view of an image at ``size`` (H, W)."""
    return View.whole(size) if crop == "whole" else View.centre(image.shape[:2], size)


@dataclass(frozen=True)
class Truth:
    """The labels of one task over a set, all of ``size`` (H, W); None where an image has none."""

    task: Task[Any]
    convention: Convention
    labels: tuple[Any | None, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DenseSet:
    """Images uint8 [N,H,W,3] with captions and, task by task, labels of the same views.

    ``views`` and ``original`` (index -> decoded image of any size) let an expert see what it would see at
    home.
    """

    images: ImageArray
    keys: tuple[str, ...]
    captions: tuple[str, ...]
    views: tuple[View, ...]
    truth: Mapping[str, Truth]
    original: Callable[[int], ImageArray] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def load(
        cls,
        location: str,
        labels: AnyPath | Place,
        size: tuple[int, int],
        *,
        columns: Mapping[str, str] | None = None,
        label_size: tuple[int, int] | None = None,
        crop: Crop = "whole",
        chosen: Sequence[Entry] | None = None,
        floors: Mapping[str, float] | None = None,
    ) -> DenseSet:
        """Read a dataset and columns of a store.

        Args:
            location: a dataset that some reader opens.
            labels: the root of a store.
            size: (H, W) of the images, the student's.
            columns: task -> column; by default every ``<task>/truth``.
            label_size: (H, W) of the labels; by default ``size``.
            crop: "whole" or "centre".
            chosen: samples of the dataset to read, of which those that cannot be used are left out; by default all are
                read, and every one must be usable.
            floors: task -> the least confidence of a label; by default none.

        Raises:
            DatasetError: no usable image, or a broken one; PlanError: no truth; StoreError: a column or shard is
                missing, or of another dataset.
        """
        reader = open_dataset(location)
        read = list(_pictures(reader, size, crop, chosen))
        if not read:
            raise DatasetError(f"{location} has no usable image: no sample has both an image and a caption")
        entries, captions, views, images = zip(*read, strict=True)

        def original(index: int) -> ImageArray:
            return decode_image(reader.read(entries[index]).image)

        store, identity, truth = Store(labels), fingerprint(reader), {}
        for task, name in (columns or truth_columns(store, labels)).items():
            column = store.column(*name.split("/", 1))
            column.manifest.belongs(identity, column.path)
            truth[task] = _truth(column, entries, views, label_size or size, (floors or {}).get(task, 0.0))
        return cls(np.stack(images), tuple(e.key for e in entries), captions, views, truth, original)

    def select(self, indices: Sequence[int]) -> DenseSet:
        """Some of the images, in the order given."""
        rows, original = list(indices), self.original
        truth = {
            name: replace(truth, labels=tuple(truth.labels[i] for i in rows)) for name, truth in self.truth.items()
        }
        return DenseSet(
            self.images[rows],
            tuple(self.keys[i] for i in rows),
            tuple(self.captions[i] for i in rows),
            tuple(self.views[i] for i in rows),
            truth,
            None if original is None else lambda i: original(rows[i]),
        )

    def labelled(self) -> DenseSet:
        """The images that have a label of some task."""
        labels = [truth.labels for truth in self.truth.values()]
        return self.select([i for i in range(len(self)) if any(task[i] is not None for task in labels)])

    def extended(self, other: DenseSet) -> DenseSet:
        """These images and those of ``other`` for the tasks of this set: truth plus pseudo-labels.

        Raises:
            PlanError: labels of the two sets differ in convention or size.
        """
        truth = {name: _joined(own, other.truth.get(name), len(other)) for name, own in self.truth.items()}
        return DenseSet(
            np.concatenate([self.images, other.images]),
            self.keys + other.keys,
            self.captions + other.captions,
            self.views + other.views,
            truth,
        )


@dataclass(frozen=True)
class ZeroShotSet:
    """Images uint8 [N,H,W,3], class indices [N], names by index, templates with ``{c}``."""

    images: ImageArray
    keys: tuple[str, ...]
    targets: tuple[int, ...]
    classnames: tuple[str, ...]
    templates: tuple[str, ...]

    @classmethod
    def load(
        cls, location: str, size: tuple[int, int], *, crop: Crop = "whole", layout: str = "webdataset"
    ) -> ZeroShotSet:
        """Read a benchmark of ``layout``; `DatasetError` if it has no classes."""
        named, _ = recognition(location, size, crop=crop, layout=layout)
        if named is None:
            raise DatasetError(f"{location} has no class indices (.cls); zero-shot needs one a picture")
        return named


@dataclass(frozen=True)
class RetrievalSet:
    """Images uint8 [N,H,W,3], each with its captions (at least one)."""

    images: ImageArray
    keys: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]

    @classmethod
    def load(
        cls, location: str, size: tuple[int, int], *, crop: Crop = "whole", layout: str = "webdataset"
    ) -> RetrievalSet:
        """Read a benchmark of ``layout``; pictures without a caption are left out."""
        _, told = recognition(location, size, crop=crop, layout=layout)
        if told is None:
            raise DatasetError(f"{location} has no captions (.txt); retrieval needs one a picture")
        return told


def recognition(
    location: str, size: tuple[int, int], *, crop: Crop = "whole", layout: str = "webdataset"
) -> tuple[ZeroShotSet | None, RetrievalSet | None]:
    """Both sets of a benchmark, read and decoded once; None where it has no classes, or no captions."""
    found = PLUGINS.load(layout).read(location)
    images, _ = _decode(found.images, size, crop)
    named = ZeroShotSet(images, found.keys, found.targets, found.classnames, found.templates)
    rows = [i for i, captions in enumerate(found.captions) if captions]
    told = RetrievalSet(
        images if len(rows) == len(images) else images[rows],
        tuple(found.keys[i] for i in rows),
        tuple(found.captions[i] for i in rows),
    )
    return named if found.targets else None, told if rows else None


def _decode(files: Sequence[bytes], size: tuple[int, int], crop: Crop) -> tuple[ImageArray, list[View]]:
    images, views = np.empty((len(files), *size, 3), np.uint8), []
    for i, data in enumerate(files):
        image = decode_image(data)
        views.append(view_of(image, size, crop))
        images[i] = views[-1].image(image)
    return images, views


def _pictures(
    reader: Reader, size: tuple[int, int], crop: Crop, chosen: Sequence[Entry] | None
) -> Iterator[tuple[Entry, str, View, ImageArray]]:
    """Entry, caption, view and pixels of all usable samples, or the chosen; one that is not is an error among all."""
    for entry in _usable(reader) if chosen is None else chosen:
        try:
            sample = reader.read(entry)
            image = decode_image(sample.image)
        except ClipzooError as error:
            if chosen is None:
                raise DatasetError(f"{reader.location}: the picture {entry.key} cannot be used: {error}") from error
            continue
        view = view_of(image, size, crop)
        yield entry, sample.caption, view, view.image(image)


def _usable(reader: Reader) -> Iterator[Entry]:
    """Every usable entry, each while its shard is near."""
    with in_turn(reader, reader.shards) as shards:
        for shard in shards:
            yield from (entry for entry in reader.index(shard) if entry.error is None)


def truth_columns(store: Store, labels: AnyPath | Place) -> dict[str, str]:
    """Task -> its column ``<task>/truth`` of the store at ``labels``; `PlanError` if there is none."""
    truths = {column.task: column.name for column in store.columns() if column.slug == "truth"}
    if not truths:
        has = ", ".join(column.name for column in store.columns()) or "none"
        raise PlanError(
            f"{labels} has no column <task>/truth; it has: {has}; `clipzoo labels import --as truth` makes one of "
            "labels that you have (docs/benchmarks.md)"
        )
    return truths


def _truth(
    column: Column, entries: Sequence[Entry], views: Sequence[View], size: tuple[int, int], floor: float
) -> Truth:
    task = tasks.get(column.task)
    wanted: dict[str, list[str]] = {}
    for entry in entries:
        wanted.setdefault(entry.shard, []).append(entry.key)
    rows = {
        (shard, row["key"]): row
        for shard, keys in wanted.items()
        if column.has(shard)
        for row in column.rows(shard).filter(pc.field("key").isin(keys)).to_pylist()
        if row["error"] is None and (row["confidence"] is None or row["confidence"] >= floor)
    }

    def seen(pair: tuple[Entry, View]) -> Any | None:
        entry, view = pair
        row = rows.get((entry.shard, entry.key))
        return None if row is None else task.view(column.label(entry.shard, row), view.at(size))

    pairs = zip(entries, views, strict=True)
    return Truth(task, column.convention, tuple(files.ahead(seen, pairs, files.threads(column.path))), size)


def _joined(own: Truth, other: Truth | None, count: int) -> Truth:
    if other is None:
        return replace(own, labels=own.labels + (None,) * count)
    if (own.convention, own.size) != (other.convention, other.size):
        raise PlanError(
            f"{own.task.name} labels of {own.convention}, {own.size} do not join those of "
            f"{other.convention}, {other.size}; read both with one label_size and from columns of one convention"
        )
    return replace(own, labels=own.labels + other.labels)
