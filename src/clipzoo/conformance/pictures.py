"""Pictures on which experts are tested: loaded from a dataset or folder, and brought to one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from clipzoo.errors import DatasetError, SampleError, shell_word
from clipzoo.experts import ExpertInput
from clipzoo.readers import IMAGES, open_dataset
from clipzoo.types import ImageArray, View, decode_image

MOST = 16
"""Maximum number of pictures."""

LONGEST = 640
"""Maximum length of the longer side in pixels; larger pictures are resized."""

T = TypeVar("T")


def load_pictures(location: str, count: int = MOST) -> list[ExpertInput]:
    """Return at most ``count`` pictures, evenly spaced over a dataset or a folder of pictures without captions.

    Raises:
        DatasetError: the location cannot be read, or contains no readable picture.
    """
    reader = open_dataset(location)
    shards = _spread(reader.shards, count)
    inputs: list[ExpertInput] = []
    for shard in shards:
        usable = [entry for entry in reader.index(shard) if entry.error is None]
        for entry in _spread(usable, -(-count // len(shards))):
            try:
                sample = reader.read(entry)
                inputs.append(ExpertInput(entry.key, decode_image(sample.image), sample.caption))
            except SampleError:  # `clipzoo check` reports faults of a dataset
                continue
    if not inputs and Path(location).is_dir():
        inputs = list(_bare(Path(location), count))
    if not inputs:
        raise DatasetError(
            f"no picture of {location!r} can be read; `clipzoo check {shell_word(location)}` reports the reasons"
        )
    return inputs[:count]


def _bare(folder: Path, count: int) -> Iterator[ExpertInput]:
    files = sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in IMAGES)
    for path in _spread(files, count):
        try:
            yield ExpertInput(str(path.relative_to(folder)), decode_image(path.read_bytes()))
        except SampleError:
            continue


def _spread(items: Sequence[T], count: int) -> Sequence[T]:
    """Return at most ``count`` of the items, evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def to_one_size(images: Sequence[ImageArray | ExpertInput]) -> list[ExpertInput]:
    """Crop and resize pictures to one size: the median size, or less where it exceeds `LONGEST`."""
    given = [i if isinstance(i, ExpertInput) else ExpertInput(f"{n:06d}", i) for n, i in enumerate(images)]
    H, W = sorted((i.image.shape[:2] for i in given), key=lambda size: size[0] * size[1])[len(given) // 2]
    scale = min(1.0, LONGEST / max(H, W))
    size = (max(1, round(H * scale)), max(1, round(W * scale)))
    return [with_image(i, View.center(i.image.shape[:2], size).image(i.image)) for i in given]


def with_image(sample: ExpertInput, image: ImageArray) -> ExpertInput:
    """Return the sample with another picture."""
    return replace(sample, image=np.ascontiguousarray(image))


def mirrored(sample: ExpertInput) -> ExpertInput:
    """Return the sample with a mirrored picture."""
    return with_image(sample, sample.image[:, ::-1])
