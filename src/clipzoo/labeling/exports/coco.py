"""COCO instances JSON: boxes x, y, width, height in pixels of each image, masks as compressed run lengths.

Ids of images, annotations and categories start at 1, categories in the order of the label space. Ignored objects are
``iscrowd``. Every object has a ``score``. If a label lists the searched classes, images have LVIS's
``neg_category_ids`` and ``not_exhaustive_category_ids``. `clipzoo labels import --format coco` reads all of these.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from clipzoo.files import PartialFile, Place
from clipzoo.labeling.exports import _readme
from clipzoo.labeling.exports.base import Labeled
from clipzoo.store import Column
from clipzoo.tasks import rle
from clipzoo.tasks.detection import Detection

TASKS = ("detection",)


def write(labels: Iterable[Labeled], column: Column, out: Place) -> None:
    """See `clipzoo.labeling.exports.base.Write`. Annotations are kept in a temporary file while images are written."""
    card, partial = column.card, PartialFile(out)
    info = {"description": f"{column.name}, exported by clipzoo", "expert": card.uri, "license": card.license}
    categories = [{"id": i, "name": name} for i, name in enumerate(column.convention.classes, 1)]
    try:
        with (
            partial.path.open("w", encoding="utf-8") as file,
            tempfile.TemporaryFile("w+", encoding="utf-8") as waiting,
        ):
            file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": [')
            count = 0
            for number, one in enumerate(labels, 1):
                _put(file, _image(number, one, len(categories)), number)
                for annotation in _annotations(number, one):
                    count += 1
                    _put(waiting, {"id": count, **annotation}, count)
            file.write('],\n"annotations": [')
            waiting.seek(0)
            shutil.copyfileobj(waiting, file)
            file.write("]}\n")
        partial.commit()
    finally:
        partial.discard()


def readme(columns: Sequence[Column], out: str) -> str:
    """See `clipzoo.labeling.exports.base.LabelFormatPlugin`."""
    meaning = (
        "Boxes are x, y, width, height in pixels of each picture; ids of images, annotations and categories count from "
        "1. Masks are compressed run lengths. Ignored objects are `iscrowd`. If a label lists the searched classes, "
        "images have LVIS's `neg_category_ids` and `not_exhaustive_category_ids`. Every object has a `score`."
    )
    read = _readme.command(out, "coco", {"classes": "all", "masks": "yes", "scores": "yes"})
    return _readme.text("Labels in COCO's format", columns, [meaning, read])


def _put(file: IO[str], record: dict[str, object], number: int) -> None:
    file.write(("\n" if number == 1 else ",\n") + json.dumps(record))


def _image(number: int, one: Labeled, classes: int) -> dict[str, object]:
    (height, width), label = one.size, one.label
    record: dict[str, object] = {"id": number, "file_name": one.name, "height": height, "width": width}
    if label.asked is not None:
        searched, present = set(label.asked.tolist()), set(label.ids[~label.ignored].tolist())
        record["neg_category_ids"] = [i + 1 for i in sorted(searched - present)]
        record["not_exhaustive_category_ids"] = [i + 1 for i in sorted(present - searched)]
    return record


def _annotations(number: int, one: Labeled) -> Iterator[dict[str, object]]:
    """Yield the annotations of an image, without ids."""
    label: Detection = one.label
    masks = label.masks or (None,) * len(label.ids)
    rows = zip(label.boxes.tolist(), label.ids.tolist(), label.scores, label.ignored.tolist(), masks, strict=True)
    for (x0, y0, x1, y1), kind, score, ignored, mask in rows:
        record = {"image_id": number, "category_id": kind + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        record |= {"area": (x1 - x0) * (y1 - y0), "iscrowd": int(ignored), "score": float(str(score))}
        if mask is not None:
            area = int(rle.decode(mask, one.size).sum())
            record |= {"area": area, "segmentation": {"size": list(one.size), "counts": mask}}
        yield record
