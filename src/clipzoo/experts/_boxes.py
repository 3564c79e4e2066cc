"""Common parts of formats with boxes: the label space, objects of other classes, and conversion to a label."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts._answers import COMMON, COMMON_PARSERS, Parser, chosen, parse_classes
from clipzoo.tasks.detection import Detection
from clipzoo.types import BoolArray, Size

OTHERS = "objects of classes that are not in classes: drop (their place is background) or ignore (it is unknown)"
MATCH = "name of a sample's annotation: key (the whole key, the default), stem (the key after its last slash)"
OPTIONAL = {"others": OTHERS, **COMMON}
"""Optional questions of every format."""

PARSERS: Mapping[str, Parser] = {
    "classes": lambda text: {"classes": parse_classes(text)["classes"]},
    "others": chosen("others", ("drop", "ignore")),
    "match": chosen("match", ("key", "stem")),
    **COMMON_PARSERS,
}
"""Question -> parser of its answer, as in ``_answers.PARSERS``."""


@dataclass(frozen=True)
class Space:
    """A label space, and the treatment of objects of other classes: drop, ignore, or "" if there may be none."""

    classes: tuple[str, ...]
    others: str = ""

    def number(self, name: str) -> int | None:
        """Return the id of a class; None if the label space does not have it.

        Raises:
            SampleError: the label space does not have it, and the treatment of other classes is not given.
        """
        if name in self.classes:
            return self.classes.index(name)
        if not self.others:
            near = difflib.get_close_matches(name, self.classes, 1)
            hint = f"did you mean {near[0]!r} in classes=? Else " if near else ""
            raise SampleError(f"a class that is not in classes: {name!r}; {hint}add others=drop or others=ignore")
        return None

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise `ExpertError` if a class is not in ``names``, or ``names`` has others whose treatment is not given."""
        unknown = [name for name in self.classes if name not in names]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, 3) or list(names[:10])
            raise ExpertError(f"classes: {where} has no category {unknown[0]!r}; it has {', '.join(near)}")
        rest = [name for name in names if name not in self.classes]
        if rest and not self.others:
            raise ExpertError(
                f"classes: {where} also has {', '.join(rest[:10])}{', …' if len(rest) > 10 else ''}; name them in "
                f"classes, or add others= ({OTHERS})"
            )


@dataclass
class Objects:
    """Objects of one image, added one by one."""

    space: Space
    size: Size
    boxes: list[list[float]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    masks: list[str | None] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def wanted(self, name: str) -> bool:
        """Return true if objects of this class are part of the label, as objects or as ignored boxes."""
        return self.space.number(name) is not None or self.space.others == "ignore"

    def add(
        self, name: str, box: Sequence[Any], ignored: bool = False, mask: str | None = None, score: float = 1.0
    ) -> None:
        """Add an object with its ``box``, xyxy in pixels of the frame, clipped to the frame.

        Raises:
            SampleError: the box is not four finite numbers, has no area or is outside the frame; or the class is
                unknown.
        """
        class_id = self.space.number(name)
        H, W = self.size
        edges = _numbers(box)
        clipped = np.clip(edges, 0, [W, H, W, H])
        if not (np.isfinite(edges).all() and (edges[2:] > edges[:2]).all() and (clipped[2:] > clipped[:2]).all()):
            raise SampleError(
                f"a box without area or outside the picture: {edges.tolist()} (x0, y0, x1, y1) of {name!r} in a frame "
                f"{W} pixels wide and {H} high: correct or remove the object"
            )
        self.boxes.append(clipped.tolist())
        self.ids.append(class_id or 0)
        self.ignored.append(ignored or class_id is None)
        self.masks.append(mask)
        self.scores.append(score)

    def label(self) -> Detection:
        """Return all objects as a label; without masks if no object has one."""
        count = len(self.ids)
        return Detection(
            self.size,
            np.array(self.boxes, np.float32).reshape(count, 4),
            np.array(self.ids, np.uint16),
            np.array(self.scores, np.float32),
            np.array(self.ignored, np.bool_),
            tuple(self.masks) if any(mask is not None for mask in self.masks) else None,
        )


def _numbers(box: Sequence[Any]) -> Any:
    try:
        edges = np.array(box, np.float64)
    except (TypeError, ValueError, OverflowError):
        edges = np.empty(0)
    if edges.shape != (4,):
        raise SampleError(f"a box is not four numbers: {str(box)[:80]}. Correct or remove the object")
    return edges


def xyxy(box: Sequence[Any], form: str) -> list[float]:
    """Convert a box of the ``form`` xyxy, xywh (corner and sides) or cxcywh (center and sides) to x0, y0, x1, y1."""
    first, second, third, fourth = _numbers(box).tolist()
    if form == "xyxy":
        return [first, second, third, fourth]
    x, y, width, height = first, second, third, fourth
    if form == "xywh":
        return [x, y, x + width, y + height]
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def around(mask: BoolArray) -> tuple[int, int, int, int]:
    """Return the smallest box, xyxy in whole pixels, around a mask [H,W] that is not empty."""
    columns = np.flatnonzero(mask.any(0))
    rows = np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def objects(
    size: Size, boxes: Any, ids: Any, scores: Any, ignored: Any, masks: Sequence[str] | None = None
) -> Detection:
    """Return N objects as a label.

    Args:
        size: (H, W) of the frame.
        boxes: [N,4] xyxy in pixels of the frame; clipped to it, and dropped if they are outside.
        ids: [N], of the label space.
        scores: [N]; clipped to [0, 1].
        ignored: bool [N].
        masks: compressed run lengths of the frame, one per box.
    """
    H, W = size
    N = len(ids)
    label = Detection(
        size,
        np.clip(np.asarray(boxes, np.float64).reshape(N, 4), 0, [W, H, W, H]).astype(np.float32),
        np.asarray(ids).astype(np.uint16),
        np.clip(np.asarray(scores, np.float32), 0, 1),
        np.asarray(ignored, np.bool_),
        None if masks is None else tuple(masks),
    )
    return label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1))


def predictions(
    size: Size, boxes: Any, ids: Any, scores: Any, threshold: float, floor: float, masks: Sequence[str] | None = None
) -> Detection:
    """Return a detector's predictions as a label: objects from ``threshold``, ignored boxes from ``floor``.

    A box between the two teaches a student neither that there is an object nor that there is none.

    Args:
        size: (H, W) of the frame.
        boxes, ids, scores, masks: see `objects`.
        threshold, floor: scores in [0, 1].
    """
    label = objects(size, boxes, ids, scores, np.asarray(scores) < threshold, masks)
    return label.take(label.scores >= floor)
