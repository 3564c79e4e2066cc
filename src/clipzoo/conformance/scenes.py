"""Rendered rooms with cuboids and spheres, with known depth, normals and camera: ground truth for experts.

A room is a box seen from inside. Cuboids and spheres stand on its floor, textured, lit from one side, with shadows.
World frame: meters, x right, y up, z toward the viewer, the camera near the origin. Truth is in the camera's frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from clipzoo.types import Camera, FloatArray, ImageArray

Doubles = NDArray[np.float64]

SIZE = (144, 192)
"""H, W of the pictures."""

FINE = 2
"""Samples per pixel and axis that are averaged."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture, uint8 H×W×3 RGB, and its ground truth.

    ``depth`` float32 [H,W], meters along the optical axis; ``normals`` float32 [3,H,W], unit vectors x right, y up, z
    toward the viewer; ``stretch`` float32 [H,W] >= 1, the ratio of depth along the ray to depth along the axis.
    """

    image: ImageArray
    depth: FloatArray
    normals: FloatArray
    stretch: FloatArray


@dataclass(frozen=True, slots=True)
class _Cuboid:
    """A cuboid with axes in the columns of ``turn``; visible from inside if it is the ``room``."""

    center: Doubles
    half: Doubles
    turn: Doubles
    room: bool = False

    def hit(self, origin: Doubles, rays: Doubles) -> tuple[Doubles, Doubles]:
        """Return the distance [N] in units of the rays [N,3], infinite where missed, and the normals there [N,3]."""
        o, d = (origin - self.center) @ self.turn, rays @ self.turn
        d = np.where(np.abs(d) < 1e-9, 1e-9, d)
        near, far = (-np.sign(d) * self.half - o) / d, (np.sign(d) * self.half - o) / d
        ends = far if self.room else near
        axis = far.argmin(1) if self.room else near.argmax(1)
        at = np.take_along_axis(ends, axis[:, None], 1)[:, 0]
        missed = (at <= 1e-4) | (not self.room) & (near.max(1) > far.min(1))
        normals = np.zeros_like(d)
        np.put_along_axis(normals, axis[:, None], -np.sign(np.take_along_axis(d, axis[:, None], 1)), 1)
        return np.where(missed, np.inf, at), normals @ self.turn.T


@dataclass(frozen=True, slots=True)
class _Ball:
    center: Doubles
    radius: float

    def hit(self, origin: Doubles, rays: Doubles) -> tuple[Doubles, Doubles]:
        """See `_Cuboid.hit`."""
        o = origin - self.center
        a, b, c = (rays * rays).sum(1), (o * rays).sum(-1), (o * o).sum(-1) - self.radius**2
        root = b * b - a * c
        at = (-b - np.sqrt(np.maximum(root, 0))) / a
        missed = (root <= 0) | (at <= 1e-4)
        return np.where(missed, np.inf, at), (o + rays * at[:, None]) / self.radius


Body = _Cuboid | _Ball


def scenes(count: int = 12, size: tuple[int, int] = SIZE) -> list[Scene]:
    """Return the first ``count`` scenes at ``size`` (H, W); they are the same in every call."""
    return [render(seed, size) for seed in range(count)]


@cache
def render(seed: int, size: tuple[int, int] = SIZE) -> Scene:
    """Render scene ``seed`` at ``size`` (H, W)."""
    rng = np.random.default_rng(seed)
    bodies, (origin, axes, camera) = _furnish(rng), _draw_camera(rng, size)
    textures = [_draw_texture(rng) for _ in range(len(bodies) + 2)]  # walls, floor and ceiling are painted apart
    light = _unit(np.array([rng.choice([-1, 1]) * rng.uniform(0.3, 1), rng.uniform(0.8, 1.6), rng.uniform(0.2, 1)]))
    H, W = size
    fine = _rays(camera, (FINE * H, FINE * W)) @ axes
    color = _shade(bodies, textures, light, origin, fine, -axes[2])
    color = color.reshape(H, FINE, W, FINE, 3).mean((1, 3)) * rng.uniform(0.9, 1.2)
    noise = rng.normal(0, rng.uniform(1, 4), color.shape)
    local = _rays(camera, size)
    depth, normals, _ = _first_hits(bodies, origin, local @ axes)
    return Scene(
        np.clip(np.rint(255 * np.clip(color, 0, 1) ** 0.9 + noise), 0, 255).astype(np.uint8),
        depth.reshape(size).astype(np.float32),
        np.moveaxis((normals @ axes.T).reshape(*size, 3), -1, 0).astype(np.float32),
        np.linalg.norm(local, axis=1).reshape(size).astype(np.float32),
    )


def _furnish(rng: np.random.Generator) -> list[Body]:
    """Return the room, and cuboids and spheres on its floor in front of the camera."""
    half = np.array([rng.uniform(1.2, 2.4), rng.uniform(1.15, 1.4), rng.uniform(1.8, 3.2)])
    middle = np.array([rng.uniform(-0.4, 0.4), half[1], 0.7 - half[2]])
    bodies: list[Body] = [_Cuboid(middle, half, np.eye(3), room=True)]
    for place in rng.permutation(5)[: rng.integers(3, 5)]:  # side by side, so that few hide each other
        x, z = middle[0] + half[0] * (0.36 * place - 0.72), -rng.uniform(1.5, 2 * half[2] - 1.2)
        if rng.random() < 0.5:
            radius = rng.uniform(0.2, 0.5)
            bodies.append(_Ball(np.array([x, radius, z]), radius))
        else:
            sides = rng.uniform([0.15, 0.2, 0.15], [0.4, 0.7, 0.4])
            bodies.append(_Cuboid(np.array([x, sides[1], z]), sides, _rotation(rng.uniform(-1.2, 1.2))))
    return bodies


def _draw_camera(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Doubles, Doubles, Camera]:
    """Return the camera's position, its right, up and backward directions as rows, and its intrinsics."""
    pitch, long = rng.uniform(-0.25, 0.05), np.tan(np.radians(rng.uniform(60, 75)) / 2)
    down = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    axes = down @ _rotation(rng.uniform(-0.45, 0.45)).T
    fx, fy = (max(size) / side / (2 * long) for side in (size[1], size[0]))
    return np.array([0, rng.uniform(0.8, 1.4), 0.0]), axes, Camera(fx, fy)


def _rays(camera: Camera, size: tuple[int, int]) -> Doubles:
    """Return rays [N,3] from the camera through the pixels' centers, of length 1 along its axis."""
    H, W = size
    x, y = np.meshgrid(
        ((np.arange(W) + 0.5) / W - camera.cx) / camera.fx, (camera.cy - (np.arange(H) + 0.5) / H) / camera.fy
    )
    return np.stack([x.ravel(), y.ravel(), -np.ones(x.size)], 1)


def _first_hits(bodies: Sequence[Body], origin: Doubles, rays: Doubles) -> tuple[Doubles, Doubles, NDArray[np.intp]]:
    """Return distance in units of the rays [N], normal [N,3] and index [N] of the first body on each ray."""
    distance, normals, which = np.full(len(rays), np.inf), np.zeros_like(rays), np.zeros(len(rays), np.intp)
    for number, body in enumerate(bodies):
        at, across = body.hit(origin, rays)
        first = at < distance
        distance, which = np.where(first, at, distance), np.where(first, number, which)
        normals[first] = across[first]
    return distance, normals, which


def _shade(
    bodies: Sequence[Body], textures: Sequence[Doubles], light: Doubles, origin: Doubles, rays: Doubles, ahead: Doubles
) -> Doubles:
    """Return linear colors [N,3]: texture under side light with shadows, ambient light, and dark corners."""
    distance, normals, which = _first_hits(bodies, origin, rays)
    points = origin + rays * distance[:, None]
    painted = np.where((which == 0) & (np.abs(normals[:, 1]) > 0.5), len(bodies) + (normals[:, 1] < 0), which)
    albedo = np.empty_like(points)
    for number, texture in enumerate(textures):
        chosen = painted == number
        albedo[chosen] = _paint(texture, points[chosen])
    lambert = np.maximum(normals @ light, 0)
    for body in bodies[1:]:
        lambert *= np.isinf(body.hit(points + 1e-3 * normals, np.broadcast_to(light, points.shape))[0])
    sky = 0.8 + 0.2 * normals[:, 1]
    for body in bodies[1:]:  # objects darken the floor around them
        flat = np.linalg.norm((points - body.center)[:, [0, 2]], axis=1)
        sky -= 0.3 * np.exp(-((flat / 0.4) ** 2) - 6 * points[:, 1]) * (which == 0)
    facing = 0.15 * np.abs(normals @ ahead)
    return np.asarray(albedo * (0.45 * sky + facing + 0.5 * lambert)[:, None])


def _draw_texture(rng: np.random.Generator) -> Doubles:
    """Return a texture [3,3]: two colors, and (kind of pattern, its frequency per meter, its strength)."""
    first = rng.uniform(0.25, 0.95, 3)
    pattern = [rng.integers(3), rng.uniform(1.5, 5), rng.uniform(0.1, 0.6)]
    return np.array([first, rng.uniform(0.15, 0.9, 3), pattern])


def _paint(texture: Doubles, points: Doubles) -> Doubles:
    """Return colors of ``points`` [N,3]: tiles, stripes or waves, as a solid texture."""
    first, second, (kind, frequency, strength) = texture
    x, y, z = np.moveaxis(points, -1, 0) * frequency + 0.01
    if kind == 0:
        mix = (np.floor(x) + np.floor(y) + np.floor(z)) % 2
    elif kind == 1:
        mix = np.floor(x + 0.7 * z) % 2
    else:
        mix = 0.5 + 0.25 * (np.sin(3 * x + 2 * np.sin(2 * z)) + np.sin(2.3 * y + 2 * np.sin(1.7 * x)))
    return np.asarray(first + (second - first) * (strength * mix)[:, None])


def _rotation(angle: float) -> Doubles:
    """Return the rotation by ``angle`` about the vertical axis."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _unit(vector: Doubles) -> Doubles:
    return np.asarray(vector / np.linalg.norm(vector))
