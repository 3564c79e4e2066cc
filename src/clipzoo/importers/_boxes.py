"""Options and functions shared by formats of boxes: the label space, other classes, and objects as a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clipzoo import plugins
from clipzoo.errors import ExpertError, SampleError
from clipzoo.importers.base import ImportOptions
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

OTHERS = "objects of classes that are not in classes: drop (their places are background) or ignore (nothing is known)"
MATCH = "the part of a sample's key that names its annotation: key (all, the default), stem (after the last slash)"
CLASSES = "names in the order of ids, as person,dog, or @names.txt with one name per line"


class BoxOptions(ImportOptions):
    """Options of every format of boxes."""

    others: Literal["drop", "ignore"] | None = Field(None, description=OTHERS)


@dataclass(frozen=True)
class Space:
    """A label space, and the treatment of objects of other classes; None if they are an error."""

    classes: tuple[str, ...]
    others: Literal["drop", "ignore"] | None = None

    def number(self, name: str) -> int | None:
        """Return the id of a class; None for another class.

        Raises:
            SampleError: another class, and no treatment of these was chosen.
        """
        if name in self.classes:
            return self.classes.index(name)
        if self.others is None:
            advice = plugins.nearest(repr(name), map(repr, self.classes), 1)
            advice = f"{advice} Otherwise " if advice else ""
            raise SampleError(f"a class that is not in classes: {name!r}; {advice}add others=drop or others=ignore")
        return None

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise `ExpertError` unless all classes are in ``names``, and all names are classes or others are allowed."""
        unknown = [name for name in self.classes if name not in names]
        if unknown:
            raise ExpertError(f"classes: {where} has no category {unknown[0]!r}; {plugins.hint(unknown[0], names)}")
        rest = [name for name in names if name not in self.classes]
        if rest and self.others is None:
            raise ExpertError(
                f"classes: {where} also has {', '.join(rest[:10])}{', …' if len(rest) > 10 else ''}. Add them to "
                f"classes, or choose others= ({OTHERS})"
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
        """Return true if an object of this class is part of the label."""
        return self.space.number(name) is not None or self.space.others == "ignore"

    def add(
        self, name: str, box: Sequence[object], ignored: bool = False, mask: str | None = None, score: float = 1.0
    ) -> None:
        """Add an object with its ``box`` xyxy in pixels of the frame, cut to it.

        Raises:
            SampleError: the box is not four finite numbers, has no area, or is outside of the frame; or the class is
                unknown.
        """
        number = self.space.number(name)
        (H, W) = self.size
        edges = _numbers(box)
        cut = np.clip(edges, 0, [W, H, W, H])
        if not (np.isfinite(edges).all() and (edges[2:] > edges[:2]).all() and (cut[2:] > cut[:2]).all()):
            raise SampleError(
                f"a box without area, or outside of the picture: {edges.tolist()} (x0, y0, x1, y1) of {name!r} in a "
                f"frame {W} wide and {H} high; fix or remove the object"
            )
        self.boxes.append(cut.tolist())
        self.ids.append(number or 0)
        self.ignored.append(ignored or number is None)
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


def _numbers(box: Sequence[object]) -> NDArray[np.float64]:
    try:
        edges = np.array(box, np.float64)
    except (TypeError, ValueError, OverflowError):
        edges = np.empty(0)
    if edges.shape != (4,):
        raise SampleError(f"a box that is not four numbers: {str(box)[:80]}; fix or remove the object")
    return edges


def xyxy(box: Sequence[object], form: str) -> list[float]:
    """Return four numbers of the ``form`` xyxy, xywh (corner and sides) or cxcywh (center and sides) as xyxy."""
    a, b, c, d = _numbers(box).tolist()
    if form == "xyxy":
        return [a, b, c, d]
    return [a, b, a + c, b + d] if form == "xywh" else [a - c / 2, b - d / 2, a + c / 2, b + d / 2]
