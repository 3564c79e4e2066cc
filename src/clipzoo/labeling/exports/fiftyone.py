"""FiftyOne: pictures in ``data/``, and labels in a layout that ``fiftyone.Dataset.from_dir`` reads.

Detection is a ``COCODetectionDataset`` (``labels.json``), segmentation an ``ImageSegmentationDirectory``
(``labels/<key>.png``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from clipzoo.errors import SampleError
from clipzoo.files import Place
from clipzoo.labeling.exports import _folder, _maps, _readme, coco
from clipzoo.labeling.exports.base import Labeled, Labels
from clipzoo.store import Column

TASKS = ("detection", "segmentation")
FOLDER = True


def write(labels: Labels, column: Column, out: Place) -> None:
    """See `clipzoo.labeling.exports.base.Write`."""
    folder = cast(Path, out)
    (folder / "data").mkdir()
    if column.task == "detection":
        coco.write(_with_pictures(labels, column, folder), column, folder / "labels.json")
        return
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_bytes(_readme.class_list(column))
    for _ in _with_pictures(labels, column, folder):
        pass


def _with_pictures(labels: Labels, column: Column, folder: Path) -> Iterator[Labeled]:
    """Write each picture, and the map of a segmentation; yield those that were written."""
    for one in labels:
        try:
            _folder.put(folder / "data", one.name, one.sample.image)
            if column.task == "segmentation":
                _folder.put(folder / "labels", f"{one.key}.png", _maps.encode(one.label, column.convention)[0])
        except SampleError as error:
            labels.leave_out(one, column, str(error))
        else:
            yield one


def readme(columns: Sequence[Column], out: str) -> str:
    """See `clipzoo.labeling.exports.base.LabelFormatPlugin`."""
    (column,) = columns
    if column.task == "detection":
        kind, call = "COCODetectionDataset", ', label_types=["detections", "segmentations"], include_id=True'
        options = {"classes": "all", "masks": "yes", "scores": "yes"}
        section = (
            "Boxes are x, y, width, height in pixels, ids of categories count from 1, and ignored objects are "
            "`iscrowd`. FiftyOne reads `score` as the confidence.\n\n"
            + _readme.command(f"{out}/labels.json", "coco", options)
        )
    else:
        kind, call = "ImageSegmentationDirectory", ""
        names = (*enumerate(column.convention.classes), (int(_maps.options(column)["void"]), "unknown"))
        targets = ", ".join(f"{number}: {name!r}" for number, name in names)
        section = (
            f"The names of the classes: `dataset.default_mask_targets = {{{targets}}}`.\n\n"
            + _readme.of_map(column, f"{out}/labels", "files", f"{out}/classes.txt", {"suffix": ".png"})
        )  # fmt: skip
    load = f"dataset = fo.Dataset.from_dir(dataset_dir={out!r}, dataset_type=fo.types.{kind}{call})"
    return _readme.text("Labels for FiftyOne", columns, [f"```python\nimport fiftyone as fo\n\n{load}\n```", section])
