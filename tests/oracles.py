"""Experts that know the truth of a few pictures, and spoil it: what the conformance kit is tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from clipzoo import tasks
from clipzoo.conformance import Card, check
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


class Oracle(Expert):
    """Knows the truth of a few pictures, however they are stretched or mirrored; ``wrong`` spoils each label."""

    batch_size = 8

    def __init__(self, task: str, wrong: Callable[..., Any] = lambda label: label, convention: Any = None) -> None:
        self.wrong, self.known = wrong, known(task)
        meant = convention or (Convention(kind="metric", along="z") if task == "depth" else conventions()[task])
        self.card = ExpertCard(f"test:{task}", task, meant, licence="mine", revision="1")
        self.thumbs = np.stack([t for image, _ in self.known for t in (thumb(image), thumb(image)[:, ::-1])])

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        return [self.wrong(self.truth(image)) for image in images]

    def truth(self, image: ImageArray) -> Any:
        place, flipped = divmod(int(np.square(self.thumbs - thumb(image)).sum((1, 2)).argmin()), 2)
        size = tuple(min(side, 300) for side in image.shape[:2])
        return tasks.get(self.card.task).view(self.known[place][1], View((0, 0, 1, 1), size, bool(flipped)))


def checked(expert: Expert, **options: Any) -> Card:
    shown = None if expert.card.task in ("depth", "normals") else [room.image for room in pictures()]
    return check(expert, shown, **{"seconds": 0.5, **options})
