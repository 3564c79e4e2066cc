"""The pictures of one part of evaluation, streamed: decoded, viewed and given away, batch by batch.

All of them go through the one decoder and a deterministic view: the whole image squashed, or its largest
centered crop with the aspect of the size (what OpenCLIP's evaluation transform sees).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np

from clipzoo import files, tasks
from clipzoo.benchmarks.base import PLAIN, Benchmark, Labels, Loader
from clipzoo.errors import ClipzooError, DatasetError, PlanError
from clipzoo.readers import Entry, Reader, in_turn
from clipzoo.tasks.base import Convention, Task
from clipzoo.types import ImageArray, View, decode_image

Crop = Literal["whole", "center"]
T = TypeVar("T")

BATCH = 64
KEPT = 1 << 22
"""Pixels of the labels of one task that stay decoded, the first ones: each fit of a probe reads all of them twice."""
DECODERS = 4
"""Threads that decode ahead of the student."""


def view_of(image: ImageArray, size: tuple[int, int], crop: Crop) -> View:
    """The deterministic view of an image at ``size`` (H, W)."""
    return View.whole(size) if crop == "whole" else View.center(image.shape[:2], size)


class Lazy(Sequence[T], Generic[T]):
    """Items that are made each time they are asked for, and never kept: ``make`` of each of ``rows``."""

    def __init__(self, make: Callable[[int], T], rows: Sequence[int]) -> None:
        self.make, self.rows = make, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> Lazy[T]: ...

    def __getitem__(self, at: int | slice) -> T | Lazy[T]:
        return Lazy(self.make, self.rows[at]) if isinstance(at, slice) else self.make(self.rows[at])


@dataclass(frozen=True)
class Truth:
    """The labels of one task over a set, all of ``size`` (H, W); None where an image has none.

    ``labels`` may be lazy: each access reads and decodes, but for the first few (`KEPT`).
    """

    task: Task[Any]
    convention: Convention
    labels: Sequence[Any | None]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """Pictures with captions, classes and, task by task, true labels; none of the pixels are in memory.

    Attributes:
        images: decoded as they are asked for, uint8 H×W×3, each of its own size.
        keys: of the images in order.
        size: (H, W) of what students see of an image.
        captions: of each image; an empty tuple where it has none.
        targets: class index of each image; empty where there are no classes.
        truth: task -> labels of the whole images.
        known: whether an image has a label of some task; empty where there is no truth.
        classnames, templates: names by class index, prompts with ``{c}``.
        crop: what students see of an image.
        identity: another text where a picture, caption, class or label has changed.
        left_out: reason -> samples that cannot be used.
        threads: that decode ahead.
    """

    images: Sequence[ImageArray]
    keys: tuple[str, ...]
    size: tuple[int, int]
    captions: tuple[tuple[str, ...], ...] = ()
    targets: tuple[int, ...] = ()
    truth: Mapping[str, Truth] = field(default_factory=dict)
    known: tuple[bool, ...] = ()
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = PLAIN
    crop: Crop = "whole"
    identity: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    threads: int = 1

    def __len__(self) -> int:
        return len(self.keys)

    def batches(self, batch: int = BATCH) -> Iterator[ImageArray]:
        """Uint8 [B,H,W,3] of consecutive images at `size`; each is decoded, a few ahead of need."""
        seen = files.ahead(self._seen, range(len(self)), self.threads)
        while some := list(islice(seen, batch)):
            yield np.stack(some)

    def _seen(self, index: int) -> ImageArray:
        image = self.images[index]
        return view_of(image, self.size, self.crop).image(image)

    def select(self, indices: Sequence[int]) -> Split:
        """Some of the images, in the order given."""
        rows = list(indices)
        return replace(
            self,
            images=Lazy(self.images.__getitem__, rows),
            keys=_some(self.keys, rows),
            captions=_some(self.captions, rows),
            targets=_some(self.targets, rows),
            truth={n: replace(t, labels=Lazy(t.labels.__getitem__, rows)) for n, t in self.truth.items()},
            known=_some(self.known, rows),
        )

    def labeled(self) -> Split:
        """The images that have a label of some task."""
        return self.select([i for i, known in enumerate(self.known) if known])

    def captioned(self) -> Split:
        """The images that have a caption, for retrieval."""
        rows = [i for i, captions in enumerate(self.captions) if captions]
        return self if len(rows) == len(self) else self.select(rows)

    def extended(self, other: Split) -> Split:
        """These images and those of ``other`` for the tasks of this set: truth plus pseudo-labels.

        Raises:
            PlanError: labels of the two sets differ in convention or size.
        """
        truth = {name: _joined(own, other.truth.get(name), len(other)) for name, own in self.truth.items()}
        captions = self.captions + other.captions if self.captions and other.captions else ()
        return replace(
            self, images=_chain(self.images, other.images), keys=self.keys + other.keys, captions=captions,
            targets=(), truth=truth, known=self.known + other.known, identity="",
        )  # fmt: skip


def _some(values: tuple[T, ...], rows: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[i] for i in rows) if values else ()


def _joined(own: Truth, other: Truth | None, count: int) -> Truth:
    if other is None:
        return replace(own, labels=_chain(own.labels, [None] * count))
    if (own.convention, own.size) != (other.convention, other.size):
        raise PlanError(
            f"{own.task.name} labels of {own.convention}, {own.size} do not join those of "
            f"{other.convention}, {other.size}; read both with one label_size and from columns of one convention"
        )
    return replace(own, labels=_chain(own.labels, other.labels))


def _chain(one: Sequence[T], other: Sequence[T]) -> Lazy[T]:
    first = len(one)
    return Lazy(lambda i: one[i] if i < first else other[i - first], range(first + len(other)))


# Read ------------------------------------------------------------------------------------------------------


def read_split(
    benchmark: Benchmark, size: tuple[int, int], label_size: tuple[int, int] | None = None, classes: bool = True
) -> Split:
    """Read a benchmark once: its keys, captions, classes and what tells it from another; no picture is decoded.

    Args:
        benchmark: as a layout opened it.
        size: (H, W) of what students see of an image.
        label_size: (H, W) of the labels that are compared; by default ``size``.
        classes: whether the classes of its pictures are used.

    Raises:
        DatasetError: no picture can be used, or only some of them have a class.
    """
    reader, left_out, mark = benchmark.reader, Counter[str](), hashlib.sha256()
    for place in (*benchmark.places, *(p for labels in benchmark.labels.values() for p in labels.places())):
        files.keep(place)
    entries: list[Entry] = []
    captions: list[tuple[str, ...]] = []
    targets: list[int | None] = []
    for entry in _entries(benchmark, left_out):
        with _usable(reader, entry):
            sample = reader.read(entry)
            captions.append(benchmark.captions(entry, sample))
            targets.append(benchmark.target(entry) if classes else None)
        entries.append(entry)
        for part in (entry.shard, entry.key, hashlib.sha256(sample.image).hexdigest(), captions[-1], targets[-1]):
            mark.update(f"{part!r}\n".encode("utf-8", "surrogateescape"))
    _check(reader, targets, len(benchmark.classnames), left_out)
    of_labels = [(task, labels.identity()) for task, labels in sorted(benchmark.labels.items())]
    mark.update(f"{(benchmark.classnames, benchmark.templates, of_labels)!r}".encode())
    return replace(
        split_of(reader, entries, benchmark.labels, size, label_size),
        captions=tuple(captions),
        targets=tuple(target for target in targets if target is not None),
        classnames=benchmark.classnames,
        templates=benchmark.templates,
        identity=mark.hexdigest(),
        left_out=left_out,
    )


def split_of(
    reader: Reader,
    entries: Sequence[Entry],
    labels: Mapping[str, Labels],
    size: tuple[int, int],
    label_size: tuple[int, int] | None = None,
) -> Split:
    """The pictures of some entries with the labels that they have."""
    loaders = {task: one.loaders(entries) for task, one in labels.items()}
    truth = {
        task: _truth(tasks.get(task), labels[task].convention, each, label_size or size)
        for task, each in loaders.items()
    }
    return Split(
        images=Lazy(lambda i: _decoded(reader, entries[i]), range(len(entries))),
        keys=tuple(entry.key for entry in entries),
        size=size,
        truth=truth,
        known=tuple(any(map(bool, each)) for each in zip(*loaders.values(), strict=True)),
        threads=max(reader.threads, DECODERS),
    )


def _truth(task: Task[Any], convention: Convention, loaders: Sequence[Loader | None], size: tuple[int, int]) -> Truth:
    view, held, most = View.whole(size), dict[int, Any](), KEPT // (size[0] * size[1])

    def seen(index: int) -> Any | None:
        load = loaders[index]
        if load is None or index in held:
            return held.get(index)
        label = task.view(load(), view)
        if len(held) < most:
            held[index] = label
        return label

    return Truth(task, convention, Lazy(seen, range(len(loaders))), size)


def _entries(benchmark: Benchmark, left_out: Counter[str]) -> Iterator[Entry]:
    """Every usable sample, each while its shard is near; the others are counted."""
    with in_turn(benchmark.reader, benchmark.shards) as shards:
        for shard in shards:
            for entry in benchmark.reader.index(shard):
                if entry.error is None:
                    yield entry
                else:
                    left_out[entry.error] += 1


@contextmanager
def _usable(reader: Reader, entry: Entry) -> Iterator[None]:
    """Turns what is wrong with a picture into an error that says what to do."""
    try:
        yield
    except ClipzooError as error:
        raise DatasetError(
            f"{reader.location}: the picture {entry.key} of the shard {entry.shard} cannot be used: {error}; replace "
            "it or leave it out of its shard, and rerun the command, which resumes"
        ) from error


def _decoded(reader: Reader, entry: Entry) -> ImageArray:
    with _usable(reader, entry):
        return decode_image(reader.read(entry).image)


def _check(reader: Reader, targets: Sequence[int | None], classes: int, left_out: Mapping[str, int]) -> None:
    """Raise `DatasetError` unless there are pictures, and either none of them or all have a class that has a name."""
    if not targets:
        why = f"; most common reason: {max(left_out, key=lambda r: left_out[r])}" if left_out else ""
        raise DatasetError(f"{reader.location} has no usable picture: 0 of {sum(left_out.values())} samples{why}")
    given = [target for target in targets if target is not None]
    if given and len(given) < len(targets):
        raise DatasetError(
            f"{len(targets) - len(given)} of {len(targets)} pictures of {reader.location} have no class, and zero-shot "
            "counts all of them: give each one its class (.cls), or none"
        )
    if given and not set(given) <= set(range(classes)):
        raise DatasetError(
            f"{reader.location} has classes from {min(given)} to {max(given)}, classnames.txt {classes} lines; indices "
            "count lines from 0: add the missing names, or correct the classes"
        )
