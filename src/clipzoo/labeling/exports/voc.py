"""PASCAL VOC: ``Annotations/<key>.xml`` of boxes, or ``SegmentationClass/<key>.png`` of classes.

Boxes are whole pixels that count from 1 and include the last one. Ignored objects are ``difficult``. Class maps are
palette PNGs in which 255 is unknown. ``ImageSets`` lists the keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from clipzoo.errors import SampleError, StoreError
from clipzoo.files import Place
from clipzoo.labeling.exports import _folder, _maps, _readme
from clipzoo.labeling.exports.base import Labeled, Labels
from clipzoo.store import Column
from clipzoo.tasks.detection import Detection

TASKS = ("detection", "segmentation")
FOLDER = True

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow."""


def write(labels: Labels, column: Column, out: Place) -> None:
    """See `clipzoo.labeling.exports.base.Write`."""
    folder, boxes, classes = cast(Path, out), column.task == "detection", column.convention.classes
    if not boxes and len(classes) > _maps.VOID:
        raise StoreError(
            f"{column.name} has {len(classes)} classes, but PASCAL VOC's palette PNGs hold {_maps.VOID} and void. "
            "Export it with --to png, which writes 16 bits"
        )
    if wrong := next((name for name in classes if FORBIDDEN.search(name)), None):
        raise StoreError(f"the class {wrong!r} of {column.name} has characters that XML does not allow: export to coco")
    (folder / "classes.txt").write_bytes(_readme.class_list(column))
    names = folder / "ImageSets" / ("Main" if boxes else "Segmentation") / "default.txt"
    names.parent.mkdir(parents=True)
    (folder / _place(column)).mkdir()
    with names.open("w", encoding="utf-8") as file:
        for one in labels:
            try:
                data = _xml(one, classes) if boxes else _maps.encode(one.label, column.convention)[0]
                _folder.put(folder / _place(column), f"{one.key}.{'xml' if boxes else 'png'}", data)
            except SampleError as error:
                labels.leave_out(one, column, str(error))
            else:
                file.write(f"{one.key}\n")


def readme(columns: Sequence[Column], out: str) -> str:
    """See `clipzoo.labeling.exports.base.LabelFormatPlugin`."""
    (column,) = columns
    images = (
        "The pictures are not part of the export: copy them to `JPEGImages/<key>.jpg`. `ImageSets` lists the keys, and "
        "classes.txt the classes in the order of ids."
    )
    if column.task == "segmentation":
        maps = (
            "The first class of the label space has the value 0, which PASCAL VOC reserves for background: readers of "
            "VOC's own 21 classes expect `background` as the first one."
        )
        section = _readme.of_map(column, f"{out}/SegmentationClass", "files", f"{out}/classes.txt", {"suffix": ".png"})
        return _readme.text("Labels in PASCAL VOC's format", columns, [images, maps, section])
    boxes = (
        "`xmin`, `ymin`, `xmax`, `ymax` are whole pixels that count from 1, and the last one belongs to the box. Boxes "
        "between pixels are rounded to the nearest border of pixels. Objects that are ignored are `difficult`. "
        "This format holds no scores, no masks, and not the list of searched classes; `--to coco` holds these."
    )
    read = _readme.command(f"{out}/Annotations", "voc", {"classes": f"@{out}/classes.txt", "origin": "1"})
    return _readme.text("Labels in PASCAL VOC's format", columns, [images, boxes, read])


def _place(column: Column) -> str:
    return "Annotations" if column.task == "detection" else "SegmentationClass"


def _xml(one: Labeled, classes: Sequence[str]) -> bytes:
    """Return the annotation of a picture; `SampleError` if XML cannot hold its key."""
    if FORBIDDEN.search(one.name):
        raise SampleError(f"the key {one.key!r} has characters that XML does not allow. Give the sample another key")
    (height, width), label = one.size, cast(Detection, one.label)
    root = Element("annotation")
    _values(root, {"folder": "JPEGImages", "filename": one.name})
    _values(SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _values(root, {"segmented": 0})
    corners = _corners(label, width, height).tolist()
    for kind, ignored, (x0, y0, x1, y1) in zip(label.ids.tolist(), label.ignored.tolist(), corners, strict=True):
        item = SubElement(root, "object")
        _values(item, {"name": classes[kind], "pose": "Unspecified", "truncated": 0, "difficult": int(ignored)})
        _values(SubElement(item, "bndbox"), {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1})
    indent(root)
    return bytes(tostring(root, encoding="utf-8")) + b"\n"


def _values(parent: Element, values: dict[str, object]) -> None:
    for name, value in values.items():
        SubElement(parent, name).text = str(value)


def _corners(label: Detection, width: int, height: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return boxes int64 [N,4] at borders of pixels, at least one pixel wide and high."""
    corners = np.rint(label.boxes).astype(np.int64)
    first = np.minimum(corners[:, :2], [width - 1, height - 1])
    return np.concatenate([first, np.maximum(corners[:, 2:], first + 1)], 1)
