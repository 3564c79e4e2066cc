"""What formats of boxes share: the label space and what is not in it, and objects that become a label."""

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

OTHERS = "objects of classes that are not in classes: drop (where they are is background) or ignore (nothing is known)"
MATCH = "what names a sample's annotation: key (its whole key, the default), stem (what follows the key's last slash)"
OPTIONAL = {"others": OTHERS, **COMMON}
"""What may be left out in every format."""

PARSERS: Mapping[str, Parser] = {
    "classes": lambda text: {"classes": parse_classes(text)["classes"]},
    "others": chosen("others", ("drop", "ignore")),
    "match": chosen("match", ("key", "stem")),
    **COMMON_PARSERS,
}
"""Question -> its answer as fields, as in ``_answers.PARSERS``."""


@dataclass(frozen=True)
class Space:
    """A label space, and what becomes of objects that are of none of its classes: "" if they may not be."""

    classes: tuple[str, ...]
    others: str = ""

    def number(self, name: str) -> int | None:
        """The id of a class; None if it is another one.

        Raises:
            SampleError: it is, and nobody said what becomes of it.
        """
        if name in self.classes:
            return self.classes.index(name)
        if not self.others:
            near = difflib.get_close_matches(name, self.classes, 1)
            hint = f"did you mean {near[0]!r} in classes=? Else " if near else ""
            raise SampleError(f"a class that is not in classes: {name!r}; {hint}answer others= by drop or ignore")
        return None

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise `ExpertError` unless the classes are out of ``names``, and all of them if nobody spoke of others."""
        unknown = [name for name in self.classes if name not in names]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, 3) or list(names[:10])
            raise ExpertError(f"classes: {where} has no category {unknown[0]!r}; it has {', '.join(near)}")
        rest = [name for name in names if name not in self.classes]
        if rest and not self.others:
            raise ExpertError(
                f"classes: {where} also has {', '.join(rest[:10])}{', …' if len(rest) > 10 else ''}; name them in "
                f"classes, or answer others= ({OTHERS})"
            )


@dataclass
class Objects:
    """The objects of one image while they are collected."""

    space: Space
    size: Size
    boxes: list[list[float]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    masks: list[str | None] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def wanted(self, name: str) -> bool:
        """Whether an object of this class goes into the label at all."""
        return self.space.number(name) is not None or self.space.others == "ignore"

    def add(
        self, name: str, box: Sequence[Any], ignored: bool = False, mask: str | None = None, score: float = 1.0
    ) -> None:
        """Add an object with its ``box`` xyxy in pixels of the frame, cut to it.

        Raises:
            SampleError: no four finite numbers, no area, or outside of the frame; or an unknown class.
        """
        number = self.space.number(name)
        (H, W) = self.size
        edges = _numbers(box)
        cut = np.clip(edges, 0, [W, H, W, H])
        if not (np.isfinite(edges).all() and (edges[2:] > edges[:2]).all() and (cut[2:] > cut[:2]).all()):
            raise SampleError(
                f"a box without area, or outside of the picture: {edges.tolist()} (x0, y0, x1, y1) of {name!r} in a "
                f"frame {W} wide and {H} high; mend or remove the object"
            )
        self.boxes.append(cut.tolist())
        self.ids.append(number or 0)
        self.ignored.append(ignored or number is None)
        self.masks.append(mask)
        self.scores.append(score)

    def label(self) -> Detection:
        """All of them as a label; without masks if none has one."""
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
        raise SampleError(f"a box that is not four numbers: {str(box)[:80]}; mend or remove the object")
    return edges


def xyxy(box: Sequence[Any], form: str) -> list[float]:
    """Four numbers of the ``form`` xyxy, xywh (corner and sides) or cxcywh (center and sides) as x0, y0, x1, y1."""
    a, b, c, d = _numbers(box).tolist()
    if form == "xyxy":
        return [a, b, c, d]
    return [a, b, a + c, b + d] if form == "xywh" else [a - c / 2, b - d / 2, a + c / 2, b + d / 2]


def around(mask: BoolArray) -> tuple[int, int, int, int]:
    """The smallest box, xyxy in whole pixels, that holds all of a mask [H,W], which is not empty."""
    (x0, x1), (y0, y1) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (0, 1))
    return x0, y0, x1 + 1, y1 + 1


def objects(
    size: Size, boxes: Any, ids: Any, scores: Any, ignored: Any, masks: Sequence[str] | None = None
) -> Detection:
    """N objects as a label.

    Args:
        size: (H, W) of the frame.
        boxes: [N,4] xyxy in its pixels; cut to it, and left out if nothing of them is in it.
        ids: [N], of the label space.
        scores: [N]; cut to [0, 1].
        ignored: bool [N].
        masks: compressed run lengths of the frame, one a box.
    """
    (H, W), N = size, len(ids)
    label = Detection(
        size,
        np.clip(np.asarray(boxes, np.float64).reshape(N, 4), 0, [W, H, W, H]).astype(np.float32),
        np.asarray(ids).astype(np.uint16),
        np.clip(np.asarray(scores, np.float32), 0, 1),
        np.asarray(ignored, np.bool_),
        None if masks is None else tuple(masks),
    )
    return label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1))


def guesses(
    size: Size, boxes: Any, ids: Any, scores: Any, threshold: float, floor: float, masks: Sequence[str] | None = None
) -> Detection:
    """A model's guesses as a label: objects from ``threshold`` on, ignored from ``floor`` on, the others left out.

    Where a model hesitates, a student should learn neither that something is there nor that nothing is.

    Args:
        size: (H, W) of the frame.
        boxes, ids, scores, masks: as of `objects`.
        threshold, floor: scores.
    """
    told = objects(size, boxes, ids, scores, np.asarray(scores) < threshold, masks)
    return told.take(told.scores >= floor)
