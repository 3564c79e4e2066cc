"""Existing boxes in a COCO JSON, found by sample key: ``coco:instances.json?classes=all&masks=no``.

Boxes (x, y, width, height) and masks (polygons, run lengths) are in the frame whose size is in the file; it may be
larger or smaller than the sample's picture. A missing box is taken from the mask. Objects with ``iscrowd`` are ignored.
An image without annotations has no objects; a sample without an image in the file is a failed row. If images have
``neg_category_ids`` (LVIS), the label states the classes that were searched for. Panoptic files: ``panoptic:``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal, cast

import numpy as np
from pydantic import Field, PlainValidator

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts import boxes
from clipzoo.experts.base import ExpertCard
from clipzoo.experts.options import ClassNames, split
from clipzoo.importers import _boxes, _coco, _polygons, base
from clipzoo.importers._meaning import PATTERN, PatternOption
from clipzoo.importers.base import Importer, same_aspect
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

CROWD = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""``iscrowd`` as text -> its value."""


class CategoryOptions(_boxes.BoxOptions):
    """Options of a JSON with categories."""

    classes: ClassNames = Field(
        description="all (the file's categories in the order of their ids), names in the order that is wanted, as "
        "person,dog, or @names.txt with one name per line"
    )
    match: Literal["key", "stem", "id"] = Field("key", description=_coco.MATCHED)
    rename: Annotated[Mapping[str, str], PlainValidator(_coco.parse_rename)] = Field({}, description=_coco.RENAME)
    pattern: PatternOption = Field(None, description=PATTERN)

    def space(self, file: _coco.Annotated, given: str) -> _boxes.Space:
        """Return the label space, checked against the file's categories; ``given`` is ``classes`` as text."""
        names = tuple(file.categories.values())
        space = _boxes.Space(names if given == _coco.ALL else self.classes, self.others)
        space.check(names, str(file.path))
        return space


class CocoOptions(CategoryOptions):
    """Options of COCO's instances."""

    masks: Literal["yes", "no"] = Field(description="yes (store the objects' masks, too) or no")
    scores: Literal["yes", "no"] = Field(
        "no", description="yes (each annotation's score, from 0 to 1) or no (all are 1, the default)"
    )


def create(name: str) -> Coco:
    """Return the importer of ``instances.json?classes=…&masks=…``.

    Raises:
        ExpertError: options are missing or invalid, or the file as a whole is not valid.
    """
    path, _, query = name.partition("?")
    given = split(query)
    options = base.parse(CocoOptions, given, "coco", "labels of detection")
    file = _coco.read(files.place(path), options.match, options.rename, options.pattern)
    space = options.space(file, given["classes"])
    card = base.card(f"coco:{name}", "detection", given, options, Convention(space.classes), file.sha256)
    return Coco(card, file, space, options.masks == "yes", options.scores == "yes")


class Coco(Importer):
    """Existing boxes in a JSON file."""

    def __init__(
        self, card: ExpertCard, file: _coco.Annotated, space: _boxes.Space, masks: bool, scores: bool = False
    ) -> None:
        super().__init__()
        self.card, self.file, self.space, self.masks, self.scores = card, file, space, masks, scores
        self.notes = file.notes

    def place(self, key: str) -> str | None:
        """Return the name of the image in the file."""
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

    def _add(self, objects: _boxes.Objects, name: str, annotation: Mapping[str, object], key: str) -> None:
        """Add an annotation to the objects of a sample."""
        box, ignored = annotation.get("bbox"), _crowd(annotation)
        boxless = box is None or box == []
        mask = mask_of(annotation, objects.size) if self.masks or boxless else None
        if boxless:
            edges: Sequence[float] = _around(mask, objects.size)
            self.notes.take("repaired: bbox is missing and taken from the mask", key)
        else:
            edges = _boxes.xyxy(cast(Sequence[object], box or ()), "xywh")
            if len(edges) == 4 and 0 in (edges[2] - edges[0], edges[3] - edges[1]):  # two in train2017
                self.notes.take("left out: objects whose bbox has no area", key)
                return
        if self.masks and mask is None:
            self.notes.take("kept without a mask: objects that have a box alone", key)
        objects.add(name, edges, ignored, mask if self.masks else None, self._score(annotation))

    def _score(self, annotation: Mapping[str, object]) -> float:
        if not self.scores:
            return 1.0
        score = annotation.get("score")
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise SampleError(f"no score from 0 to 1: {score!r}; scores=no leaves scores out")
        return float(score)

    def _asked(self, label: Detection, picture: _coco.Picture) -> Detection:
        """Return the label with the classes that were searched for, if these are not all."""
        if picture.absent is None:
            return label
        classes = self.space.classes
        numbers = {i: classes.index(name) for i, name in self.file.categories.items() if name in classes}
        absent, partly = ({numbers[i] for i in ids if i in numbers} for ids in (picture.absent, picture.partly))
        found = set(label.ids[~label.ignored].tolist())
        return replace(label, asked=np.array(sorted((absent | found) - partly), np.uint16))


def _crowd(annotation: Mapping[str, object]) -> bool:
    """Return True for a crowd; some programs write numbers as text, and any text is true in Python."""
    value = annotation.get("iscrowd")
    if not isinstance(value, str):
        return bool(value)
    if (text := value.strip().lower()) not in CROWD:
        raise SampleError(f"iscrowd is neither 0 nor 1: {value!r}; fix the file")
    return CROWD[text]


def mask_of(annotation: Mapping[str, object], size: Size) -> str | None:
    """Return an annotation's mask as compressed run lengths of a frame of ``size`` (H, W); None without a mask.

    Raises:
        SampleError: the mask is not valid for this frame.
    """
    shape = annotation.get("segmentation")
    if shape is None or shape in ([], {}, ""):
        return None
    if isinstance(shape, list):
        _refuse_runs(shape, size)
        return rle.encode(_polygons.filled(shape, size))
    if not isinstance(shape, dict) or list(shape.get("size", ())) != list(size):
        raise SampleError(f"an object without a mask of the image's size: {str(shape)[:80]}; masks=no leaves them out")
    counts = cast(str | Sequence[int], shape.get("counts"))
    try:
        mask = rle.decode(counts, size) if isinstance(counts, str) else rle.unrolled(counts, size)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"run lengths that are no mask: {error}") from error
    return rle.encode(mask)


def _refuse_runs(polygons: Sequence[object], size: Size) -> None:
    """Raise `SampleError` if a list of polygons is a list of numbers, or contains the run lengths of a mask."""
    H, W = size
    flat = not any(isinstance(one, list) for one in polygons)
    for one in [polygons] if flat else polygons:
        whole = isinstance(one, list) and all(type(n) is int and n >= 0 for n in one)
        if isinstance(one, list) and whole and sum(one) == H * W and (flat or len(one) % 2 or max(one) > max(H, W)):
            raise SampleError(
                f"a polygon that looks like run lengths, whose sum is {H}×{W}: {str(one)[:60]}; write "
                f'"segmentation": {{"size": [{H}, {W}], "counts": […]}}'
            )
    if flat:
        raise SampleError(f"a polygon that is in no list: {str(polygons)[:60]}; write a list of lists: [[x0, y0, …]]")


def _around(mask: str | None, size: Size) -> tuple[int, int, int, int]:
    """Return the box around a mask; `SampleError` if the mask is empty."""
    pixels = None if mask is None else rle.decode(mask, size)
    if pixels is None or not pixels.any():
        raise SampleError("an object without a bbox and without a mask: fix or remove it")
    return boxes.around(pixels)
