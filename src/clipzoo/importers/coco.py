"""Boxes of a COCO JSON: ``coco:instances.json?classes=all&masks=no``, labels that exist, by sample key.

Boxes (x, y, width, height) and masks (polygons, run lengths) are read in the frame that the file tells, which may be
larger or smaller than the sample's picture. ``iscrowd`` makes a box ignored. An image without annotations has no
objects; a sample without an image in the file is a failed row. Where images have ``neg_category_ids`` (LVIS), the
label says which classes were looked for. Panoptic files are ``panoptic:``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts import _boxes
from clipzoo.experts._answers import answer, chosen, split
from clipzoo.experts.base import ExpertCard
from clipzoo.importers import _coco, _polygons
from clipzoo.importers import base as _keyed
from clipzoo.importers.base import KeyedExpert, same_aspect
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

REQUIRED = {
    "classes": "all (the file's categories in the order of their ids), names in the order that is wanted, as "
    "person,dog, or @names.txt with a name a line",
    "masks": "yes (store the objects' masks, too) or no",
}
OPTIONAL = {"match": _coco.MATCHED, **_boxes.OPTIONAL}
PARSERS = {
    **_boxes.PARSERS,
    "masks": chosen("masks", ("yes", "no")),
    "match": chosen("match", _coco.MATCHES),
}


def create(name: str) -> Coco:
    """The expert of ``instances.json?classes=…&masks=…``.

    Raises:
        ExpertError: the URI leaves a question open, or the file is not sound as a whole.
    """
    path, _, query = name.partition("?")
    given = split(query)
    answers = answer(given, REQUIRED, OPTIONAL, PARSERS, "coco", "detection")
    file = _coco.read(files.place(path), answers.get("match", "key"))
    names = tuple(file.categories.values())
    classes = names if given["classes"] == _coco.ALL else answers["classes"]
    space = _boxes.Space(classes, answers.get("others", ""))
    space.check(names, path)
    card = _keyed.card(f"coco:{name}", "detection", given, answers, Convention(classes), file.sha256)
    return Coco(card, file, space, answers["masks"] == "yes")


class Coco(KeyedExpert):
    """Looks boxes up in a file."""

    def __init__(self, card: ExpertCard, file: _coco.Annotated, space: _boxes.Space, masks: bool) -> None:
        self.card, self.file, self.space, self.masks = card, file, space, masks

    def place(self, key: str) -> str | None:
        """The image's name in the file."""
        name = self.file.name(key)
        return name if name in self.file.pictures else None

    def look_up(self, key: str, size: Size) -> Detection:
        """See `KeyedExpert.look_up`."""
        picture = self.file.picture(key)
        same_aspect(picture.size, size, str(self.file.path))
        objects = _boxes.Objects(self.space, picture.size)
        for annotation in self.file.annotations.get(picture.id, ()):
            name = self.file.category(annotation)
            if objects.wanted(name):
                mask = mask_of(annotation, picture.size) if self.masks else None
                box = _boxes.xyxy(annotation.get("bbox", ()), "xywh")
                objects.add(name, box, bool(annotation.get("iscrowd", 0)), mask)
        return self._asked(objects.label(), picture)

    def _asked(self, label: Detection, picture: _coco.Picture) -> Detection:
        """The label, which tells what was looked for where that is not everything."""
        if picture.absent is None:
            return label
        classes = self.space.classes
        numbers = {i: classes.index(name) for i, name in self.file.categories.items() if name in classes}
        absent, partly = ({numbers[i] for i in ids if i in numbers} for ids in (picture.absent, picture.partly))
        found = set(label.ids[~label.ignored].tolist())
        return replace(label, asked=np.array(sorted((absent | found) - partly), np.uint16))


def mask_of(annotation: Mapping[str, Any], size: Size) -> str:
    """An annotation's mask as compressed run lengths of a frame of ``size`` (H, W).

    Raises:
        SampleError: there is none, or none of this frame.
    """
    told = annotation.get("segmentation")
    if isinstance(told, list) and told:
        return rle.encode(_polygons.filled(told, size))
    if not isinstance(told, dict) or list(told.get("size", ())) != list(size):
        raise SampleError(f"an object without a mask of the image's size: {str(told)[:80]}; masks=no leaves them out")
    counts: Any = told.get("counts")
    try:
        mask = rle.decode(counts, size) if isinstance(counts, str) else rle.unrolled(counts, size)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"run lengths that are no mask: {error}") from error
    return rle.encode(mask)
