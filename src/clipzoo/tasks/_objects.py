"""The label of detection: N objects in a frame, as JSON, and the checks of its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks import _fcos, rle
from clipzoo.tasks.base import require
from clipzoo.tasks.segmentation import MAX_CLASSES
from clipzoo.types import MAX_PIXELS, BoolArray, FloatArray

STEPS = 256
"""Coordinates are multiples of 1 / STEPS of a pixel."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """N objects in a frame of ``size`` (H, W).

    ``boxes`` float32 [N,4] xyxy, ``ids`` uint16 [N], ``scores`` float32 [N] in [0, 1], ``ignored`` bool [N];
    ``masks``, if known, N compressed COCO RLEs of the frame, None for an object without one; ``asked`` uint16 [M], the
    ids of the covered classes, None for all.
    """

    size: tuple[int, int]
    boxes: FloatArray
    ids: NDArray[np.uint16]
    scores: FloatArray
    ignored: BoolArray
    masks: tuple[str | None, ...] | None = None
    asked: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", np.rint(self.boxes * STEPS) / STEPS)

    @property
    def valid(self) -> BoolArray:
        """Bool [H,W], false at pixels that belong to an ignored box."""
        if not self.ignored.any():
            return np.ones(self.size, np.bool_)
        return ~np.append(self.ignored, False)[_fcos.owners(self.shares, self.size)]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Boxes as fractions of the frame, float64 [N,4]."""
        H, W = self.size
        return self.boxes / np.array([W, H, W, H], np.float64)

    @property
    def confidence(self) -> float | None:
        """Mean score of the boxes that are not ignored; None if there are none."""
        return None if self.ignored.all() else float(self.scores[~self.ignored].mean())

    def take(self, rows: slice | Sequence[int] | np.bool_ | BoolArray | NDArray[np.integer]) -> Detection:
        """Return the objects at ``rows`` (indices, a slice or bool [N]), in the same frame."""
        kept = np.arange(len(self.ids))[rows]
        masks = None if self.masks is None else tuple(self.masks[i] for i in kept)
        arrays = {name: getattr(self, name)[kept] for name in ("boxes", "ids", "scores", "ignored")}
        return replace(self, **arrays, masks=masks)


def to_json(label: Detection) -> dict[str, object]:
    """Return the label as JSON values: boxes to 1/1000 of a pixel, scores in full, masks unchanged."""
    values: dict[str, object] = {
        "size": label.size,
        "boxes": [[round(x, 3) for x in box] for box in label.boxes.tolist()],
        "ids": label.ids.tolist(),
        "scores": [float(str(score)) for score in label.scores],  # the shortest text of a float32
        "ignored": label.ignored.tolist(),
    }
    if label.masks is not None:
        values["masks"] = label.masks
    if label.asked is not None:
        values["asked"] = label.asked.tolist()
    return values


def _id(value: SupportsIndex) -> int:
    require(0 <= index(value) < MAX_CLASSES, f"class id {value} is out of range; ids are 0 to {MAX_CLASSES - 1}")
    return index(value)


def from_json(facts: Mapping[str, Any]) -> Detection:
    """Return the label of a file's JSON values; raises the errors of Python's conversions if they are malformed."""
    height, width = map(index, facts["size"])
    ids, masks, asked = facts["ids"], facts.get("masks"), facts.get("asked")
    with np.errstate(over="ignore"):  # `check_label` reports infinite coordinates as boxes outside of the frame
        boxes = np.array(facts["boxes"], np.float64).astype(np.float32)
        scores = np.array(facts["scores"], np.float64).astype(np.float32)
    return Detection(
        (height, width),
        boxes.reshape(len(ids), 4),
        np.array([_id(i) for i in ids], np.uint16),
        scores,
        np.array(facts["ignored"], np.bool_),
        None if masks is None else tuple(None if mask is None else str(mask) for mask in masks),
        None if asked is None else np.array([_id(i) for i in asked], np.uint16),
    )


def check_label(label: Detection) -> None:
    """Raise `LabelError` unless the label is valid apart from its label space."""
    (H, W), N = label.size, len(label.ids)
    require(
        min(H, W) > 0 and H * W <= MAX_PIXELS,
        f"a frame of {H}×{W} pixels is not valid: sides are at least 1, with at most {MAX_PIXELS} pixels; give (H, W)",
    )
    for what, array, dtype, shape in (
        ("boxes", label.boxes, np.float32, (N, 4)),
        ("ids", label.ids, np.uint16, (N,)),
        ("scores", label.scores, np.float32, (N,)),
        ("ignored", label.ignored, np.bool_, (N,)),
    ):
        require(
            array.dtype == dtype and array.shape == shape,
            f"{what} are {array.dtype} of shape {array.shape}; the contract for {N} objects is {np.dtype(dtype).name} "
            f"of shape {shape}: convert or reshape them",
        )
    x0, y0, x1, y1 = label.boxes.T
    wrong = ~((x0 >= 0) & (x0 < x1) & (x1 <= W) & (y0 >= 0) & (y0 < y1) & (y1 <= H))  # written so that NaN is wrong
    require(
        not wrong.any(),
        f"{wrong.sum()} of {N} boxes, the first of them {label.boxes[wrong][:1].tolist()}, are not (x0, y0, x1, y1) "
        f"with x0 < x1 and y0 < y1 in a frame {W} wide and {H} high; clip them, and convert (x, y, width, height)",
    )
    require(
        bool(((label.scores >= 0) & (label.scores <= 1)).all()),
        "some scores are not in [0, 1]; give probabilities, not logits",
    )
    require(
        label.masks is None or len(label.masks) == N,
        f"{len(label.masks or ())} masks for {N} boxes; give one a box, or None",
    )
    asked = np.zeros(0, np.uint16) if label.asked is None else label.asked
    require(
        asked.dtype == np.uint16 and asked.ndim == 1,
        f"asked is {asked.dtype} of shape {asked.shape}; the contract is uint16 of shape (M,), or None for all classes",
    )


def change_masks(label: Detection, change: Callable[[BoolArray], BoolArray]) -> tuple[str | None, ...] | None:
    """Return the label's masks after ``change``."""
    if label.masks is None:
        return None
    masks: list[str | None] = []
    for text in label.masks:
        masks.append(None if text is None else rle.encode(change(rle.decode(text, label.size))))
    return tuple(masks)
