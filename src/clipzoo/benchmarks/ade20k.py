"""ADE20K, the challenge or the full release: ``ade20k:ADEChallengeData2016`` or ``ade20k:ADE20K_2021_17_01``.

Challenge: 150 classes in the PNGs of ``annotations/<split>/``: 0 is unknown, and 1 to 150 are the classes of
``objectInfo150.txt``. Scores count the 150 classes, without background, as is usual.

Full release: ``images/ADE/<split>/…/<name>.jpg`` with ``<name>_seg.png``, whose objects have the number R // 10 × 256 +
G (utils_ade20k.py of CSAILVision/ADE20K), 0 where unknown. It counts ``objectnames`` of ``index_ade20k.mat`` from 1.
Parts are not read, and ``index_ade20k.pkl`` neither, because loading a pickle can run any code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clipzoo.benchmarks._published.listing import below, inside, text_of
from clipzoo.benchmarks._published.matlab import matlab
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, class_map, numbers
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.tasks.base import Convention
from clipzoo.tasks.segmentation import Segmentation

CLASSES = 150
SHAPE = "images/<split>/*.jpg, annotations/<split>/*.png and objectInfo150.txt, or images/ADE/ and index_ade20k.mat"
INDEX, PICKLE, SEGMENTS = "index_ade20k.mat", "index_ade20k.pkl", "_seg.png"
FULL = f"images/ADE/<split>/*/*/<name>.jpg with <name>{SEGMENTS}, and {INDEX}"


class Ade20k:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the release's folder; see `Layout.open`."""
        known = {"split": ("validation", "training")}
        if isinstance(folder, Path) and any((folder / name).exists() for name in (INDEX, PICKLE, "images/ADE")):
            return _full(Root("ade20k", folder, options, known, ["images"], FULL))
        root = Root("ade20k", folder, options, known, ["images", "annotations", "objectInfo150.txt"], SHAPE)
        split = root.options["split"]
        root.require(f"images/{split}", f"annotations/{split}")
        paths = root.found(inside(root / f"images/{split}"))
        reader = root.some({key: Picture(path) for key, path in paths.items()}, f"images/{split}")
        files = {key: root / f"annotations/{split}/{key}.png" for key in paths}
        codes = {i + 1: i for i in range(CLASSES)}
        truth = LabelFiles(Convention(_names(root)), files, lambda key, path: class_map(path, codes))
        return benchmark(reader, {"segmentation": truth})


LAYOUT: Layout = Ade20k()


def _names(root: Root) -> tuple[str, ...]:
    """Return the names of the 150 classes."""
    path = root / "objectInfo150.txt"
    rows = [line.split("\t") for line in text_of(path).splitlines() if line.split("\t")[0].strip().isdigit()]
    if [int(row[0]) for row in rows] != list(range(1, CLASSES + 1)):
        raise DatasetError(f"ade20k: {path} must have a line for each class from 1 to {CLASSES}, tab-separated")
    return _distinct([row[-1].strip() for row in rows])


def _distinct(full: Sequence[str]) -> tuple[str, ...]:
    """Return the first of the names of each class; where several have the same, all names, then with the number."""
    first = [name.split(",")[0].strip() for name in full]
    names = [one if first.count(one) == 1 else name for one, name in zip(first, full, strict=True)]
    return tuple(name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1))


def _full(root: Root) -> Benchmark:
    if not (root / INDEX).is_file():
        raise DatasetError(
            f"ade20k: {root.path} has no {INDEX}, which names the classes; {PICKLE} is not read, because loading a "
            f"pickle can run any code. Put {INDEX} of the release into this folder"
        )
    index = matlab(root / INDEX, "ade20k", ["index"])["index"]
    if not isinstance(index, Mapping) or "objectnames" not in index:
        raise DatasetError(f"ade20k: {root / INDEX} has no index.objectnames. Restore it from the release")
    names = _distinct([str(name) for name in np.atleast_1d(index["objectnames"])])
    folder = next(name for name in ("images/ADE", "images") if (root / name).is_dir())
    folder = f"{folder}/{root.options['split']}"
    root.require(folder)
    paths = root.found(below(root / folder), endings=(".jpg", ".jpeg"))
    files = {key: path.with_name(f"{key}{SEGMENTS}") for key, path in paths.items()}
    reader = root.some({key: Picture(path) for key, path in paths.items()}, folder)
    truth = LabelFiles(Convention(names), files, lambda key, path: _objects(path, len(names)))
    return benchmark(reader, {"segmentation": truth})


def _objects(path: Path, count: int) -> Segmentation:
    """Return the objects of a map of the full release."""
    values = numbers(path)
    if values.ndim != 3 or values.shape[2] < 3 or values.dtype != np.uint8:
        raise SampleError(f"{path} is not a map of the full release: it has {values.dtype} values of {values.shape}")
    codes = values[..., 0].astype(np.int64) // 10 * 256 + values[..., 1]
    if codes.max(initial=0) > count:
        raise SampleError(f"{path} has the object {codes.max()}, but {INDEX} names {count}. Give both of one release")
    return Segmentation(np.maximum(codes - 1, 0).astype(np.uint16), codes > 0)
