"""An analytic scene, asymmetric in everything and with holes, traced anew at any size, crop and mirroring.

A slanted floor and wall, a wall at the right that closes a corner, and a sphere before them, in the frame of normals
(x right, y up, z toward the viewer), seen by a camera whose principal point is not the middle. The mirrored scene
is built from mirrored planes, sphere, holes and camera, not by turning a picture round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.features import Features, unit
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import Camera

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]
Crop = tuple[float, float, float, float]

WHOLE = (0.0, 0.0, 1.0, 1.0)
CAMERA = Camera(0.9, 1.2, 0.46, 0.55)
CLASSES = ("floor", "wall", "side", "ball", "door")
THINGS = ("ball", "door", "cat")


@dataclass(frozen=True)
class Hole:
    """An ellipse of the picture, normalized, in which nothing is known."""

    x: float
    y: float
    rx: float
    ry: float

    def reach(self, u: Floats, v: Floats) -> Floats:
        """Below 1 inside."""
        return np.hypot((u - self.x) / self.rx, (v - self.y) / self.ry)


@dataclass(frozen=True)
class Thing:
    """An object that fills an ellipse of the picture; its box and the ellipse's are one, normalized."""

    box: Crop
    id: int
    score: float
    ignored: bool = False

    def shown(self, size: tuple[int, int], crop: Crop) -> tuple[list[float], float] | None:
        """The box in pixels of a crop at a size (H, W), and the share of it that is seen; None where it is not."""
        (left, top, right, bottom), (x0, y0, x1, y1) = self.box, crop
        w, h = min(right, x1) - max(left, x0), min(bottom, y1) - max(top, y0)
        if w <= 0 or h <= 0:
            return None
        x, y = (max(left, x0) - x0) / (x1 - x0) * size[1], (max(top, y0) - y0) / (y1 - y0) * size[0]
        whole = [x, y, x + w / (x1 - x0) * size[1], y + h / (y1 - y0) * size[0]]
        return whole, w * h / ((right - left) * (bottom - top))

    def mask(self, u: Floats, v: Floats) -> NDArray[np.bool_]:
        left, top, right, bottom = self.box
        x, y = (2 * u - left - right) / (right - left), (2 * v - top - bottom) / (bottom - top)
        return np.hypot(x, y) < 1


@dataclass(frozen=True)
class Scene:
    camera: Camera = CAMERA
    planes: tuple[tuple[Vector, float], ...] = (
        ((0.06, 0.99, 0.1), -1.1),
        ((0.25, -0.05, 0.97), -5.5),
        ((-0.95, 0.1, 0.3), -2.6),
    )
    ball: tuple[Vector, float] = ((-0.55, -0.1, -3.4), 0.8)
    door: float = 0.1
    turned: float = 1.0
    holes: tuple[Hole, ...] = (Hole(0.22, 0.3, 0.13, 0.1), Hole(0.8, 0.66, 0.09, 0.17))
    things: tuple[Thing, ...] = (
        Thing((0.21, 0.33, 0.47, 0.71), 0, 0.9),
        Thing((0.52, 0.24, 0.89, 0.93), 1, 0.8),
        Thing((0.61, 0.42, 0.71, 0.61), 0, 0.7),
        Thing((0.03, 0.68, 0.19, 0.97), 2, 0.6),
        Thing((0.04, 0.05, 0.31, 0.29), 2, 0.4, ignored=True),
        Thing((0.77, 0.06, 0.98, 0.22), 1, 0.5),
    )

    def mirrored(self) -> Scene:
        """The scene in a mirror that exchanges left and right."""
        (x, y, z), radius = self.ball
        return Scene(
            replace(self.camera, cx=1 - self.camera.cx),
            tuple(((-nx, ny, nz), d) for (nx, ny, nz), d in self.planes),
            ((-x, y, z), radius),
            self.door,
            -self.turned,
            tuple(replace(hole, x=1 - hole.x) for hole in self.holes),
            tuple(replace(thing, box=flipped(thing.box)) for thing in self.things),
        )

    def trace(self, size: tuple[int, int], crop: Crop = WHOLE) -> Seen:
        """What a crop shows at a size (H, W), each pixel by the ray through its center."""
        (H, W), (x0, y0, x1, y1) = size, crop
        u, v = np.meshgrid(x0 + (np.arange(W) + 0.5) / W * (x1 - x0), y0 + (np.arange(H) + 0.5) / H * (y1 - y0))
        c = self.camera
        rays = np.stack([(u - c.cx) / c.fx, (c.cy - v) / c.fy, -np.ones_like(u)])
        hits = [self._plane(rays, *plane) for plane in self.planes] + [self._ball(rays)]
        z = np.stack([hit[0] for hit in hits])
        first = z.argmin(0)
        normals = np.take_along_axis(np.stack([hit[1] for hit in hits]), first[None, None], 0)[0]
        z = z.min(0)
        point = rays * z
        door = (first == 1) & (self.turned * point[0] > self.door) & (point[1] < 0.6)
        return Seen(self, crop, u, v, rays, z, normals, np.where(door, 4, first), self._edges(hits, rays))

    def _edges(self, hits: list[tuple[Floats, Floats]], rays: Floats) -> Floats:
        """How near a pixel is to a crease of two planes that is seen, or to the outline of the ball, 1 on it."""
        near, second = np.sort(np.stack([1 / z for z, _ in hits[:-1]]), axis=0)[:-3:-1]
        crease = np.exp(-(((near - second) / 0.1) ** 2))
        beside = self._discriminant(rays)[1] / (rays**2).sum(0)
        outline = np.exp(-((beside / 0.4) ** 2))
        return np.maximum(np.where(beside > 0, 0, crease), outline)

    def _discriminant(self, rays: Floats) -> tuple[Floats, Floats]:
        """Of the quadratic in z where a ray meets the ball: b / 2, and a quarter of its discriminant, > 0 inside."""
        center, radius = np.array(self.ball[0])[:, None, None], self.ball[1]
        b = (rays * center).sum(0)
        return b, b**2 - (rays**2).sum(0) * ((center**2).sum() - radius**2)

    @staticmethod
    def _plane(rays: Floats, normal: Vector, offset: float) -> tuple[Floats, Floats]:
        n = np.array(normal) / np.linalg.norm(normal)
        along = np.tensordot(n, rays, 1)
        hit = along < -1e-9
        z = np.where(hit, offset / np.where(hit, along, 1), np.inf)
        return z, np.broadcast_to(n[:, None, None], rays.shape)

    def _ball(self, rays: Floats) -> tuple[Floats, Floats]:
        center, radius = np.array(self.ball[0])[:, None, None], self.ball[1]
        b, root = self._discriminant(rays)
        hit = root > 0
        z = np.where(hit, (b - np.sqrt(np.where(hit, root, 0))) / (rays**2).sum(0), np.inf)
        return z, np.where(hit, (rays * np.where(hit, z, 0) - center) / radius, 0)


@dataclass(frozen=True)
class Seen:
    """A crop of the scene, per pixel: place in the picture, ray, z-depth, normal [3,H,W], class id, edge."""

    scene: Scene
    crop: Crop
    u: Floats
    v: Floats
    rays: Floats
    z: Floats
    normals: Floats
    ids: NDArray[np.int64]
    edges: Floats

    @cached_property
    def reach(self) -> Floats:
        """How deep in the nearest hole, [H,W]: below 1 inside."""
        return np.min([hole.reach(self.u, self.v) for hole in self.scene.holes], axis=0)

    @property
    def valid(self) -> NDArray[np.bool_]:
        return self.reach >= 1

    @property
    def distance(self) -> Floats:
        return self.z * np.linalg.norm(self.rays, axis=0)


@dataclass(frozen=True)
class Case:
    """A task's label of the scene, and how near a label must come to another to be called equal.

    ``field`` holds the values; ``quantum`` is the error that the file may add, ``sampling`` the one that a view may
    add on smooth surfaces, both in the unit of `gap`; ``pooled`` tells what a metric averages over; ``loss``
    is None for the task's default.
    """

    task: str
    convention: Convention
    field: str
    quantum: float
    sampling: float
    pooled: Literal["pixels", "images"] = "pixels"
    loss: str | None = None

    def label(self, seen: Seen) -> Any:
        """The label of what is seen."""
        if self.task == "segmentation":
            return Segmentation(seen.ids.astype(np.uint16), seen.valid, 0.75)
        if self.task == "normals":
            return Normals(seen.normals.astype(np.float32), seen.valid)
        if self.task == "edges":
            return Edges(seen.edges.astype(np.float32), seen.valid)
        kind, along = self.convention.kind, self.convention.along
        values = seen.distance if along == "ray" else seen.z
        if kind == "affine-depth":
            values = 0.3 * values - 1.5
        if kind == "affine-disparity":
            values = 2 / values - 0.5
        assert kind is not None
        return Depth(values.astype(np.float32), seen.valid, kind, along)

    def gap(self, a: Any, b: Any) -> Floats:
        """[N], over pixels known in both: unequal ids, relative meters, affine units, degrees, or probability."""
        both = a.valid & b.valid
        p, q = (getattr(x, self.field)[..., both].astype(np.float64) for x in (a, b))
        if self.task == "segmentation":
            return (p != q).astype(np.float64)
        if self.task == "normals":
            return 2 * np.degrees(np.arcsin(np.clip(np.linalg.norm(p - q, axis=0) / 2, 0, 1)))
        return np.abs(p - q) / (q if self.convention.kind == "metric" else 1)

    def arrays(self, label: Any) -> dict[str, NDArray[Any]]:
        """All arrays of a label by name."""
        return {self.field: getattr(label, self.field), "valid": label.valid}

    def blank(self, label: Any) -> Any:
        """The label with nothing known."""
        return replace(label, valid=np.zeros_like(label.valid))

    def error(self, prediction: Any, truth: Any) -> float:
        """The largest gap of a prediction that should be right everywhere."""
        return float(self.gap(prediction, truth).max())


@dataclass(frozen=True)
class Boxes(Case):
    """Detection: `gap` is in pixels. Labels with masks were not asked for doors, whether there are any or not."""

    masks: bool = False

    def label(self, seen: Seen) -> Detection:
        H, W = seen.z.shape
        found = [(thing, *shown) for thing in seen.scene.things if (shown := thing.shown((H, W), seen.crop))]
        return Detection(
            (H, W),
            np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
            np.array([thing.id for thing, *_ in found], np.uint16),
            np.array([thing.score for thing, *_ in found], np.float32),
            np.array([thing.ignored or share < 0.25 for thing, _, share in found], np.bool_),
            tuple(rle.encode(thing.mask(seen.u, seen.v)) for thing, *_ in found) if self.masks else None,
            np.array([0, 2], np.uint16) if self.masks else None,
        )

    def gap(self, a: Detection, b: Detection) -> Floats:
        """[N], the largest error of each box; order is part of a label."""
        assert a.boxes.shape == b.boxes.shape
        return np.abs(a.boxes.astype(np.float64) - b.boxes).max(1, initial=0)

    def arrays(self, label: Detection) -> dict[str, NDArray[Any]]:
        named = {name: getattr(label, name) for name in ("boxes", "ids", "scores", "ignored", "valid")}
        shapes = [rle.decode(text, label.size) for text in label.masks or ()]
        asked = np.arange(len(THINGS)) if label.asked is None else label.asked
        return {**named, "masks": np.array(shapes, np.bool_).reshape(-1, *label.size), "asked": asked}

    def blank(self, label: Detection) -> Detection:
        return replace(label, ignored=np.ones_like(label.ignored))

    def error(self, prediction: Detection, truth: Detection) -> float:
        found, right = prediction.take(prediction.scores > 0.5), truth.take(~truth.ignored)
        found, right = (label.take(np.argsort(label.boxes[:, 0])) for label in (found, right))
        np.testing.assert_array_equal(found.ids, right.ids)
        return float(self.gap(found, right).max())


@dataclass(frozen=True)
class Featured(Case):
    """Features of the surface's depth and height, which a mirror does not change; `gap` is in degrees."""

    def label(self, seen: Seen) -> Features:
        height = (seen.rays * seen.z)[1]
        vectors = np.stack([np.cos(seen.z), np.sin(seen.z), np.cos(height), np.sin(height), np.ones_like(height)])
        return unit(vectors.astype(np.float32), seen.valid)

    def gap(self, a: Features, b: Features) -> Floats:
        both = a.valid & b.valid
        chords = np.linalg.norm((a.vectors - b.vectors)[:, both].astype(np.float64), axis=0)
        return 2 * np.degrees(np.arcsin(np.clip(chords / 2, 0, 1)))


CASES: dict[str, list[Case]] = {
    "segmentation": [Case("segmentation", Convention(CLASSES), "ids", 0, 0)],
    "depth": [
        Case("depth", Convention((), "metric", "z"), "values", 1e-4, 0.01, "images"),
        Case("depth", Convention((), "metric", "ray"), "values", 1e-4, 0.01, "images"),
        Case("depth", Convention((), "affine-depth", "z"), "values", 3e-5, 0.02, "images"),
        Case("depth", Convention((), "affine-disparity"), "values", 3e-5, 0.01, "images"),
    ],
    "normals": [Case("normals", Convention(), "vectors", 0.4, 1)],
    "detection": [
        Boxes("detection", Convention(THINGS), "boxes", 0, 0.02),
        Boxes("detection", Convention(THINGS), "boxes", 0, 0.02, masks=True),
    ],
    "edges": [Case("edges", Convention(), "values", 0.002, 0.1)],
    "features": [Featured("features", Convention(channels=5), "vectors", 0.5, 1)],
}
"""Labels of the scene by task; a new task adds its own here."""

SCENE = Scene()


@lru_cache(maxsize=64)
def seen(size: tuple[int, int], crop: Crop = WHOLE, mirrored: bool = False) -> Seen:
    """The scene, or the mirrored one, traced once."""
    return (SCENE.mirrored() if mirrored else SCENE).trace(size, crop)


def flipped(crop: Crop) -> Crop:
    """The crop that shows in the mirrored picture what ``crop`` shows in the picture."""
    x0, y0, x1, y1 = crop
    return 1 - x1, y0, 1 - x0, y1
