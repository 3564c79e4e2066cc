"""Cityscapes: ``cityscapes:PATH?split=val``.

The 19 classes of the benchmark, from ``gtFine/<split>/<city>/*_gtFine_labelIds.png``; all other labels are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from clipzoo.benchmarks._published.listing import inside
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, class_map
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.files import Place
from clipzoo.tasks.base import Convention

CLASSES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Number in the label files -> class; cityscapesScripts, helpers/labels.py (id and trainId)."""
PICTURE, LABEL = "_leftImg8bit", "_gtFine_labelIds.png"
SHAPE = f"leftImg8bit/<split>/<city>/*{PICTURE}.png and gtFine/<split>/<city>/*{LABEL}"


class Cityscapes:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder of both packages; see `Layout.open`."""
        root = Root("cityscapes", folder, options, {"split": ("val", "train")}, ["leftImg8bit", "gtFine"], SHAPE)
        split = root.options["split"]
        cities = [path for path in (root / f"leftImg8bit/{split}").glob("*") if path.is_dir()]
        files = (path for city in cities for path in inside(city) if path.stem.endswith(PICTURE))
        paths = root.found(files, lambda path: f"{path.parent.name}/{path.stem.removesuffix(PICTURE)}")
        pictures = {key: Picture(path) for key, path in paths.items()}
        reader = root.some(pictures, f"leftImg8bit/{split}")
        labels = {key: root / f"gtFine/{split}/{key}{LABEL}" for key in pictures}
        codes = {number: i for i, number in enumerate(CLASSES)}
        truth = LabelFiles(Convention((*CLASSES.values(),)), labels, lambda key, path: class_map(path, codes))
        return benchmark(reader, {"segmentation": truth})


LAYOUT: Layout = Cityscapes()
