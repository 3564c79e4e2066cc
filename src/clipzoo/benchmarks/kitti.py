"""KITTI's selected depth validation set: ``kitti:depth_selection/val_selection_cropped``.

``image/*_image_*.png`` with ``groundtruth_depth/*_groundtruth_depth_*.png``: 16 bits, 1/256 m, 0 is unknown. Depth is
along the optical axis; beyond 80 m it is unknown. ``crop`` is ``garg`` (default), ``eigen`` or ``none``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipzoo.benchmarks._published.depth import convention, cropped, metric, named
from clipzoo.benchmarks._published.listing import inside
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, numbers
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.files import Place
from clipzoo.tasks.depth import Depth

FARTHEST = 80.0
SHAPE = "image/*_image_*.png and groundtruth_depth/*_groundtruth_depth_*.png"


class Kitti:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the selection's folder; see `Layout.open`."""
        known = {"crop": ("garg", "eigen", "none")}
        root = Root("kitti", folder, options, known, ["image", "groundtruth_depth"], SHAPE)
        pictures = {key: Picture(path) for key, path in root.found(inside(root / "image")).items()}
        reader = root.some(pictures, "image")
        files = {
            key: root / f"groundtruth_depth/{key.replace('_image_', '_groundtruth_depth_', 1)}.png" for key in pictures
        }
        crop = root.options["crop"]
        crop = crop if crop == "none" else f"kitti-{crop}"
        return benchmark(reader, {"depth": LabelFiles(convention("z"), files, _depth, cropped(crop), named(crop))})


LAYOUT: Layout = Kitti()


def _depth(key: str, path: Path) -> Depth:
    codes = numbers(path)
    return metric(codes / 256, codes > 0, "z", FARTHEST)
