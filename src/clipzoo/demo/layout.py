"""The layout of one picture: objects, camera, room and light, drawn from a generator.

World frame: meters, y up, the floor at y = 0, walls along x and z, the focus object at the origin.
The room is built around the objects, so that depth, pitch and yaw vary freely and a constant depth map
explains little (a weak position prior).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipzoo.demo.meshes import by_name, meshes, names
from clipzoo.demo.surfaces import Decal, Surface, decals, hue, surface

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Placed:
    """A mesh in the world."""

    mesh: int
    corners: Floats  # Fx3x3 world coordinates of the triangles
    colors: Floats  # Fx3 albedo, tinted
    center: Floats  # 3, on the floor
    radius: float  # of the circle around it on the floor
    height: float


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; rows of ``axes`` are its right, up and backward directions in the world."""

    position: Floats
    axes: Floats
    field_of_view: float  # degrees, of the whole picture


@dataclass(frozen=True)
class Rig:
    """The distribution of cameras and rooms.

    Attributes:
        lens: bounds of the field of view in degrees.
        height: bounds of the camera's height in meters; None for any angle to the focus object.
        share: least share of the picture's side that the focus object takes.
        slack: distance of the focus object from the center, as a share of half the picture's side.
        room: largest mean distance of a wall from the objects, in meters.
    """

    lens: tuple[float, float]
    height: tuple[float, float] | None = None
    share: float = 0.5
    slack: float = 0.0
    room: float = 4.0


@dataclass(frozen=True)
class Light:
    """Directional light, such as a sun or window, and ambient light."""

    towards: Floats
    color: Floats
    ambient: Floats
    shadows: bool


@dataclass(frozen=True)
class Layout:
    """Everything in a picture before it is rendered; ``objects[0]`` is the focus."""

    objects: tuple[Placed, ...]
    camera: Camera
    low: Floats
    high: Floats
    surfaces: tuple[Surface, Surface, Surface]  # floor, wall, ceiling
    decals: tuple[Decal, ...]
    light: Light


def tinted(colors: Floats, plain_look: bool, rng: np.random.Generator) -> Floats:
    """Return other colors of an object: hue turned, mixed with one color, brighter or darker."""
    gray = colors @ np.array([0.3, 0.59, 0.11], np.float32)
    if rng.random() < (0.6 if plain_look else 0.25):
        angle = rng.uniform(0, 2 * np.pi)
        c, s, k = np.cos(angle), np.sin(angle), 1 / np.sqrt(3)
        cross = np.array([[0, -k, k], [k, 0, -k], [-k, k, 0]])
        turn = c * np.eye(3) + s * cross + (1 - c) / 3 * np.ones((3, 3))
        colors = colors @ turn.T.astype(np.float32)
    if rng.random() < 0.45:
        amount = rng.uniform(0.2, 0.8)
        paint = hue(rng, rng.uniform(0.2, 0.9), 1.0) * np.float32(rng.uniform(0.6, 1.2))
        lifted = gray * rng.uniform(0.6, 1.0) + rng.uniform(0.05, 0.35)
        colors = colors * (1 - amount) + amount * lifted[:, None] * paint
    painted: Floats = np.clip(colors * rng.uniform(0.7, 1.35), 0.02, 1).astype(np.float32)
    return painted


def place(mesh: int, at: Floats, plain_look: bool, rng: np.random.Generator) -> Placed:
    """Turn, scale and paint a mesh and place it at ``at``."""
    source = meshes()[mesh]
    scale = float(np.clip(source.meters, 0.6, 1.7) * rng.uniform(0.85, 1.18))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    stretch = rng.uniform(0.9, 1.1, 3)
    vertices = ((source.vertices * stretch * scale) @ turn.T + at).astype(np.float32)
    radius = float(np.linalg.norm(vertices[:, [0, 2]] - at[[0, 2]], axis=1).max())
    colors = tinted(source.colors, plain_look, rng)
    height = float(vertices[:, 1].max())
    return Placed(mesh, vertices[source.faces], colors, at, radius, height)


def aim(focus: Placed, rig: Rig, rng: np.random.Generator) -> Camera:
    """Return a camera with the focus object in view, from near or far, above or below."""
    fov = float(rng.uniform(*rig.lens))
    extent = max(focus.height, 2 * focus.radius * 0.8)
    share = rng.uniform(rig.share, 1.0)
    tangent = np.tan(np.radians(fov) / 2)
    distance = max(extent / (2 * tangent * share), focus.radius + 0.25)
    rise = rng.uniform(0, 30) if rng.random() < 0.65 else rng.uniform(-25, 60)
    azimuth = rng.uniform(0, 2 * np.pi)
    middle = np.array([0, focus.height * rng.uniform(0.35, 0.65), 0])
    if rig.height:
        above = rng.uniform(*rig.height) - middle[1]
        distance = max(distance, 1.3 * abs(above))
        rise = np.degrees(np.arcsin(above / distance))
    flat = np.cos(np.radians(rise))
    offset = np.array([flat * np.cos(azimuth), np.sin(np.radians(rise)), flat * np.sin(azimuth)])
    position = middle + distance * offset
    position[1] = max(position[1], rng.uniform(0.06, 0.25))
    back = (position - middle) / np.linalg.norm(position - middle)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    slack = tangent * max(rig.slack, 0.95 - 0.8 * share)
    back = back + right * rng.uniform(-slack, slack) + up * rng.uniform(-slack, slack)
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    roll = np.radians(rng.normal(0, 4))
    up = np.cross(back, right)
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    axes = np.stack([right, up, back]).astype(np.float32)
    return Camera(position.astype(np.float32), axes, fov)


def free(at: Floats, radius: float, objects: list[Placed], camera: Camera) -> bool:
    """Return True if a circle on the floor touches no object, is not at the camera and does not hide the focus."""
    for other in objects:
        if np.linalg.norm(other.center - at) < other.radius + radius + 0.02:
            return False
    eye = camera.position[[0, 2]]
    spot = at[[0, 2]] - eye
    if np.linalg.norm(spot) < radius + 0.3:
        return False
    sight = -eye / max(float(np.linalg.norm(eye)), 1e-6)
    along = float(spot @ sight)
    aside = float(np.linalg.norm(spot - along * sight))
    return not (0 < along < np.linalg.norm(eye) and aside < radius + 0.5 * objects[0].radius)


def furnish(focus: Placed, camera: Camera, plain_look: bool, rng: np.random.Generator) -> list[Placed]:
    """Return the focus object and up to four others around it."""
    objects = [focus]
    pool = by_name(held_out=False)
    for _ in range(rng.choice(5, p=[0.15, 0.3, 0.3, 0.15, 0.1])):
        mesh = int(rng.choice(pool[str(rng.choice(list(pool)))]))
        angle, away = rng.uniform(0, 2 * np.pi), focus.radius + rng.uniform(0.3, 2.8)
        at = np.array([away * np.cos(angle), 0, away * np.sin(angle)], np.float32)
        other = place(mesh, at, plain_look, rng)
        if free(at, other.radius, objects, camera):
            objects.append(other)
    return objects


def walls(objects: list[Placed], camera: Camera, rig: Rig, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the low and high corner of a room around everything, tight or wide on each side."""
    mean = np.exp(rng.uniform(np.log(0.15), np.log(rig.room)))
    corners = np.concatenate([o.corners.reshape(-1, 3) for o in objects])
    low = np.minimum(corners.min(0), camera.position - 0.15) - 0.03 - rng.exponential(mean, 3)
    high = np.maximum(corners.max(0), camera.position + 0.15) + 0.03 + rng.exponential(mean, 3)
    low[1] = 0
    high[1] = max(float(high[1] - rng.exponential(1.0)), float(corners[:, 1].max()) + 0.02,
                  float(camera.position[1]) + 0.12, float(rng.uniform(1.9, 2.6)))  # fmt: skip
    return low.astype(np.float32), high.astype(np.float32)


def lamp(plain_look: bool, rng: np.random.Generator) -> Light:
    """Return directional light of some warmth; the experts' split has flat light without shadows."""
    angle, rise = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(25, 75))
    towards = np.array([np.cos(angle) * np.cos(rise), np.sin(rise), np.sin(angle) * np.cos(rise)])
    warmth = rng.uniform(-0.16, 0.22)
    tone = np.array([1 + warmth, 1, 1 - warmth])
    power = rng.uniform(0.15, 0.5) if plain_look else rng.uniform(0.4, 1.1)
    ambient = rng.uniform(0.7, 0.95) if plain_look else rng.uniform(0.4, 0.85)
    cast = np.array([1 - warmth / 2, 1, 1 + warmth / 2]) * ambient
    return Light(towards.astype(np.float32), (tone * power).astype(np.float32), cast.astype(np.float32), not plain_look)


def layout(rng: np.random.Generator, held_out: bool, plain_look: bool, rig: Rig) -> Layout:
    """Return the layout of one picture; only the focus can be a held-out mesh."""
    pool = by_name(held_out)
    name = str(rng.choice([n for n in names() if n in pool]))
    origin = np.zeros(3, np.float32)
    focus = place(int(rng.choice(pool[name])), origin, plain_look, rng)
    camera = aim(focus, rig, rng)
    objects = furnish(focus, camera, plain_look, rng)
    low, high = walls(objects, camera, rig, rng)
    floor, wall, ceiling = (surface(w, plain_look, rng) for w in ("floor", "wall", "ceiling"))
    hung = tuple(decals(low, high, plain_look, rng))
    light = lamp(plain_look, rng)
    return Layout(tuple(objects), camera, low, high, (floor, wall, ceiling), hung, light)
