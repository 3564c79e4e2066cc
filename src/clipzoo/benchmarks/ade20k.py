"""ADE20K as released for the scene parsing challenge: ``ade20k:ADEChallengeData2016?split=validation``.

150 classes in the PNGs of ``annotations/<split>/``: 0 is unknown, and 1 to 150 are the classes of
``objectInfo150.txt``. Scores count the 150 classes, without background, as is usual.
"""

from __future__ import annotations

from collections.abc import Mapping

from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, class_map
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError
from clipzoo.files import Place
from clipzoo.tasks.base import Convention

CLASSES = 150
SHAPE = "images/<split>/*.jpg, annotations/<split>/*.png and objectInfo150.txt"


class Ade20k:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the release's folder; see `Layout.open`."""
        known = {"split": ("validation", "training")}
        root = Root("ade20k", folder, options, known, ["images", "annotations", "objectInfo150.txt"], SHAPE)
        split = root.options["split"]
        root.require(f"images/{split}", f"annotations/{split}")
        paths = {path.stem: path for path in (root / f"images/{split}").glob("*.jpg")}
        reader = root.some({key: Picture(path) for key, path in paths.items()}, f"images/{split}")
        files = {key: root / f"annotations/{split}/{key}.png" for key in paths}
        codes = {i + 1: i for i in range(CLASSES)}
        truth = LabelFiles(Convention(_names(root)), files, lambda key, path: class_map(path, codes))
        return benchmark(reader, {"segmentation": truth})


LAYOUT: Layout = Ade20k()


def _names(root: Root) -> tuple[str, ...]:
    """Return the first of the names of each class; all of them where several classes have the same first name."""
    path = root / "objectInfo150.txt"
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line.split("\t")[0].strip().isdigit()]
    if [int(row[0]) for row in rows] != list(range(1, CLASSES + 1)):
        raise DatasetError(f"ade20k: {path} must have a line for each class from 1 to {CLASSES}, tab-separated")
    full = [row[-1].strip() for row in rows]
    first = [name.split(",")[0].strip() for name in full]
    return tuple(one if first.count(one) == 1 else name for one, name in zip(first, full, strict=True))
