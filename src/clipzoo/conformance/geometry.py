"""Where labels lie: whether they follow their picture when it is mirrored, and cover the whole of it.

Neither test needs truth: an expert is compared with itself, on pictures that were changed in a known way. The mirror
finds an axis in another's place; it cannot see signs, since mirroring turns a wrong sign as it turns a right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzoo import tasks
from clipzoo.conformance import canvas
from clipzoo.conformance.agreement import TOLERANCE, WHOLE, Crop, agreement, overlap, part, upside_down
from clipzoo.conformance.card import Verdict
from clipzoo.conformance.hypotheses import Outcome, Wrong, contest, judged
from clipzoo.conformance.pictures import changed, mirrored
from clipzoo.conformance.running import ask
from clipzoo.experts import Expert, ExpertInput
from clipzoo.types import View

MARGIN = 0.05
"""Agreements that differ by less are equal."""

LEAST = 0.3
"""Agreement of an expert with itself below which something is wrong, though no hypothesis says what."""

ASPECT = 1.5
"""Squares are stretched to this aspect, both ways."""

Read = Callable[[Any], Any]
"""A label -> what it says if it is read in another way."""


def mirror(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any]) -> Verdict:
    """Whether the label of a mirrored picture is the mirrored label of the picture."""
    task = expert.card.task
    if task not in TOLERANCE:
        return Verdict("mirror", "not applicable", f"no measure is known for labels of {task}")
    others = ask(expert, [mirrored(sample) for sample in inputs])
    if task == "detection":
        wrongs, outcome = readings(labels, others)
        return judged("mirror", outcome, wrongs, "overlap", LEAST)
    wrongs = _flips(task)
    hows: list[Read] = [tasks.get(task).hflip, *(wrong.how for wrong in wrongs)]
    pairs = [(part(task, a), part(task, b)) for a, b in zip(labels, others, strict=True)]
    scores = [[agreement(task, how(a), b) for how in hows] for a, b in pairs]
    return judged("mirror", contest(scores, MARGIN), wrongs, "agreement", LEAST)


def _flips(task: str) -> list[Wrong[Read]]:
    """What mirroring a picture may do to a wrong expert's label."""
    found: list[Wrong[Read]] = [
        Wrong(
            "labels do not follow when left and right are exchanged",
            "predict from the picture that is given",
            lambda a: a,
        ),
        Wrong("rows and columns of labels are exchanged", "transpose the output: labels are [H,W]", upside_down),
    ]
    return found + (_signs() if task == "normals" else [])


def _signs() -> list[Wrong[Read]]:
    """Normals of which mirroring negates other channels than the first."""
    names = np.array(["first", "second", "third"])

    def negating(signs: tuple[int, ...]) -> Read:
        factor = np.array([-1, 1, 1], np.float32) * np.array(signs, np.float32)
        return lambda a: replace(
            flipped := tasks.get("normals").hflip(a), vectors=flipped.vectors * factor[:, None, None]
        )

    found = []
    for signs in product((1, -1), repeat=3):
        if signs != (-1, 1, 1):
            turned = names[np.array(signs) < 0]
            if len(turned) == 1:
                axis = "y" if turned[0] == "second" else "z"
                cause = f"x stands in the {turned[0]} channel: x and {axis} are swapped"
            else:
                cause = f"mirroring turns {'the ' + ' and '.join(turned) if len(turned) else 'none of the'} channels"
            found.append(Wrong(cause, "give channels in the order x right, y up, z toward the viewer", negating(signs)))
    return found


# Boxes -----------------------------------------------------------------------------------------------------


def readings(labels: Sequence[Any], others: Sequence[Any]) -> tuple[list[Wrong[Read]], Outcome]:
    """In which form boxes are that mirroring exchanges with those of the mirrored pictures, and how clear that is."""
    wrongs = [
        _reading("(x, y, width, height)", lambda b, s: np.stack([b[0], b[1], b[0] + b[2], b[1] + b[3]], 1)),
        _reading(
            "(center x, center y, width, height)",
            lambda b, s: np.stack([b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2], 1),
        ),
        _reading("(y0, x0, y1, x1)", lambda b, s: b[[1, 0, 3, 2]].T),
        _reading("shares of the picture, not pixels", lambda b, s: b.T * np.array([s[1], s[0]] * 2)),
    ]
    if scale := _scale(labels, others):
        wrongs.append(_reading(f"in a frame {scale:.2g} times as large as their label says", lambda b, s: b.T / scale))
    hows: list[Read] = [lambda a: a, *(wrong.how for wrong in wrongs)]
    flip = tasks.get("detection").hflip
    scores = [[overlap(flip(how(a)), how(b)) for how in hows] for a, b in zip(labels, others, strict=True)]
    return wrongs, contest(scores, MARGIN)


def _reading(form: str, convert: Callable[[NDArray[Any], tuple[int, int]], NDArray[Any]]) -> Wrong[Read]:
    """Boxes of another form; ``convert`` takes columns [4,N] and the frame's (H, W) to xyxy [N,4]."""

    def how(label: Any) -> Any:
        return replace(label, boxes=convert(label.boxes.T, label.size).astype(np.float32), masks=None)

    return Wrong(f"boxes are {form}", "convert them to (x0, y0, x1, y1) in pixels of the label's size", how)


def _scale(labels: Sequence[Any], others: Sequence[Any]) -> float | None:
    """How wide the frame is that boxes are mirrored in, as a share of their label's; None if about as wide as it."""
    found: list[float] = []
    for a, b in zip(labels, others, strict=True):
        H, W = a.size
        same = a.ids[:, None] == b.ids[None]
        same &= (np.abs(a.boxes[:, None, 1::2] - b.boxes[None, :, 1::2]) < 0.02 * H).all(-1)
        found += ((a.boxes[:, None, 2] + b.boxes[None, :, 0]) / W)[same].tolist()
    scale = float(np.median(found)) if found else 1.0
    return scale if scale > 0.01 and abs(np.log(scale)) > 0.05 else None


# The frame -------------------------------------------------------------------------------------------------


def frame(expert: Expert, inputs: Sequence[ExpertInput]) -> Verdict:
    """Whether labels cover the picture, and nothing else.

    A square stretched has the square's label, and a part of a square that part of it.
    """
    task, side = expert.card.task, min(inputs[0].image.shape[:2])
    if task not in TOLERANCE:
        return Verdict("frame", "not applicable", f"no measure is known for labels of {task}")
    long, short = max(1, round(side * ASPECT**0.5)), max(1, round(side / ASPECT**0.5))
    shown = [changed(s, _stretched(s, side, (side, side))) for s in inputs]
    squares = ask(expert, shown)
    wide, tall = (
        ask(expert, [changed(s, _stretched(s, side, size)) for s in inputs]) for size in ((short, long), (long, short))
    )
    wrongs = _frames(1 / ASPECT)
    pairs = [(WHOLE, WHOLE), *(wrong.how for wrong in wrongs)]
    scores = [
        [0.5 * (_alike(task, w, s, of, seen) + _alike(task, t, s, _turned(of), _turned(seen))) for of, seen in pairs]
        for s, w, t in zip(squares, wide, tall, strict=True)
    ]
    verdict = judged("frame", contest(scores, MARGIN), wrongs, "agreement", LEAST)
    return verdict if verdict.status == "fail" else canvas.padding(expert, shown, squares) or verdict


def _stretched(sample: ExpertInput, side: int, size: tuple[int, int]) -> Any:
    square = View.center(sample.image.shape[:2], (side, side)).image(sample.image)
    return View.whole(size).image(square)


def _frames(share: float) -> list[Wrong[tuple[Crop, Crop]]]:
    """Parts of a wide picture's label, and of the square's, that show the same where the contract is broken."""
    low, high = (1 - share) / 2, (1 + share) / 2
    cut, crop = "cut the padding off before the label is given", "resize pictures instead of cropping them"
    return [
        Wrong("labels cover padding below or right of the picture", cut, ((0.0, 0.0, 1.0, share), WHOLE)),
        Wrong("labels cover padding on both sides of the picture", cut, ((0.0, low, 1.0, high), WHOLE)),
        Wrong("labels show the picture's central square alone", crop, (WHOLE, (low, 0.0, high, 1.0))),
        Wrong("labels show the picture's first square alone", crop, (WHOLE, (0.0, 0.0, share, 1.0))),
    ]


def _turned(crop: Crop) -> Crop:
    x0, y0, x1, y1 = crop
    return y0, x0, y1, x1


def _alike(task: str, stretched: Any, square: Any, of: Crop, seen: Crop) -> float:
    return agreement(task, part(task, stretched, of), part(task, square, seen))
