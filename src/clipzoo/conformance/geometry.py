"""Geometric tests: labels must follow a mirrored picture and cover exactly the picture.

Neither test needs true labels: an expert is compared with itself on pictures changed in a known way. Mirroring detects
swapped axes. It cannot detect a wrong sign, which it inverts like a correct one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clipzoo import tasks
from clipzoo.conformance import canvas
from clipzoo.conformance.agreement import TOLERANCE, WHOLE, Crop, agreement, overlap, part, upside_down
from clipzoo.conformance.hypotheses import Fault, Outcome, compare, to_verdict
from clipzoo.conformance.pictures import mirrored, with_image
from clipzoo.conformance.report import Verdict
from clipzoo.conformance.running import predict
from clipzoo.experts import Expert, ExpertInput
from clipzoo.tasks.detection import Detection
from clipzoo.types import FloatArray, ImageArray, Size, View

MARGIN = 0.05
"""Smaller differences of agreement count as equal."""

LEAST = 0.3
"""Agreement of an expert with itself below which the verdict is a warning even if no fault explains it."""

ASPECT = 1.5
"""Aspect ratio to which squares are stretched, in both directions."""

Read = Callable[[Any], Any]
"""Converts a label with a fault to a correct one."""


def mirror(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object]) -> Verdict:
    """Test that the label of a mirrored picture is the mirrored label of the picture."""
    task = expert.card.task
    if task not in TOLERANCE:
        return Verdict("mirror", "not applicable", f"no similarity measure exists for labels of {task}")
    others = predict(expert, [mirrored(sample) for sample in inputs])
    if task == "detection":
        faults, outcome = compare_box_forms(cast(Sequence[Detection], labels), cast(Sequence[Detection], others))
        return to_verdict("mirror", outcome, faults, "overlap", LEAST)
    faults = _flips(task)
    readings: list[Read] = [tasks.get(task).hflip, *(fault.reading for fault in faults)]
    pairs = [(part(task, a), part(task, b)) for a, b in zip(labels, others, strict=True)]
    scores = [[agreement(task, read(a), b) for read in readings] for a, b in pairs]
    return to_verdict("mirror", compare(scores, MARGIN), faults, "agreement", LEAST)


def _flips(task: str) -> list[Fault[Read]]:
    """Return the faults that mirroring can detect in labels of maps."""
    faults: list[Fault[Read]] = [
        Fault(
            "labels do not follow a mirrored picture",
            "predict from the given picture",
            lambda a: a,
        ),
        Fault("rows and columns of labels are exchanged", "transpose the output: labels are [H,W]", upside_down),
    ]
    return faults + (_signs() if task == "normals" else [])


def _signs() -> list[Fault[Read]]:
    """Return faults of normals: mirroring negates channels other than the first."""
    names = np.array(["first", "second", "third"])

    def negating(signs: tuple[int, ...]) -> Read:
        factor = np.array([-1, 1, 1], np.float32) * np.array(signs, np.float32)
        return lambda a: replace(
            flipped := tasks.get("normals").hflip(a), vectors=flipped.vectors * factor[:, None, None]
        )

    faults = []
    for signs in product((1, -1), repeat=3):
        if signs != (-1, 1, 1):
            turned = names[np.array(signs) < 0]
            if len(turned) == 1:
                axis = "y" if turned[0] == "second" else "z"
                cause = f"x is in the {turned[0]} channel: x and {axis} are swapped"
            else:
                cause = f"mirroring negates {'the ' + ' and '.join(turned) if len(turned) else 'none of the'} channels"
            fix = "return channels in the order x right, y up, z toward the viewer"
            faults.append(Fault(cause, fix, negating(signs)))
    return faults


# Boxes -----------------------------------------------------------------------------------------------------


def compare_box_forms(labels: Sequence[Detection], others: Sequence[Detection]) -> tuple[list[Fault[Read]], Outcome]:
    """Compare the forms in which boxes may be given: mirrored, they must match those of the mirrored pictures."""
    faults = [
        _reading("(x, y, width, height)", lambda b, s: np.stack([b[0], b[1], b[0] + b[2], b[1] + b[3]], 1)),
        _reading(
            "(center x, center y, width, height)",
            lambda b, s: np.stack([b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2], 1),
        ),
        _reading("(y0, x0, y1, x1)", lambda b, s: b[[1, 0, 3, 2]].T),
        _reading("shares of the picture, not pixels", lambda b, s: b.T * np.array([s[1], s[0]] * 2)),
    ]
    if scale := _scale(labels, others):
        faults.append(_reading(f"in a frame {scale:.2g} times as large as their label says", lambda b, s: b.T / scale))
    readings: list[Read] = [lambda a: a, *(fault.reading for fault in faults)]
    flip = tasks.get("detection").hflip
    scores = [[overlap(flip(read(a)), read(b)) for read in readings] for a, b in zip(labels, others, strict=True)]
    return faults, compare(scores, MARGIN)


def _reading(form: str, convert: Callable[[FloatArray, Size], NDArray[np.floating]]) -> Fault[Read]:
    """Return the fault of boxes in a form; ``convert`` maps columns [4,N] and the frame's (H, W) to xyxy [N,4]."""

    def read(label: Detection) -> Detection:
        return replace(label, boxes=convert(label.boxes.T, label.size).astype(np.float32), masks=None)

    return Fault(f"boxes are {form}", "convert them to (x0, y0, x1, y1) in pixels of the label's size", read)


def _scale(labels: Sequence[Detection], others: Sequence[Detection]) -> float | None:
    """Return the width of the frame in which boxes are mirrored, relative to their label's; None if about equal."""
    scales: list[float] = []
    for a, b in zip(labels, others, strict=True):
        H, W = a.size
        same = a.ids[:, None] == b.ids[None]
        same &= (np.abs(a.boxes[:, None, 1::2] - b.boxes[None, :, 1::2]) < 0.02 * H).all(-1)
        scales += ((a.boxes[:, None, 2] + b.boxes[None, :, 0]) / W)[same].tolist()
    scale = float(np.median(scales)) if scales else 1.0
    return scale if scale > 0.01 and abs(np.log(scale)) > 0.05 else None


# The frame -------------------------------------------------------------------------------------------------


def frame(expert: Expert, inputs: Sequence[ExpertInput]) -> Verdict:
    """Test that labels cover exactly the picture.

    A stretched square must have the label of the square, and a crop of a square the crop of its label.
    """
    task, side = expert.card.task, min(inputs[0].image.shape[:2])
    if task not in TOLERANCE:
        return Verdict("frame", "not applicable", f"no similarity measure exists for labels of {task}")
    long, short = max(1, round(side * ASPECT**0.5)), max(1, round(side / ASPECT**0.5))
    shown = [with_image(s, _stretched(s, side, (side, side))) for s in inputs]
    squares = predict(expert, shown)
    wide = predict(expert, [with_image(s, _stretched(s, side, (short, long))) for s in inputs])
    tall = predict(expert, [with_image(s, _stretched(s, side, (long, short))) for s in inputs])
    faults = _frames(1 / ASPECT)
    pairs = [(WHOLE, WHOLE), *(fault.reading for fault in faults)]
    scores = []
    for square, across, down in zip(squares, wide, tall, strict=True):
        row = []
        for crop, square_crop in pairs:
            first = agreement(task, part(task, across, crop), part(task, square, square_crop))
            second = agreement(task, part(task, down, _swap_axes(crop)), part(task, square, _swap_axes(square_crop)))
            row.append(0.5 * (first + second))
        scores.append(row)
    verdict = to_verdict("frame", compare(scores, MARGIN), faults, "agreement", LEAST)
    return verdict if verdict.status == "fail" else canvas.padding(expert, shown, squares) or verdict


def _stretched(sample: ExpertInput, side: int, size: Size) -> ImageArray:
    square = View.center(sample.image.shape[:2], (side, side)).image(sample.image)
    return View.whole(size).image(square)


def _frames(share: float) -> list[Fault[tuple[Crop, Crop]]]:
    """Return faults of frames: the crops of a wide picture's label and of the square's that would then match."""
    low, high = (1 - share) / 2, (1 + share) / 2
    cut, crop = "crop the padding before the label is returned", "resize pictures instead of cropping them"
    return [
        Fault("labels cover padding below or right of the picture", cut, ((0.0, 0.0, 1.0, share), WHOLE)),
        Fault("labels cover padding on both sides of the picture", cut, ((0.0, low, 1.0, high), WHOLE)),
        Fault("labels show only the picture's central square", crop, (WHOLE, (low, 0.0, high, 1.0))),
        Fault("labels show only the picture's first square", crop, (WHOLE, (0.0, 0.0, share, 1.0))),
    ]


def _swap_axes(crop: Crop) -> Crop:
    x0, y0, x1, y1 = crop
    return y0, x0, y1, x1
