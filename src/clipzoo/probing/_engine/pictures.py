"""Pictures with labels of one task, and their random crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clipzoo import files, tasks
from clipzoo.benchmarks import Benchmark, Loader
from clipzoo.errors import PlanError, RecipeError
from clipzoo.probing.base import Preset
from clipzoo.readers import Entry
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention, Task
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray, Size, View, decode_image

THREADS = 4
FILL = 128
"""Value of the border of a picture that is smaller than its crop; its label is unknown there."""

MapLabel = Segmentation | Depth | Normals | Edges
Label = MapLabel | Detection
Pair = tuple[ImageArray, Label]
"""A picture uint8 [H,W,3] and its label."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a benchmark that have a label of a task; nothing is held in memory."""

    benchmark: Benchmark
    task: Task[Any]
    convention: Convention
    entries: Sequence[Entry]
    loaders: Sequence[Loader]

    @classmethod
    def of(cls, benchmark: Benchmark, task: str) -> Pictures:
        """List the labeled pictures of a benchmark.

        Raises:
            RecipeError: it has no truth of this task.
            PlanError: none of its pictures has a label.
        """
        if task not in benchmark.labels:
            raise RecipeError(
                f"{benchmark.reader.location} has no true labels of {task}, which the preset needs; it has "
                f"{', '.join(benchmark.labels) or 'none'}"
            )
        entries = [
            entry for shard in benchmark.shards for entry in benchmark.reader.index(shard) if entry.failure is None
        ]
        loaders = benchmark.labels[task].loaders(entries)
        pairs = [(entry, load) for entry, load in zip(entries, loaders, strict=True) if load is not None]
        if not pairs:
            raise PlanError(f"0 of {len(entries)} pictures of {benchmark.reader.location} have a label of {task}")
        convention = benchmark.labels[task].convention
        return cls(benchmark, tasks.get(task), convention, [e for e, _ in pairs], [load for _, load in pairs])

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the pictures in order."""
        return tuple(entry.key for entry in self.entries)

    def pair(self, index: int) -> Pair:
        """Return a picture and its label as they are stored."""
        image = decode_image(self.benchmark.reader.read(self.entries[index]).image)
        return image, cast(Label, self.loaders[index]())

    def each(self) -> Iterator[Pair]:
        """Yield every picture with its label in order; threads decode in advance."""
        return files.map_ahead(self.pair, range(len(self)), THREADS)

    def batches(self, preset: Preset, crop: Size, seed: int, start: int, steps: int) -> Iterator[list[Pair]]:
        """Yield the batches from step ``start`` on; they depend on seed and step alone."""

        @lru_cache(maxsize=2)  # threads are at most one epoch apart
        def order(epoch: int) -> NDArray[np.int64]:
            return np.random.default_rng((seed, 0, epoch)).permutation(len(self))

        def one(place: int) -> Pair:
            epoch, row = divmod(place, len(self))
            index = int(order(epoch)[row])
            return augmented(*self.pair(index), self.task, preset, crop, np.random.default_rng((seed, 1, place)))

        places = files.map_ahead(one, range(start * preset.batch, steps * preset.batch), THREADS)
        for _ in range(start, steps):
            yield [next(places) for _ in range(preset.batch)]


def augmented(
    image: ImageArray, label: Label, task: Task[Any], preset: Preset, crop: Size, rng: np.random.Generator
) -> Pair:
    """Return a training crop: resized so that the shorter or longer side has a random length, cropped, padded, flipped.

    Without `Preset.short_side` and `Preset.long_side`, it is the center crop, flipped at random. Objects that the crop
    cuts stay objects, as in Detectron2; those that are ignored in the whole picture are removed.
    """
    if isinstance(label, Detection):
        label = label.take(~label.ignored)
    flip = bool(rng.random() < preset.flip)
    lengths = preset.short_side or preset.long_side
    if lengths is None:
        view = View(View.center(image.shape[:2], crop).crop, crop, flip)
        return view.image(image), task.view(label, view)
    H, W = image.shape[:2]
    factor = rng.uniform(*lengths) / (min(H, W) if preset.short_side else max(H, W))
    height, width = max(round(H * factor), 1), max(round(W * factor), 1)
    h, w = min(crop[0], height), min(crop[1], width)
    top, left = (int(rng.integers(0, space + 1)) for space in (height - h, width - w))
    view = View((left / width, top / height, (left + w) / width, (top + h) / height), (h, w), flip)
    seen = task.view(label, view)
    if isinstance(seen, Detection):
        seen = replace(seen, ignored=np.zeros(len(seen.ids), np.bool_))
    return padded(view.image(image), crop), _padded_label(seen, crop)


def padded(image: ImageArray, size: Size) -> ImageArray:
    """Return the picture in the upper left corner of a gray one of ``size``."""
    if image.shape[:2] == size:
        return image
    whole = np.full((*size, 3), FILL, np.uint8)
    whole[: image.shape[0], : image.shape[1]] = image
    return whole


def _padded_label(label: Label, size: Size) -> Label:
    """Return a label that is unknown outside of the original, in the upper left corner."""
    if isinstance(label, Detection):
        return _reframed(label, size)
    h, w = label.valid.shape
    if (h, w) == size:
        return label
    values: dict[str, Any] = {}
    for name in ("ids", "values", "vectors"):
        if hasattr(label, name):
            array = getattr(label, name)
            values[name] = np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, size[0] - h), (0, size[1] - w)])
    others = {name: getattr(label, name) for name in ("kind", "along", "confidence") if hasattr(label, name)}
    valid = np.pad(label.valid, [(0, size[0] - h), (0, size[1] - w)])
    return type(label)(**values, valid=valid, **others)


def _reframed(label: Detection, size: Size) -> Detection:
    """Return objects in the upper left corner of a larger frame."""
    if label.size == size:
        return label
    h, w = label.size
    masks: list[str | None] = []
    for text in label.masks or ():
        mask = None if text is None else rle.decode(text, label.size)
        masks.append(None if mask is None else rle.encode(np.pad(mask, [(0, size[0] - h), (0, size[1] - w)])))
    return replace(label, size=size, masks=None if label.masks is None else tuple(masks))
