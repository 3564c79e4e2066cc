"""DIODE: ``diode:val/indoors?along=z``.

``*.png`` with ``*_depth.npy`` (float meters) and ``*_depth_mask.npy`` (1 where there was a return). The dataset's
documentation does not say what depth is measured along, so ``along`` must be given: ``z`` (optical axis) or ``ray``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from clipzoo.benchmarks._published.depth import convention, metric
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.tasks.depth import Along, Depth

SHAPE = "scene_*/scan_*/<name>.png with <name>_depth.npy and <name>_depth_mask.npy"


class Diode:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open a folder, with all folders below it; see `Layout.open`."""
        if options.get("along") not in ("z", "ray"):
            raise DatasetError(
                "diode: say what depth is measured along: diode:PATH?along=z (optical axis), or along=ray"
            )
        root = Root("diode", folder, options, {"along": ()}, [], SHAPE)
        along = cast(Along, root.options["along"])
        pictures = {
            path.relative_to(root.path).with_suffix("").as_posix(): Picture(path)
            for path in root.path.rglob("*.png")
            if path.with_name(f"{path.stem}_depth.npy").is_file()
        }
        reader = root.some(pictures, ".")
        files = {key: root / f"{key}_depth.npy" for key in pictures}
        return benchmark(reader, {"depth": LabelFiles(convention(along), files, lambda key, path: _depth(path, along))})


LAYOUT: Layout = Diode()


def _depth(path: Path, along: Along) -> Depth:
    mask = path.with_name(path.name.replace("_depth.npy", "_depth_mask.npy"))
    try:
        values, valid = (np.load(file, allow_pickle=False) for file in (path, mask))
    except ValueError as error:
        raise SampleError(f"{path} or its mask is damaged: {error}") from error
    values = values.reshape(values.shape[:2])
    if valid.shape != values.shape:
        raise SampleError(f"{mask} is {list(valid.shape)}, but the depth is {list(values.shape)}")
    return metric(values, valid > 0, along)
