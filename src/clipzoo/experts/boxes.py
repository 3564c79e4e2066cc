"""Boxes of models as labels of detection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from clipzoo.tasks.detection import Detection
from clipzoo.types import BoolArray, Size


def around(mask: BoolArray) -> tuple[int, int, int, int]:
    """Return the smallest box, xyxy in whole pixels, that contains a mask [H,W], which must not be empty."""
    (x0, x1), (y0, y1) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (0, 1))
    return x0, y0, x1 + 1, y1 + 1


def objects(
    size: Size,
    boxes: ArrayLike,
    ids: ArrayLike,
    scores: ArrayLike,
    ignored: ArrayLike,
    masks: Sequence[str | None] | None = None,
) -> Detection:
    """Return N objects as a label.

    Args:
        size: (H, W) of the frame.
        boxes: [N,4] xyxy in its pixels; cut to the frame. Boxes outside of it are dropped.
        ids: [N], of the label space.
        scores: [N]; cut to [0, 1].
        ignored: bool [N].
        masks: compressed run lengths of the frame, one per box; None for a box without a mask.
    """
    (H, W), ids = size, np.asarray(ids).astype(np.uint16)
    label = Detection(
        size,
        np.clip(np.asarray(boxes, np.float64).reshape(len(ids), 4), 0, [W, H, W, H]).astype(np.float32),
        ids,
        np.clip(np.asarray(scores, np.float32), 0, 1),
        np.asarray(ignored, np.bool_),
        None if masks is None else tuple(masks),
    )
    return label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1))


def predictions(
    size: Size,
    boxes: ArrayLike,
    ids: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    floor: float,
    masks: Sequence[str] | None = None,
) -> Detection:
    """Return a model's predictions as a label: objects from ``threshold`` on, ignored from ``floor`` on.

    Boxes below the floor are dropped. Where a model is unsure, a student should learn neither that an object is there
    nor that none is.

    Args:
        size: (H, W) of the frame.
        boxes, ids, scores, masks: as in `objects`.
        threshold, floor: scores.
    """
    label = objects(size, boxes, ids, scores, np.asarray(scores) < threshold, masks)
    return label.take(label.scores >= floor)
