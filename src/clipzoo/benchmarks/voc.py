"""PASCAL VOC: ``voc:VOC2012?split=val``.

Options: ``split`` is a list of the task's folder in ``ImageSets/``, such as ``val`` or ``trainaug``; ``task`` is
``segmentation`` (21 classes with background in palette PNGs of ``SegmentationClass/``; 255 is unknown), ``context`` (59
classes of PASCAL-Context in the PNGs of ``SegmentationClassContext/``; 0 is unknown) or ``detection`` (boxes of
``Annotations/``; difficult objects are ignored, as in the official scores).
"""

from __future__ import annotations

from collections.abc import Mapping

from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, class_map
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError
from clipzoo.files import Place
from clipzoo.importers.voc import create
from clipzoo.plugins import hint
from clipzoo.tasks.base import Convention

OBJECTS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CONTEXT = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse",
    "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow",
    "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
SHAPE = "JPEGImages/, ImageSets/Segmentation/<split>.txt and SegmentationClass/"
FOLDERS = {
    "segmentation": ("ImageSets/Segmentation", "SegmentationClass"),
    "context": ("ImageSets/SegmentationContext", "SegmentationClassContext"),
    "detection": ("ImageSets/Main", "Annotations"),
}
"""Task -> folder of its lists, folder of its labels."""


class Voc:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open a year's folder; see `Layout.open`."""
        known = {"split": (), "task": tuple(FOLDERS)}
        root = Root("voc", folder, {"split": "val", **options}, known, ["JPEGImages"], SHAPE)
        lists, labels = FOLDERS[root.options["task"]]
        root.require(lists, labels)
        keys = root.lines(f"{lists}/{_split(root, lists)}.txt")
        reader = root.some({key: Picture(root.named("JPEGImages", key)) for key in keys}, "JPEGImages")
        if root.options["task"] == "detection":
            boxes = create(f"{root / labels}?classes={','.join(OBJECTS)}&origin=1")
            files = {key: root / f"{labels}/{key}.xml" for key in keys}
            objects = LabelFiles(Convention(OBJECTS), files, lambda key, path: boxes.look_up(key, reader.size(key)))
            return benchmark(reader, {"detection": objects})
        files = {key: root / f"{labels}/{key}.png" for key in keys}
        context = root.options["task"] == "context"
        names = CONTEXT if context else ("background", *OBJECTS)
        codes = {i + context: i for i in range(len(names))}
        truth = LabelFiles(Convention(names), files, lambda key, path: class_map(path, codes))
        return benchmark(reader, {"segmentation": truth})


LAYOUT: Layout = Voc()


def _split(root: Root, lists: str) -> str:
    """Return the split; `DatasetError` if there is no list of this name."""
    split, splits = root.options["split"], sorted(path.stem for path in (root / lists).glob("*.txt"))
    if split not in splits:
        raise DatasetError(f"voc: split={split} is unknown: {root / lists} has no {split}.txt; {hint(split, splits)}")
    return split
