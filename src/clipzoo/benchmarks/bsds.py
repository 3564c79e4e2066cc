"""BSDS500: ``bsds:BSDS500/data?split=test``.

``images/<split>/*.jpg`` and ``groundTruth/<split>/*.mat``: MATLAB files of version 5 with a cell per annotator, whose
``Boundaries`` are 1 at lines of one pixel. The label keeps all annotators, and its values are their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipzoo.benchmarks._published.listing import inside
from clipzoo.benchmarks._published.matlab import matlab
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import SampleError
from clipzoo.files import Place
from clipzoo.tasks.base import Convention
from clipzoo.tasks.edges import AnnotatedEdges

SHAPE = "images/<split>/*.jpg and groundTruth/<split>/*.mat"
FIELD = "groundTruth"


class Bsds:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder ``data`` of the release; see `Layout.open`."""
        root = Root("bsds", folder, options, {"split": ("test", "val", "train")}, ["images", FIELD], SHAPE)
        pictures, truth = f"images/{root.options['split']}", f"{FIELD}/{root.options['split']}"
        root.require(pictures, truth)
        paths = root.found(inside(root / pictures))
        reader = root.some({key: Picture(path) for key, path in paths.items()}, pictures)
        files = {key: root / f"{truth}/{key}.mat" for key in paths}
        return benchmark(reader, {"edges": LabelFiles(Convention(), files, _read)})


LAYOUT: Layout = Bsds()


def _read(key: str, path: Path) -> AnnotatedEdges:
    """Return the boundaries of all annotators of a file."""
    if not path.is_file():
        raise SampleError(f"the label {path} is missing", "cannot-read")
    cells = matlab(path, "bsds", [FIELD])[FIELD]
    people = [cells] if isinstance(cells, Mapping) else list(np.atleast_1d(np.asarray(cells, object)))
    if not people or not all(isinstance(one, Mapping) and "Boundaries" in one for one in people):
        raise SampleError(
            f"{path} has no groundTruth{{i}}.Boundaries: it is not a file of BSDS500. Restore it from the release"
        )
    maps = [np.asarray(one["Boundaries"]) > 0 for one in people]
    if len({one.shape for one in maps}) > 1 or maps[0].ndim != 2:
        raise SampleError(f"{path} has boundaries of different sizes: {sorted({one.shape for one in maps})}")
    return AnnotatedEdges.of(np.stack(maps))
