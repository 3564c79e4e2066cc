"""Pictures for the page: chosen by rule, the worst ones too, and embedded in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from clipzoo.evaluation.measure import Scored
from clipzoo.types import ImageArray

CASES = {
    "best": "where clipzoo gains most over clip-ft",
    "median": "a gain in the middle of all images",
    "worst": "where clipzoo gains least or loses most",
}
SIDE = 320


@dataclass(frozen=True)
class PictureRow:
    """One test image under one task.

    ``image`` and the rendered labels are uint8 H×W×3; ``predictions`` maps arm -> rendered prediction, ``scores``
    row (arm, "expert") -> what the figure says under it, with its unit.
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


def cases(ours: Scored, theirs: Scored, count: int = 1) -> list[tuple[str, int]]:
    """(case, index of the image): the ``count`` best, median and worst by ours less theirs on the headline.

    Images on which either says nothing are left out. The choice depends on the scores alone.
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


def data_uri(image: ImageArray, *, photo: bool = False) -> str:
    """Uint8 H×W×3 as a data URI, at most `SIDE` pixels a side; JPEG for photographs, PNG for labels."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS if photo else Image.Resampling.NEAREST)
    file = io.BytesIO()
    if photo:
        picture.save(file, "JPEG", quality=88)
    else:
        picture.save(file, "PNG", optimize=True)
    kind = "jpeg" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
