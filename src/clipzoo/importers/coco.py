"""Boxes of a COCO JSON: ``coco:instances.json?classes=all&masks=no``, labels that exist, by sample key.

Boxes (x, y, width, height) and masks (polygons, run lengths) are read in the frame that the file tells, which may be
larger or smaller than the sample's picture. A missing box is that of the mask. ``iscrowd`` makes a box ignored. An
image without annotations has no objects; a sample without an image in the file is a failed row. Where images have
``neg_category_ids`` (LVIS), the label says which classes were looked for. Panoptic files are ``panoptic:``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts import _boxes
from clipzoo.experts._answers import PATTERN, answer, chosen, parse_pattern, split
from clipzoo.experts.base import ExpertCard
from clipzoo.importers import _coco, _polygons
from clipzoo.importers import base as _keyed
from clipzoo.importers.base import Importer, same_aspect
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

REQUIRED = {
    "classes": "all (the file's categories in the order of their ids), names in the order that is wanted, as "
    "person,dog, or @names.txt with a name a line",
    "masks": "yes (store the objects' masks, too) or no",
}
OPTIONAL = {
    "match": _coco.MATCHED,
    "rename": _coco.RENAME,
    "pattern": PATTERN,
    "scores": "yes (each annotation's score, from 0 to 1) or no (all are 1, the default)",
    **_boxes.OPTIONAL,
}
PARSERS = {
    **_boxes.PARSERS,
    "masks": chosen("masks", ("yes", "no")),
    "match": chosen("match", _coco.MATCHES),
    "rename": _coco.parse_rename,
    "pattern": parse_pattern,
    "scores": chosen("scores", ("yes", "no")),
}


def create(name: str) -> Coco:
    """The expert of ``instances.json?classes=…&masks=…``.

    Raises:
        ExpertError: the URI leaves a question open, or the file is not sound as a whole.
    """
    path, _, query = name.partition("?")
    given = split(query)
    answers = answer(given, REQUIRED, OPTIONAL, PARSERS, "coco", "detection")
    file = _coco.read(files.place(path), answers)
    names = tuple(file.categories.values())
    classes = names if given["classes"] == _coco.ALL else answers["classes"]
    space = _boxes.Space(classes, answers.get("others", ""))
    space.check(names, path)
    card = _keyed.card(f"coco:{name}", "detection", given, answers, Convention(classes), file.sha256)
    return Coco(card, file, space, answers["masks"] == "yes", answers.get("scores") == "yes")


class Coco(Importer):
    """Looks boxes up in a file."""

    def __init__(
        self, card: ExpertCard, file: _coco.Annotated, space: _boxes.Space, masks: bool, scores: bool = False
    ) -> None:
        super().__init__()
        self.card, self.file, self.space, self.masks, self.scores = card, file, space, masks, scores
        self.notes = file.notes

    def place(self, key: str) -> str | None:
        """The image's name in the file."""
        name = self.file.name(key)
        return name if name in self.file.pictures else None

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        return self.file.hint(keys)

    def look_up(self, key: str, size: Size) -> Detection:
        """See `Importer.look_up`."""
        picture = self.file.picture(key)
        same_aspect(picture.size, size, str(self.file.path))
        objects = _boxes.Objects(self.space, picture.size)
        for annotation in self.file.annotations.get(picture.id, ()):
            name = self.file.category(annotation)
            if objects.wanted(name):
                self._add(objects, name, annotation, key)
        return self._asked(objects.label(), picture)

    def _add(self, objects: _boxes.Objects, name: str, annotation: Mapping[str, Any], key: str) -> None:
        """Add an annotation to the objects of a sample."""
        box, ignored = annotation.get("bbox"), bool(annotation.get("iscrowd", 0))
        boxless = box is None or box == []
        mask = mask_of(annotation, objects.size) if self.masks or boxless else None
        if boxless:
            edges: Sequence[float] = _around(mask, objects.size)
            self.notes.take("repaired: bbox is missing and taken from the mask", key)
        else:
            edges = _boxes.xyxy(box or (), "xywh")
        if self.masks and mask is None:
            self.notes.take("kept without a mask: objects that have a box alone", key)
        objects.add(name, edges, ignored, mask if self.masks else None, self._score(annotation))

    def _score(self, annotation: Mapping[str, Any]) -> float:
        if not self.scores:
            return 1.0
        score = annotation.get("score")
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise SampleError(f"no score from 0 to 1: {score!r}; scores=no leaves scores out")
        return float(score)

    def _asked(self, label: Detection, picture: _coco.Picture) -> Detection:
        """The label, which tells what was looked for where that is not everything."""
        if picture.absent is None:
            return label
        classes = self.space.classes
        numbers = {i: classes.index(name) for i, name in self.file.categories.items() if name in classes}
        absent, partly = ({numbers[i] for i in ids if i in numbers} for ids in (picture.absent, picture.partly))
        found = set(label.ids[~label.ignored].tolist())
        return replace(label, asked=np.array(sorted((absent | found) - partly), np.uint16))


def mask_of(annotation: Mapping[str, Any], size: Size) -> str | None:
    """An annotation's mask as compressed run lengths of a frame of ``size`` (H, W); None if it has none.

    Raises:
        SampleError: it is none of this frame.
    """
    told = annotation.get("segmentation")
    if told is None or told in ([], {}, ""):
        return None
    if isinstance(told, list):
        _refuse_runs(told, size)
        return rle.encode(_polygons.filled(told, size))
    if not isinstance(told, dict) or list(told.get("size", ())) != list(size):
        raise SampleError(f"an object without a mask of the image's size: {str(told)[:80]}; masks=no leaves them out")
    counts: Any = told.get("counts")
    try:
        mask = rle.decode(counts, size) if isinstance(counts, str) else rle.unrolled(counts, size)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"run lengths that are no mask: {error}") from error
    return rle.encode(mask)


def _refuse_runs(told: Sequence[Any], size: Size) -> None:
    """Raise `SampleError` where a list of polygons is numbers alone, or holds the run lengths of a mask."""
    H, W = size
    flat = not any(isinstance(one, list) for one in told)
    for one in [told] if flat else told:
        counts = isinstance(one, list) and all(type(n) is int and n >= 0 for n in one) and sum(one) == H * W
        if counts and (flat or len(one) % 2 or max(one) > max(H, W)):
            raise SampleError(
                f"a polygon that looks like run lengths, whose sum is {H}×{W}: {str(one)[:60]}; write "
                f'"segmentation": {{"size": [{H}, {W}], "counts": […]}}'
            )
    if flat:
        raise SampleError(f"a polygon that is in no list: {str(told)[:60]}; write a list of polygons: [[x0, y0, …]]")


def _around(mask: str | None, size: Size) -> tuple[int, int, int, int]:
    """The box around a mask; `SampleError` if there is no pixel in it."""
    pixels = None if mask is None else rle.decode(mask, size)
    if pixels is None or not pixels.any():
        raise SampleError("an object without a bbox and without a mask: mend or remove it")
    return _boxes.around(pixels)
