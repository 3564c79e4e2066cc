"""A store as a dataset of FiftyOne, where it is installed. Calls follow FiftyOne 1.22.1.

Images are written as files, since FiftyOne reads nothing else; masks are arrays of its database.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from clipzoo import files
from clipzoo.errors import ClipzooError, StoreError
from clipzoo.files import AnyPath, Place
from clipzoo.readers import Entry, Reader, shard_fingerprint
from clipzoo.store import Column, Store
from clipzoo.store.rows import Row
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.viewer.scan import Labeled


def module() -> ModuleType:
    """Return FiftyOne.

    Raises:
        StoreError: it is not installed.
    """
    try:
        return importlib.import_module("fiftyone")
    except ImportError as error:
        raise StoreError(
            f"FiftyOne is not installed ({error}). Install it: pip install fiftyone. `clipzoo view` without "
            "--fiftyone needs no other package"
        ) from error


def to_fiftyone(store: AnyPath | Place, data: AnyPath, images: Path) -> object:
    """Return a FiftyOne dataset of all samples of a store; their images are written to the folder ``images``.

    Raises:
        StoreError: FiftyOne is not installed, the store has no column, or labels another dataset or other samples.
        DatasetError: the dataset cannot be read.
    """
    fo = module()
    columns = Store(store).columns(needed=True)
    labeled = Labeled.open(data, columns)
    files.make_folder(images)
    dataset = fo.Dataset()
    dataset.mask_targets = {
        field_name(column): {i + 1: name for i, name in enumerate(column.convention.classes)}
        for column in columns
        if column.task == "segmentation"
    }
    dataset.add_samples(_samples(fo, columns, labeled, images))
    dataset.save()
    return dataset


def field_name(column: Column) -> str:
    """Return the field of a column: its name with ``_`` for other characters than ASCII letters and digits."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in column.name)


def _samples(fo: ModuleType, columns: list[Column], labeled: Labeled, images: Path) -> Iterator[object]:
    shards = sorted(set[str]().union(*(column.committed() for column in columns)).intersection(labeled.every.shards))
    number = 0
    for shard in shards:
        own = [column for column in columns if column.has(shard)]
        reader, entries = labeled.shard(shard, own)
        source = shard_fingerprint(reader, shard, entries)
        tables = {column: column.checked(shard, source) for column in own}
        with ExitStack() as stack:
            for column in tables:
                stack.enter_context(column.cached(shard))
            for entry in entries:
                if any(entry.key in rows for rows in tables.values()):
                    number += 1
                    sample = _sample(fo, reader, entry, images / f"{number:08d}.jpg")
                    if sample is not None:
                        for column, rows in tables.items():
                            _add(fo, sample, column, shard, rows.get(entry.key))
                        yield sample


class _Fields:
    """A sample of FiftyOne: an object with items."""

    def __setitem__(self, name: str, value: object) -> None: ...


def _sample(fo: ModuleType, reader: Reader, entry: Entry, path: Path) -> _Fields | None:
    from PIL import Image

    from clipzoo.readers.decode import read_image
    from clipzoo.types import Failure

    found = read_image(reader, entry)
    if isinstance(found, Failure):
        return None
    Image.fromarray(found[1]).save(path, "JPEG", quality=92)
    return cast(
        _Fields,
        fo.Sample(filepath=str(path.absolute()), caption=found[0].caption, key=entry.key, shard=entry.shard),
    )


def _add(fo: ModuleType, sample: _Fields, column: Column, shard: str, row: Row | None) -> None:
    name = field_name(column)
    if row is None:
        return
    if row["confidence"] is not None:
        sample[f"{name}_confidence"] = row["confidence"]
    sample[f"{name}_valid_share"] = row["valid_share"]
    try:
        sample[name] = as_fiftyone(fo, column, column.label(shard, row))
    except ClipzooError as error:
        sample[f"{name}_error"] = row["error"] or str(error)


def as_fiftyone(fo: ModuleType, column: Column, label: object) -> object:
    """Return a label as one of FiftyOne; class ids of masks are one higher, and 0 is unknown.

    Ignored objects are left out.
    """
    from clipzoo import tasks

    if isinstance(label, Segmentation):
        return fo.Segmentation(mask=np.where(label.valid, label.ids.astype(np.int32) + 1, 0))
    if isinstance(label, Detection):
        boxes = [
            fo.Detection(
                label=column.convention.classes[int(kind)],
                bounding_box=[float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                confidence=float(score),
            )
            for (x0, y0, x1, y1), kind, score, ignored in zip(
                label.shares, label.ids, label.scores, label.ignored, strict=True
            )
            if not ignored
        ]
        return fo.Detections(detections=boxes)
    values = _heat(label)
    if values is None:
        return fo.Segmentation(mask=tasks.get(column.task).render(label, column.convention))
    return fo.Heatmap(map=values, range=[float(values.min()), float(values.max())])


def _heat(label: object) -> NDArray[np.float32] | None:
    """Return the map of a label with one value a pixel, its least value where it is unknown."""
    values, valid = getattr(label, "values", None), getattr(label, "valid", None)
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        return None
    found = values.astype(np.float32)
    if isinstance(valid, np.ndarray) and valid.any():
        found = np.where(valid, found, found[valid].min())
    return found


def show(store: AnyPath | Place, data: AnyPath, images: Path, address: str, port: int | None) -> None:
    """Show a store in FiftyOne until Ctrl-C; for the arguments see `to_fiftyone`."""
    fo = module()
    session = fo.launch_app(to_fiftyone(store, data, images), address=address, port=port)
    session.wait(-1)
