"""The pictures that experts are shown: of a dataset or a folder, brought to one size, changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from clipzoo.errors import DatasetError, SampleError
from clipzoo.experts import ExpertInput
from clipzoo.readers import open_dataset
from clipzoo.readers._location import IMAGES
from clipzoo.types import ImageArray, View, decode_image

MOST = 16
"""Pictures that are looked at."""

LONGEST = 640
"""Pixels of the longer side at which pictures are shown to experts, if they are larger."""

T = TypeVar("T")


def load_pictures(location: str, count: int = MOST) -> list[ExpertInput]:
    """At most ``count`` samples, spread over a dataset; of a folder whose pictures have no captions, these.

    Raises:
        DatasetError: it cannot be read, or no picture in it can.
    """
    reader = open_dataset(location)
    shards = _spread(reader.shards, count)
    found: list[ExpertInput] = []
    for shard in shards:
        usable = [entry for entry in reader.index(shard) if entry.error is None]
        for entry in _spread(usable, -(-count // len(shards))):
            try:
                sample = reader.read(entry)
                found.append(ExpertInput(entry.key, decode_image(sample.image), sample.caption))
            except SampleError:  # `clipzoo check` is who tells what is wrong with a dataset
                continue
    if not found and Path(location).is_dir():
        found = list(_bare(Path(location), count))
    if not found:
        raise DatasetError(f"no picture of {location!r} can be read: clipzoo check {location} tells why")
    return found[:count]


def _bare(folder: Path, count: int) -> Iterator[ExpertInput]:
    files = sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in IMAGES)
    for path in _spread(files, count):
        try:
            yield ExpertInput(str(path.relative_to(folder)), decode_image(path.read_bytes()))
        except SampleError:
            continue


def _spread(items: Sequence[T], count: int) -> Sequence[T]:
    """At most ``count`` of the items, evenly spaced."""
    return items[:: max(1, len(items) // count)][:count]


def alike(images: Sequence[ImageArray | ExpertInput]) -> list[ExpertInput]:
    """Pictures as inputs of one size, that of the middle one: larger and other ones are cropped and resized."""
    given = [i if isinstance(i, ExpertInput) else ExpertInput(f"{n:06d}", i) for n, i in enumerate(images)]
    H, W = sorted((i.image.shape[:2] for i in given), key=lambda size: size[0] * size[1])[len(given) // 2]
    scale = min(1.0, LONGEST / max(H, W))
    size = (max(1, round(H * scale)), max(1, round(W * scale)))
    return [changed(i, View.center(i.image.shape[:2], size).image(i.image)) for i in given]


def changed(sample: ExpertInput, image: ImageArray) -> ExpertInput:
    """The sample with another picture."""
    return replace(sample, image=np.ascontiguousarray(image))


def mirrored(sample: ExpertInput) -> ExpertInput:
    """The sample with left and right of its picture exchanged."""
    return changed(sample, sample.image[:, ::-1])
