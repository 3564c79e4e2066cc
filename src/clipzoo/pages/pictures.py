"""Pictures of a page: chosen by rule, the worst cases included, and embedded as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from clipzoo.types import ImageArray

if TYPE_CHECKING:
    from clipzoo.evaluation.measure import Scored  # with PyTorch

CASES = {
    "best": "the largest gain of clipzoo over clip-ft",
    "median": "the median gain",
    "worst": "the smallest gain or largest loss",
}
SIDE = 320
"""The longer side of an embedded picture, in pixels."""

OPACITY = 0.65
"""The share of the label in an overlay; the image has the remaining share."""


@dataclass(frozen=True)
class PictureRow:
    """One test image with the labels of one task.

    ``image`` and the rendered labels are uint8 H×W×3. ``predictions`` maps an arm to its rendered prediction.
    ``scores`` maps a row (an arm or "expert") to the text under its picture. ``blended`` tells that the predictions
    are drawn over the image, so that they are embedded as photographs.
    """

    case: str
    task: str
    key: str
    caption: str
    image: ImageArray
    truth: ImageArray | None = None
    expert: ImageArray | None = None
    predictions: Mapping[str, ImageArray] = field(default_factory=dict)
    scores: Mapping[str, str] = field(default_factory=dict)
    blended: bool = False


def cases(ours: Scored, theirs: Scored, count: int = 1) -> list[tuple[str, int]]:
    """Return (case, index of the image) of the ``count`` best, median and worst images.

    Images are ordered by the gain of ``ours`` over ``theirs`` on the headline measure, and nothing else decides. Images
    without a score in either are left out.
    """
    name, measure = next(iter(ours.metric.measures.items()))
    gain = ours.each(name) - theirs.each(name)
    gain = gain if measure.direction == "higher" else -gain
    order = [int(i) for i in np.argsort(-gain, kind="stable") if np.isfinite(gain[i])]
    if not order:
        return []
    middle = max(0, (len(order) - count) // 2)
    picked = {"best": order[:count], "median": order[middle : middle + count], "worst": order[::-1][:count]}
    return [(case, index) for case, indices in picked.items() for index in indices]


def overlay(image: ImageArray, label: ImageArray, *, side: int = SIDE, clear: bool = False) -> ImageArray:
    """Return a rendered label (uint8 H×W×3 of any size) blended over its image, at most ``side`` pixels a side.

    ``clear`` leaves the image as it is where the label is black.
    """
    under = Image.fromarray(image)
    under.thumbnail((side, side), Image.Resampling.LANCZOS)
    over = Image.fromarray(label).resize(under.size, Image.Resampling.NEAREST)
    blended = np.asarray(Image.blend(under, over, OPACITY))
    return np.where(np.asarray(over).any(-1, keepdims=True), blended, np.asarray(under)) if clear else blended


def data_uri(image: ImageArray, *, photo: bool = False, side: int = SIDE) -> str:
    """Return uint8 H×W×3 as a data URI, at most ``side`` pixels a side; JPEG for photographs, PNG for labels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS if photo else Image.Resampling.NEAREST)
    file = io.BytesIO()
    if photo:
        picture.save(file, "JPEG", quality=88)
    else:
        picture.save(file, "PNG", optimize=True)
    kind = "jpeg" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
