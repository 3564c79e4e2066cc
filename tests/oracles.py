"""Experts that know the truth of a few pictures, and spoil it: what the conformance kit is tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from clipzoo import tasks
from clipzoo.conformance import ConformanceReport, check
from clipzoo.conformance.agreement import WHOLE
from clipzoo.conformance.canvas import CORNER
from clipzoo.conformance.scenes import scenes
from clipzoo.demo import rooms
from clipzoo.demo.render import conventions, truth_of
from clipzoo.experts import Expert, ExpertCard
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.types import ImageArray, View

COUNT = 12
Known = list[tuple[ImageArray, Any]]


def thumb(image: ImageArray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L").resize((12, 12), Image.Resampling.BOX), np.float32)


@cache
def pictures() -> list[rooms.Scene]:
    return [rooms.render(seed, "test", 64) for seed in range(COUNT)]


def known(task: str) -> Known:
    """Pictures and their truth: of depth and normals the kit's own scenes, else rooms."""
    if task == "depth":
        return [(s.image, Depth(s.depth, np.ones(s.depth.shape, bool), "metric", "z")) for s in scenes()]
    if task == "normals":
        return [(s.image, Normals(s.normals, np.ones(s.depth.shape, bool))) for s in scenes()]
    return [(room.image, truth_of(room)[task]) for room in pictures()]


def square(image: ImageArray) -> tuple[float, float, float, float]:
    """The central square of a picture, in shares of its sides."""
    H, W = image.shape[:2]
    x, y = max(0.0, (W - H) / (2 * W)), max(0.0, (H - W) / (2 * H))
    return x, y, 1 - x, 1 - y


def corner(image: ImageArray) -> tuple[float, float, float, float]:
    """The part of that square which the kit asks about alone."""
    (x0, y0, x1, y1), (left, top, _, _) = square(image), CORNER
    return x0 + left * (x1 - x0), y0 + top * (y1 - y0), x1, y1


class Oracle(Expert):
    """Knows the truth of a few pictures, also stretched, mirrored or cropped; ``wrong`` spoils each label."""

    batch_size = 8

    def __init__(self, task: str, wrong: Callable[..., Any] = lambda label: label, convention: Any = None) -> None:
        self.wrong, self.known = wrong, known(task)
        meant = convention or (Convention(kind="metric", along="z") if task == "depth" else conventions()[task])
        self.card = ExpertCard(f"test:{task}", task, meant, license="mine", revision="1")
        self.seen = [
            (place, crop)
            for place, (image, _) in enumerate(self.known)
            for crop in (WHOLE, square(image), corner(image))
        ]
        whole = [thumb(View(crop, (48, 48)).image(self.known[place][0])) for place, crop in self.seen]
        self.thumbs = np.stack([t for each in whole for t in (each, each[:, ::-1])])

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        return [self.wrong(self.truth(image)) for image in images]

    def truth(self, image: ImageArray) -> Any:
        nearest, flipped = divmod(int(np.square(self.thumbs - thumb(image)).sum((1, 2)).argmin()), 2)
        place, crop = self.seen[nearest]
        size = tuple(min(side, 300) for side in image.shape[:2])
        return tasks.get(self.card.task).view(self.known[place][1], View(crop, size, bool(flipped)))


def checked(expert: Expert, **options: Any) -> ConformanceReport:
    shown = None if expert.card.task in ("depth", "normals") else [room.image for room in pictures()]
    return check(expert, shown, **{"seconds": 0.5, **options})
