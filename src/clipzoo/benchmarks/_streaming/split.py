"""A split of evaluation, streamed: images are decoded and resized in batches.

The view of an image is deterministic: the whole image squashed or padded, or its largest centered crop with the aspect
of the size, as in OpenCLIP's evaluation transform.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Generic, Literal, TypeVar, overload

import numpy as np

from clipzoo import files, tasks
from clipzoo.benchmarks._streaming.meaning import describe
from clipzoo.benchmarks.base import PLAIN, Benchmark, Labels, Loader
from clipzoo.errors import ClipzooError, DatasetError, PlanError
from clipzoo.readers import Entry, Reader, prefetched
from clipzoo.tasks.base import Convention, Task
from clipzoo.types import ImageArray, View, decode_image

Crop = Literal["whole", "center", "padded"]
"""The whole image, squashed; its largest centered crop with the aspect of the size; or the whole image, padded."""
T = TypeVar("T")

BATCH = 64
CACHED = 1 << 22
"""Pixels of the labels of one task that stay decoded, since each fit of a probe reads all labels twice."""
DECODERS = 4
"""The number of threads that decode images in advance."""


def seen(image: ImageArray, size: tuple[int, int], crop: Crop, kept: float = 1.0) -> ImageArray:
    """Return an image as a model sees it, uint8 of ``size`` (H, W); padding is black, as OpenCLIP's is by default."""
    if crop != "padded":
        return view_of(image, size, crop, kept).image(image)
    H, W = image.shape[:2]
    scale = min(size[0] / H, size[1] / W)
    inner = View.whole((max(round(H * scale), 1), max(round(W * scale), 1))).image(image)
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - inner.shape[0]) // 2, (size[1] - inner.shape[1]) // 2
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


def view_of(image: ImageArray, size: tuple[int, int], crop: Literal["whole", "center"], kept: float = 1.0) -> View:
    """Return the deterministic view of an image at ``size`` (H, W); of its sides, only a centered share is kept."""
    view = View.whole(size) if crop == "whole" else View.center(image.shape[:2], size)
    if kept == 1:
        return view
    x0, y0, x1, y1 = (0.5 + kept * (edge - 0.5) for edge in view.crop)
    return View((x0, y0, x1, y1), size)


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are computed at each access: ``make`` of each of ``rows``."""

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
    """The labels of one task in a split, all of ``size`` (H, W); None for images without one.

    ``labels`` may be lazy: each access reads and decodes, except the first few (`CACHED`).
    """

    task: Task[object]
    convention: Convention
    labels: Sequence[object | None]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """Images with captions, classes and true labels, which are read from disk at each access.

    Attributes:
        images: uint8 H×W×3, each at its original size.
        keys: of the images in order.
        size: (H, W) of the input of students.
        captions: of each image; may be empty.
        targets: class index of each image; empty without classes.
        truth: task -> labels of the whole images.
        known: True for images with a label of any task; empty without truth.
        classnames: names by class index.
        templates: prompts with ``{c}`` in the place of the class name.
        crop: of the images for students.
        kept: share of the sides of that crop that preprocessing keeps.
        identity: a text that changes with any image, caption, class or label.
        left_out: reason -> number of unusable samples.
        threads: that decode in advance.
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
    kept: float = 1.0

    def __len__(self) -> int:
        return len(self.keys)

    def batches(self, batch: int = BATCH) -> Iterator[ImageArray]:
        """Yield batches of consecutive images at `size`, uint8 [B,H,W,3]; images are decoded in advance by threads."""
        views = files.map_ahead(self._view, range(len(self)), self.threads)
        while some := list(islice(views, batch)):
            yield np.stack(some)

    def _view(self, index: int) -> ImageArray:
        image = self.images[index]
        return seen(image, self.size, self.crop, self.kept)

    def select(self, indices: Sequence[int]) -> Split:
        """Return the images with these indices, in this order."""
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
        """Return the images that have a label of any task."""
        return self.select([i for i, known in enumerate(self.known) if known])

    def captioned(self) -> Split:
        """Return the images that have a caption."""
        rows = [i for i, captions in enumerate(self.captions) if captions]
        return self if len(rows) == len(self) else self.select(rows)

    def extended(self, other: Split) -> Split:
        """Append the images of another split with their labels of the tasks of this split.

        Raises:
            PlanError: the labels differ in convention or size.
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
            f"{own.task.name} labels of {describe(own.convention)} and size {own.size} cannot be joined with labels of "
            f"{describe(other.convention)} and size {other.size}. Probes need labels of one convention and size. Read "
            "both splits with the same label_size and columns of the same convention"
        )
    return replace(own, labels=_chain(own.labels, other.labels))


def _chain(one: Sequence[T], other: Sequence[T]) -> Lazy[T]:
    return Lazy(partial(_of_two, one, other), range(len(one) + len(other)))


def _of_two(one: Sequence[T], other: Sequence[T], row: int) -> T:
    return one[row] if row < len(one) else other[row - len(one)]


# Read ------------------------------------------------------------------------------------------------------


def read_split(
    benchmark: Benchmark, size: tuple[int, int], label_size: tuple[int, int] | None = None, classes: bool = True
) -> Split:
    """Read the keys, captions, classes and identity of a benchmark, without decoding images.

    Args:
        benchmark: of `Layout.open`.
        size: (H, W) of the input of students.
        label_size: (H, W) of the labels that are compared; by default ``size``.
        classes: use the classes of the images.

    Raises:
        DatasetError: no image is usable, or only some images have a class.
    """
    reader, left_out, identity = benchmark.reader, Counter[str](), hashlib.sha256()
    for place in (*benchmark.places, *(p for labels in benchmark.labels.values() for p in labels.places())):
        files.keep_cached(place)
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
            identity.update(f"{part!r}\n".encode("utf-8", "surrogateescape"))
    _check(reader, targets, len(benchmark.classnames), left_out)
    label_identities = [(task, labels.identity()) for task, labels in sorted(benchmark.labels.items())]
    identity.update(f"{(benchmark.classnames, benchmark.templates, label_identities)!r}".encode())
    return replace(
        split_of(reader, entries, benchmark.labels, size, label_size),
        captions=tuple(captions),
        targets=tuple(target for target in targets if target is not None),
        classnames=benchmark.classnames,
        templates=benchmark.templates,
        identity=identity.hexdigest(),
        left_out=left_out,
    )


def split_of(
    reader: Reader,
    entries: Sequence[Entry],
    labels: Mapping[str, Labels],
    size: tuple[int, int],
    label_size: tuple[int, int] | None = None,
) -> Split:
    """Return the split of some entries with their labels."""
    loaders = {task: one.loaders(entries) for task, one in labels.items()}
    truth = {
        task: _truth(tasks.get(task), labels[task].convention, each, label_size or size)
        for task, each in loaders.items()
    }
    return Split(
        images=Lazy(partial(_decoded, reader, entries), range(len(entries))),
        keys=tuple(entry.key for entry in entries),
        size=size,
        truth=truth,
        known=tuple(any(map(bool, each)) for each in zip(*loaders.values(), strict=True)),
        threads=max(reader.threads, DECODERS),
    )


def _truth(
    task: Task[object], convention: Convention, loaders: Sequence[Loader | None], size: tuple[int, int]
) -> Truth:
    view, cached, most = View.whole(size), dict[int, object](), CACHED // (size[0] * size[1])

    def label_of(index: int) -> object | None:
        load = loaders[index]
        if load is None or index in cached:
            return cached.get(index)
        label = task.view(load(), view)
        if len(cached) < most:
            cached[index] = label
        return label

    return Truth(task, convention, Lazy(label_of, range(len(loaders))), size)


def _entries(benchmark: Benchmark, left_out: Counter[str]) -> Iterator[Entry]:
    """Yield every usable sample, shard by shard, and count the others in ``left_out``."""
    with prefetched(benchmark.reader, benchmark.shards) as shards:
        for shard in shards:
            for entry in benchmark.reader.index(shard):
                if entry.error is None:
                    yield entry
                else:
                    left_out[entry.error] += 1


@contextmanager
def _usable(reader: Reader, entry: Entry) -> Iterator[None]:
    """Convert errors of an image to a `DatasetError` that names the image and the fix."""
    try:
        yield
    except ClipzooError as error:
        raise DatasetError(
            f"{reader.location}: the image {entry.key} of the shard {entry.shard} cannot be used: {error}. Replace it "
            "or remove it from its shard, and rerun the command, which resumes"
        ) from error


def _decoded(reader: Reader, entries: Sequence[Entry], row: int) -> ImageArray:
    with _usable(reader, entries[row]):
        return decode_image(reader.read(entries[row]).image)


def _check(reader: Reader, targets: Sequence[int | None], classes: int, left_out: Mapping[str, int]) -> None:
    """Raise `DatasetError` unless there are images, and none or all of them have a class with a name."""
    if not targets:
        reason = f". Most common reason: {max(left_out, key=lambda r: left_out[r])}" if left_out else ""
        raise DatasetError(f"{reader.location}: 0 of {sum(left_out.values())} samples are usable{reason}")
    given = [target for target in targets if target is not None]
    if given and len(given) < len(targets):
        raise DatasetError(
            f"{len(targets) - len(given)} of {len(targets)} images of {reader.location} have no class. Zero-shot needs "
            "the class of every image. Give all images a class (.cls), or none of them"
        )
    if given and not set(given) <= set(range(classes)):
        raise DatasetError(
            f"{reader.location} has class indices from {min(given)} to {max(given)}, but classnames.txt has {classes} "
            "lines. Indices count lines from 0. Add the missing names, or correct the indices"
        )
