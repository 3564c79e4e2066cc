"""Labels computed from another column: ``column:<task>/<slug>?to=<task>&…``, such as normals of metric depth.

| from | to | option | function |
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
from itertools import pairwise
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, PlainValidator

from clipzoo.derived.base import DerivedExpert, split_name
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.boxes import around
from clipzoo.experts.options import Options, Share, parse, split
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.normals import Normals, normals_from_depth
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray, Camera, Size

ALL = "all"
"""The value of ``things`` that stands for every class."""

LEAST = 0.001
"""Components that fill less than this share of the picture are ignored, by default."""

FILLED, TILES = 0.5, 16
"""Share of its box below which an unknown part is cut, and the number of tiles of a side of the picture."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels."""

UNSOUND = {
    ("depth", "segmentation"): "depth does not tell classes",
    ("normals", "depth"): "normals do not tell how far away a surface is, and integrating them bends at every edge",
    ("segmentation", "normals"): "classes do not tell directions",
    ("segmentation", "edges"): "borders of classes are not all edges: two chairs of one class have one between them",
    ("detection", "edges"): "outlines of known objects alone would teach that nothing else has edges",
    ("depth", "edges"): "the jump of depth that makes an edge would be a guess",
}
"""(from, to) -> the reason why it is refused."""

FIX = "Other labels do not state this. Add them to the URI: {scheme}:<task>/<slug>?to=…&{name}=…"


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("a name is needed")
    return text


def create(name: str) -> Column[Any, Any]:
    """Return the expert of ``<task>/<slug>?to=…``.

    Raises:
        ExpertError: the column is not named, its labels cannot become those of ``to``, or options are wrong.
    """
    source, _, query = name.partition("?")
    given = split(query)
    task, _ = split_name(source, "column")
    to = given.get("to", "")
    if (task, to) not in CONVERSIONS:
        why = UNSOUND.get((task, to), "" if to else "the option to= names the task of the new labels")
        raise ExpertError(
            f"column: labels of {task} do not become labels of {to or 'what?'}{f': {why}' if why else ''}; there are "
            + ", ".join(f"{a}?to={b}" for a, b in CONVERSIONS)
        )
    conversion, kind = CONVERSIONS[task, to]
    return conversion(f"column:{name}", to, [source], given, parse(kind, given, "column", f"labels of {to}", FIX))


class ColumnOptions(Options):
    """Options of every conversion."""

    to: str


K = TypeVar("K", bound=ColumnOptions)
L = TypeVar("L")


class Column(DerivedExpert[L], Generic[K, L]):
    """Labels of one column as labels of another task."""

    def __init__(self, uri: str, task: str, reads: Sequence[str], given: Mapping[str, str], options: K) -> None:
        super().__init__(uri, task, reads, given)
        self.options = options


class NormalsOptions(ColumnOptions):
    """Options of normals of depth."""

    fov: Annotated[float, Field(ge=1, le=179)] = Field(
        description="the pictures' horizontal field of view in degrees, as 60"
    )
    bend: Share = Field(0.05, description="the bend of inverse depth from which on it is a jump, by default 0.05")


class DepthToNormals(Column[NormalsOptions, Depth]):
    """Normals of metric depth by `normals_from_depth`, unknown at jumps of depth, for pictures of one camera.

    A pinhole with square pixels and its principal point in the middle: fx = W / (2 tan(fov / 2)) (Hartley and
    Zisserman, "Multiple View Geometry in Computer Vision", 2004, section 6.1).
    """

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """Return the convention of normals; `ExpertError` unless the depth is metric."""
        kind = read[0].kind
        if kind != "metric":
            raise ExpertError(
                f"{self.card.uri} reads {kind} depth; an unknown shift bends planes, so that normals need metric "
                "depth: name another column"
            )
        return Convention()

    def derive(self, read: Sequence[Depth], size: Size) -> Normals:
        """Return normals of the depth map's size."""
        fx = 0.5 / math.tan(math.radians(self.options.fov) / 2)
        return normals_from_depth(read[0], Camera(fx, fx * size[1] / size[0]), self.options.bend)


class PaintOptions(ColumnOptions):
    """Options of a class map of masks."""

    background: Annotated[str, AfterValidator(_not_empty)] | None = Field(
        None, description="the class of pixels that no mask covers; without it they are unknown"
    )


class MasksToClasses(Column[PaintOptions, Detection]):
    """A class map of instance masks."""

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """Return the classes of the objects, after the background if there is one."""
        name, classes = self.options.background, read[0].classes
        if name in classes:
            raise ExpertError(
                f"{self.card.uri}: the objects have a class {name!r} already; give the background another name"
            )
        return Convention((*([name] if name else []), *classes))

    def derive(self, read: Sequence[Detection], size: Size) -> Segmentation:
        """See `painted`."""
        return painted(read[0], self.options.background is not None)


class MasksToBoxes(Column[ColumnOptions, Detection]):
    """The boxes around instance masks, in place of the boxes of the column."""

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """Return the same classes."""
        return read[0]

    def derive(self, read: Sequence[Detection], size: Size) -> Detection:
        """See `tightened`."""
        return tightened(read[0])


class PartOptions(ColumnOptions):
    """Options of boxes of a class map."""

    things: Annotated[tuple[str, ...], PlainValidator(lambda text: tuple(text.split(",")))] = Field(
        description="the classes whose parts are objects, as chair,table, or all; objects of one class that touch "
        "become one box, and one that is cut in two by another becomes two"
    )
    least: Share = Field(LEAST, description=f"smaller parts, in shares of the picture, are ignored; by default {LEAST}")


class ClassesToBoxes(Column[PartOptions, Segmentation]):
    """Boxes around the connected parts of a class map: correct where objects of one class neither touch nor are cut."""

    numbers: tuple[int, ...] = ()
    """The ids of the things in the column."""

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """Return the classes that are things."""
        classes = read[0].classes
        wanted = classes if self.options.things == (ALL,) else self.options.things
        unknown = [name for name in wanted if name not in classes]
        if unknown:
            raise ExpertError(f"{self.card.uri}: the column has no class {unknown[0]!r}; it has {', '.join(classes)}")
        self.numbers = tuple(classes.index(name) for name in wanted)
        return Convention(wanted)

    def derive(self, read: Sequence[Segmentation], size: Size) -> Detection:
        """See `components`."""
        return components(read[0], self.numbers, self.options.least)


CONVERSIONS: Mapping[tuple[str, str], tuple[type[Column[Any, Any]], type[ColumnOptions]]] = {
    ("depth", "normals"): (DepthToNormals, NormalsOptions),
    ("detection", "segmentation"): (MasksToClasses, PaintOptions),
    ("detection", "detection"): (MasksToBoxes, ColumnOptions),
    ("segmentation", "detection"): (ClassesToBoxes, PartOptions),
}
"""(from, to) -> the conversion and its options."""


# Labels ----------------------------------------------------------------------------------------------------


def painted(label: Detection, background: bool) -> Segmentation:
    """Paint masks over each other: the highest score on top, ignored ones at the bottom, as unknown.

    Pixels of no mask are class 0 if there is a ``background`` (ids of objects then count from 1), otherwise unknown.
    They are also unknown if not all classes were searched for, since they may be of the others. The confidence is the
    mean score over the pixels of objects.
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
    """Fit each box to its mask, in whole pixels. A box with an empty mask is kept and ignored."""
    boxes, ignored = label.boxes.copy(), label.ignored.copy()
    for i in range(len(label.ids)):
        mask = _mask(label, i)
        if mask.any():
            boxes[i] = around(mask)
        else:
            ignored[i] = True
    return replace(label, boxes=boxes, ignored=ignored)


def components(label: Segmentation, numbers: Sequence[int], least: float) -> Detection:
    """Return boxes around the connected parts (over sides and corners) of some classes.

    Args:
        label: the class map.
        numbers: ids of the classes that are objects; theirs in the boxes are places in this list.
        least: parts that fill a smaller share of the map are ignored.

    Returns:
        Boxes in the map's frame, with the map's confidence as their score (1 if it has none); unknown pixels are in
        ignored boxes.
    """
    H, W = label.ids.shape
    boxes, ids, ignored = [], [], []
    layers = [(place, label.valid & (label.ids == number)) for place, number in enumerate(numbers)]
    found = [(place, box, area < least * H * W) for place, pixels in layers for box, area in _parts(pixels)[1]]
    for place, box, ignore in [*found, *((0, box, True) for box in _around_unknown(~label.valid))]:
        boxes.append(box)
        ids.append(place)
        ignored.append(ignore)
    score = 1.0 if label.confidence is None else label.confidence
    return Detection(
        (H, W),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(ids, np.uint16),
        np.full(len(ids), score, np.float32),
        np.array(ignored, np.bool_),
    )


def _mask(label: Detection, i: int) -> BoolArray:
    """Return the mask of one object, or of an ignored one without a mask its box; `SampleError` if it has none."""
    text = None if label.masks is None else label.masks[i]
    if text is not None:
        return rle.decode(text, label.size)
    if not label.ignored[i]:
        raise SampleError("no masks: some boxes have none; read a column of an expert that gives instance masks")
    mask, (x0, y0, x1, y1) = np.zeros(label.size, np.bool_), label.boxes[i]
    mask[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = True
    return mask


def _around_unknown(pixels: BoolArray) -> Iterator[Box]:
    """Yield boxes around the connected parts of unknown pixels.

    Parts that fill less than `FILLED` of their boxes, such as borders between regions, are cut by the `TILES`×`TILES`
    tiles of the picture, each of which has a box.
    """
    (H, W), (numbered, parts) = pixels.shape, _parts(pixels)
    thin = np.array([False, *(area < FILLED * (x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), area in parts)])
    yield from (box for (box, _), cut in zip(parts, thin[1:], strict=True) if not cut)
    left = thin[numbered]
    for y0, y1 in pairwise(H * i // TILES for i in range(TILES + 1)):
        for x0, x1 in pairwise(W * i // TILES for i in range(TILES + 1)):
            if (tile := left[y0:y1, x0:x1]).any():
                a, b, c, d = around(tile)
                yield (x0 + a, y0 + b, x0 + c, y0 + d)


def _parts(pixels: BoolArray) -> tuple[NDArray[np.int32], list[tuple[Box, int]]]:
    """Return the number of each pixel's connected part, 0 for none, and (x0, y0, x1, y1) and the area of every part."""
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ExpertError("column: connected parts need SciPy; pip install scipy") from error
    numbered, _ = ndimage.label(pixels, np.ones((3, 3)))
    areas = np.bincount(numbered.ravel())[1:].tolist()
    slices = ndimage.find_objects(numbered)
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    return numbered, list(zip(boxes, areas, strict=True))
