"""Labels made of another column's: ``column:<task>/<slug>?to=<task>&…``, such as normals of metric depth.

| from | to | question | what is done |
| --- | --- | --- | --- |
| depth, metric | normals | ``fov``, the pictures' horizontal field of view in degrees | `clipzoo.tasks.normals` |
| detection with masks | segmentation | – ; ``background``, a class for the rest | `painted` |
| detection with masks | detection | – | `tightened` |
| segmentation | detection | ``things``, the classes that are objects | `components` |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from clipzoo.derived.base import DerivedExpert, split_name
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts._answers import Parser, answer, number, split
from clipzoo.experts._boxes import around
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.normals import Normals, normals_from_depth
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray, Camera, Size

ALL = "all"
"""The answer to ``things`` that means every class."""

LEAST = 0.001
"""Components that fill less than this share of the picture are ignored, by default."""

UNSOUND = {
    ("depth", "segmentation"): "depth does not tell classes",
    ("normals", "depth"): "normals do not tell how far away a surface is, and integrating them bends at every edge",
    ("segmentation", "normals"): "classes do not tell directions",
    ("segmentation", "edges"): "borders of classes are not all edges: two chairs of one class have one between them",
    ("detection", "edges"): "outlines of known objects alone would teach that nothing else has edges",
    ("depth", "edges"): "what jump of depth is an edge is a guess",
}
"""(from, to) -> why it is refused."""


def create(name: str) -> Column:
    """The expert of ``<task>/<slug>?to=…``.

    Raises:
        ExpertError: no column is named, its labels cannot become those, or a question is open.
    """
    source, _, query = name.partition("?")
    given = split(query)
    task, _ = split_name(source, "column")
    to = given.get("to", "")
    way = WAYS.get((task, to))
    if way is None:
        why = UNSOUND.get((task, to), "" if to else "to= says which task's labels are wanted")
        raise ExpertError(
            f"column: labels of {task} do not become labels of {to or 'what?'}{f': {why}' if why else ''}; there are "
            + ", ".join(f"{a}?to={b}" for a, b in WAYS)
        )
    fields = answer(given, {"to": "", **way.required}, way.optional, PARSERS, "column", to)
    return way(f"column:{name}", to, [source], given, fields)


class Column(DerivedExpert):
    """Labels of one column as labels of another task."""

    required: ClassVar[Mapping[str, str]] = {}
    optional: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self, uri: str, task: str, reads: Sequence[str], given: Mapping[str, str], fields: Mapping[str, Any]
    ) -> None:
        super().__init__(uri, task, reads, given)
        self.fields = fields


class DepthToNormals(Column):
    """Normals of metric depth by `normals_from_depth`, unknown at jumps of depth, for pictures of one camera.

    A pinhole with square pixels and its principal point in the middle: fx = W / (2 tan(fov / 2)) (Hartley and
    Zisserman, "Multiple View Geometry in Computer Vision", 2004, section 6.1).
    """

    required: ClassVar[Mapping[str, str]] = {"fov": "the pictures' horizontal field of view in degrees, as 60"}
    optional: ClassVar[Mapping[str, str]] = {
        "bend": "from which bend of inverse depth on it is a jump, by default 0.05"
    }

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """Nothing beyond the task; the depth must be metric."""
        kind = read[0].kind
        if kind != "metric":
            raise ExpertError(
                f"{self.card.uri} reads {kind} depth; an unknown shift bends planes, so that normals need metric "
                "depth: name another column"
            )
        return Convention()

    def derive(self, read: Sequence[Depth], size: Size) -> Normals:
        """Normals of the depth map's size."""
        fx = 0.5 / math.tan(math.radians(self.fields["fov"]) / 2)
        return normals_from_depth(read[0], Camera(fx, fx * size[1] / size[0]), self.fields.get("bend", 0.05))


class MasksToClasses(Column):
    """A class map of instance masks."""

    optional: ClassVar[Mapping[str, str]] = {"background": "the class of what no mask covers; without it, unknown"}

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """The objects' classes, the background before them if it is one."""
        name, classes = self.fields.get("background"), read[0].classes
        if name in classes:
            raise ExpertError(f"{self.card.uri}: the objects have a class {name!r} already; name the background anew")
        return Convention((*([name] if name else []), *classes))

    def derive(self, read: Sequence[Detection], size: Size) -> Segmentation:
        """See `painted`."""
        return painted(read[0], "background" in self.fields)


class MasksToBoxes(Column):
    """The boxes around instance masks, in place of those that the column has."""

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """The same classes."""
        return read[0]

    def derive(self, read: Sequence[Detection], size: Size) -> Detection:
        """See `tightened`."""
        return tightened(read[0])


class ClassesToBoxes(Column):
    """Boxes around the connected parts of a class map: right where objects of one class neither touch nor are cut."""

    required: ClassVar[Mapping[str, str]] = {
        "things": "the classes whose parts are objects, as chair,table, or all; objects of one class that touch become "
        "one box, and one that is cut in two by another becomes two"
    }
    numbers: tuple[int, ...] = ()
    """The things' ids in the column."""
    optional: ClassVar[Mapping[str, str]] = {
        "least": f"smaller parts, in shares of the picture, are ignored; by default {LEAST}"
    }

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """The classes that are things."""
        classes = read[0].classes
        wanted = classes if self.fields["things"] == (ALL,) else self.fields["things"]
        unknown = [name for name in wanted if name not in classes]
        if unknown:
            raise ExpertError(f"{self.card.uri}: the column has no class {unknown[0]!r}; it has {', '.join(classes)}")
        self.numbers = tuple(classes.index(name) for name in wanted)
        return Convention(wanted)

    def derive(self, read: Sequence[Segmentation], size: Size) -> Detection:
        """See `components`."""
        return components(read[0], self.numbers, self.fields.get("least", LEAST))


WAYS: Mapping[tuple[str, str], type[Column]] = {
    ("depth", "normals"): DepthToNormals,
    ("detection", "segmentation"): MasksToClasses,
    ("detection", "detection"): MasksToBoxes,
    ("segmentation", "detection"): ClassesToBoxes,
}
"""(from, to) -> how."""


# Labels ----------------------------------------------------------------------------------------------------


def painted(label: Detection, background: bool) -> Segmentation:
    """Masks painted one over the other, the highest score on top; those that are ignored below, as unknown.

    What no mask covers is class 0 if there is a ``background`` (ids of objects then count from 1), else unknown; also
    where not all classes were asked for, since it may be of one of the others. The confidence is the mean score over
    the pixels of objects.
    """
    ids = np.zeros(label.size, np.uint16)
    valid = np.full(label.size, background and label.asked is None)
    scores = np.full(label.size, np.nan, np.float32)
    for i in np.argsort(np.where(label.ignored, -1, label.scores), kind="stable"):
        mask = _mask(label, i)
        ids[mask], valid[mask] = label.ids[i] + background, not label.ignored[i]
        scores[mask] = np.nan if label.ignored[i] else label.scores[i]
    seen = scores[~np.isnan(scores)]
    return Segmentation(ids, valid, float(seen.mean(dtype=np.float64)) if seen.size else None)


def tightened(label: Detection) -> Detection:
    """Each box as tight around its mask as whole pixels allow; one with an empty mask is ignored where it was."""
    boxes, ignored = label.boxes.copy(), label.ignored.copy()
    for i in range(len(label.ids)):
        mask = _mask(label, i)
        if mask.any():
            boxes[i] = around(mask)
        else:
            ignored[i] = True
    return replace(label, boxes=boxes, ignored=ignored)


def components(label: Segmentation, numbers: Sequence[int], least: float) -> Detection:
    """Boxes around the connected parts (over sides and corners) of some classes.

    Args:
        label: the class map.
        numbers: ids of the classes that are objects; theirs in the boxes are places in this list.
        least: parts that fill a smaller share of the map are ignored, as are all parts of unknown pixels.

    Returns:
        Boxes in the map's frame, with the map's confidence as their score (1 if it has none).
    """
    H, W = label.ids.shape
    boxes, ids, ignored = [], [], []
    layers = [(place, label.valid & (label.ids == number), False) for place, number in enumerate(numbers)]
    for place, pixels, unknown in [*layers, (0, ~label.valid, True)]:
        for box, area in _parts(pixels):
            boxes.append(box)
            ids.append(place)
            ignored.append(unknown or area < least * H * W)
    score = 1.0 if label.confidence is None else label.confidence
    return Detection(
        (H, W),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(ids, np.uint16),
        np.full(len(ids), score, np.float32),
        np.array(ignored, np.bool_),
    )


def _mask(label: Detection, i: int) -> BoolArray:
    """One object's mask; `SampleError` if there is none."""
    if label.masks is None:
        raise SampleError("no masks: these boxes have none; read a column of an expert that gives instance masks")
    return rle.decode(label.masks[i], label.size)


def _parts(pixels: BoolArray) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """(x0, y0, x1, y1) and area of every connected part."""
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ExpertError("column: connected parts need SciPy; pip install scipy") from error
    numbered, _ = ndimage.label(pixels, np.ones((3, 3)))
    areas = np.bincount(numbered.ravel())[1:].tolist()
    for (rows, columns), area in zip(ndimage.find_objects(numbered), areas, strict=True):
        yield (columns.start, rows.start, columns.stop, rows.stop), area


def _name(text: str) -> dict[str, Any]:
    if not text:
        raise ValueError("it needs a name")
    return {"background": text}


PARSERS: Mapping[str, Parser] = {
    "to": lambda text: {},
    "fov": number("fov", 1, 179),
    "bend": number("bend", 0, 1),
    "background": _name,
    "things": lambda text: {"things": tuple(text.split(","))},
    "least": number("least", 0, 1),
}
"""Question -> its answer as fields, as in ``_answers.PARSERS``."""
