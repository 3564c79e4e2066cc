"""Hypersim: ``hypersim:PATH``, a folder of scenes or one scene.

``images/scene_<cam>_final_preview/frame.<n>.tonemap.jpg`` (or ``color.jpg``) with
``images/scene_<cam>_geometry_hdf5/frame.<n>.depth_meters.hdf5``. Depth is the distance to the optical center in meters
(``ray``); not-a-number is unknown. This needs h5py: ``pip install 'clipzoo[benchmarks]'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipzoo.benchmarks._published.depth import convention, metric
from clipzoo.benchmarks._published.listing import below
from clipzoo.benchmarks._published.matlab import hdf5
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.files import Place
from clipzoo.tasks.depth import Depth

PREVIEW, GEOMETRY = "_final_preview", "_geometry_hdf5"
KINDS = (".tonemap.jpg", ".color.jpg")
SHAPE = f"images/scene_<cam>{PREVIEW}/frame.<n>{KINDS[0]} and images/scene_<cam>{GEOMETRY}/frame.<n>.depth_meters.hdf5"


class Hypersim:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open a folder, with all folders below it; see `Layout.open`."""
        root = Root("hypersim", folder, options, {}, [], SHAPE)
        files = [path for path in below(root.path) if f"{PREVIEW}/frame." in root.stem(path)]
        paths: dict[str, Path] = {}
        for kind in reversed(KINDS):  # the first kind replaces the other
            paths |= root.found(
                (path for path in files if path.name.lower().endswith(kind)),
                lambda path: root.stem(path.with_suffix("")),
            )
        reader = root.some({key: Picture(path) for key, path in paths.items()}, ".")
        labels = {key: root / f"{key.replace(PREVIEW, GEOMETRY)}.depth_meters.hdf5" for key in paths}
        return benchmark(reader, {"depth": LabelFiles(convention("ray"), labels, _depth)})


LAYOUT: Layout = Hypersim()


def _depth(key: str, path: Path) -> Depth:
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such file", str(path))
    with hdf5(path, "hypersim", ["dataset"]) as file:
        values = np.asarray(file["dataset"], np.float32)
    return metric(values, np.isfinite(values), "ray")
