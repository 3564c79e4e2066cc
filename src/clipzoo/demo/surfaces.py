"""Surfaces of rooms: procedural floors, walls and ceilings, pictures, windows, doors and rugs.

A surface maps points (u, v) in meters to albedo. Faces of a room are numbered
0, 1: x low, high; 2, 3: floor, ceiling; 4, 5: z low, high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FLOOR, CEILING = 2, 3
WALLS = (0, 1, 4, 5)


def hue(rng: np.random.Generator, saturation: float, value: float) -> Floats:
    """Return a random color of the given saturation and brightness, as three floats in [0, 1]."""
    phase = rng.random() + np.array([0, 1 / 3, 2 / 3])
    ramp = np.clip(np.abs(phase % 1.0 * 6 - 3) - 1, 0, 1)
    color: Floats = (value * (1 - saturation * (1 - ramp))).astype(np.float32)
    return color


@dataclass(frozen=True)
class Surface:
    """A pattern in two colors, with grain."""

    kind: str
    base: Floats
    second: Floats
    step: float  # length of one period in meters
    grain: float
    noise: Floats  # 64x64, mean 0, the source of grain and of random tones
    border: float = 0.0  # height of a skirting or wainscot in ``second``

    def albedo(self, u: Floats, v: Floats) -> Floats:
        """Return Nx3 colors at N points; v is the height on walls."""
        color = np.broadcast_to(self.base, (len(u), 3)).copy()
        i, j = np.floor(u / self.step), np.floor(v / self.step)
        if self.kind == "stripes":
            color[i % 2 == 0] = self.second
        elif self.kind == "checks":
            color[(i + j) % 2 == 0] = self.second
        elif self.kind == "tiles":
            seam = (u / self.step - i < 0.06) | (v / self.step - j < 0.06)
            color[seam] = self.second
            color *= 1 + 0.1 * self.tone(i, j)[:, None]
        elif self.kind == "planks":
            along = np.floor(u / (self.step * 7) + 0.37 * j)
            color *= 1 + 0.22 * self.tone(along, j)[:, None]
            color[v / self.step - j < 0.07] *= 0.6
        elif self.kind == "bricks":
            shifted = u / (2 * self.step) + 0.5 * (j % 2)
            seam = (v / self.step - j < 0.14) | (shifted % 1.0 < 0.07)
            color *= 1 + 0.15 * self.tone(np.floor(shifted), j)[:, None]
            color[seam] = self.second
        if self.border:
            color[v < self.border] = self.second * 0.9
        stretch = 0.15 if self.kind == "planks" else 1.0
        return color * (1 + self.grain * self.smooth(u * 7 * stretch, v * 7)[:, None])

    def tone(self, i: Floats, j: Floats) -> Floats:
        """Return a random number, about -1 to 1, for each cell."""
        return self.noise[(i.astype(np.int64) * 7) % 64, (j.astype(np.int64) * 13) % 64]

    def smooth(self, u: Floats, v: Floats) -> Floats:
        """Return bilinear noise with one knot per unit."""
        i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        a, b = (u - i).astype(np.float32), (v - j).astype(np.float32)
        n = self.noise
        low = n[i % 64, j % 64] * (1 - a) + n[(i + 1) % 64, j % 64] * a
        high = n[i % 64, (j + 1) % 64] * (1 - a) + n[(i + 1) % 64, (j + 1) % 64] * a
        return (low * (1 - b) + high * b).astype(np.float32)


@dataclass(frozen=True)
class Decal:
    """A rectangle on one face of the room: a picture, a window, a door or a rug."""

    face: int
    kind: str
    low: tuple[float, float]
    high: tuple[float, float]
    colors: Floats  # 4x3

    def paint(self, color: Floats, glow: Floats, faces: NDArray[np.int64], u: Floats, v: Floats) -> None:
        """Write the decal into ``color`` (Nx3) and ``glow`` (N, emitted light), in place."""
        s = (u - self.low[0]) / (self.high[0] - self.low[0])
        t = (v - self.low[1]) / (self.high[1] - self.low[1])
        inside = np.flatnonzero((faces == self.face) & (s > 0) & (s < 1) & (t > 0) & (t < 1))
        s, t = s[inside], t[inside]
        inner = (s > 0.08) & (s < 0.92) & (t > 0.08) & (t < 0.92)
        paint = np.where(inner[:, None], self.colors[1], self.colors[0])
        if self.kind == "picture":
            hill = t < 0.35 + 0.25 * np.sin(5 * s + 9 * self.colors[2, 0])
            paint[inner & hill] = self.colors[2]
            sun = (s - self.colors[3, 0]) ** 2 + (t - 0.7) ** 2 < 0.02
            paint[inner & sun] = self.colors[3]
        elif self.kind == "window":
            bars = (np.abs(s - 0.5) < 0.03) | (np.abs(t - 0.5) < 0.03)
            paint[inner & (t < 0.4)] = self.colors[2]
            paint[bars] = self.colors[0]
            glow[inside[inner & ~bars]] = 0.9
        elif self.kind == "rug":
            paint[inner & (np.floor(s * 8) % 2 == 0)] = self.colors[2]
        elif self.kind == "door":
            paint[(s > 0.82) & (s < 0.9) & (np.abs(t - 0.48) < 0.02)] = self.colors[3]
        color[inside] = paint


def surface(part: str, plain_look: bool, rng: np.random.Generator) -> Surface:
    """Return a random surface for ``floor``, ``wall`` or ``ceiling``; ``plain_look`` is that of the experts' split."""
    kinds = {
        "floor": ("planks", "planks", "tiles", "checks", "plain", "carpet"),
        "wall": ("plain", "plain", "stripes", "bricks", "tiles", "plain"),
        "ceiling": ("plain", "plain", "plain", "planks"),
    }[part]
    kind = str(rng.choice(kinds))
    saturation = rng.random() ** 1.6 * (0.8 if plain_look else 0.6) * (0.3 if part == "ceiling" else 1)
    value = rng.uniform(0.75, 1.0) if part == "ceiling" else rng.uniform(0.4, 1.0)
    base = hue(rng, saturation, value)
    if kind == "planks" and not plain_look:
        wood = np.array([[0.62, 0.42, 0.24], [0.45, 0.28, 0.16], [0.78, 0.62, 0.42], [0.5, 0.47, 0.44]])
        base = (wood[rng.integers(4)] * rng.uniform(0.8, 1.2)).astype(np.float32)
    if rng.random() < 0.6:
        second = (base * rng.uniform(0.55, 0.9)).astype(np.float32)
    else:
        second = hue(rng, rng.uniform(0, 0.4), rng.uniform(0.4, 0.9))
    step = rng.uniform(0.12, 0.5) if kind != "bricks" else rng.uniform(0.08, 0.16)
    border = float(rng.choice([0.0, 0.08, 0.12, 0.9])) if part == "wall" else 0.0
    grain = 0.02 if plain_look else rng.uniform(0.02, 0.18) * (2 if kind == "carpet" else 1)
    noise = np.clip(rng.normal(0, 0.5, (64, 64)), -1, 1).astype(np.float32)
    return Surface(kind, base, second, float(step), float(grain), noise, border)


def decals(low: Floats, high: Floats, plain_look: bool, rng: np.random.Generator) -> list[Decal]:
    """Return pictures, windows and doors for the walls of the box ``low``..``high``, and perhaps a rug."""
    made = []
    for face in WALLS:
        axis = 2 if face < 2 else 0
        start, end = float(low[axis]), float(high[axis])
        for _ in range(rng.integers(0, 2 if plain_look else 4)):
            kind = str(rng.choice(["picture", "picture", "window", "door"]))
            width, height, floor = {
                "picture": (rng.uniform(0.3, 1.0), rng.uniform(0.3, 0.9), rng.uniform(0.9, 1.6)),
                "window": (rng.uniform(0.7, 1.6), rng.uniform(0.8, 1.3), rng.uniform(0.7, 1.0)),
                "door": (rng.uniform(0.8, 1.0), 2.0, 0.0),
            }[kind]
            if end - start < width + 0.4 or floor + height > high[1]:
                continue
            at = rng.uniform(start + 0.2, end - width - 0.2)
            colors = np.stack([hue(rng, rng.uniform(0, 0.7), rng.uniform(0.2, 1)) for _ in range(4)])
            if kind == "window":
                colors[1:3] = [[0.75, 0.88, 1.0], [0.55, 0.75, 0.6]]
                colors[0] = 0.9
            made.append(Decal(face, kind, (at, floor), (at + width, floor + height), colors))
    if rng.random() < (0.15 if plain_look else 0.45):
        corner = rng.uniform(-1.6, 0.1, 2)
        size = rng.uniform(0.8, 2.4, 2)
        colors = np.stack([hue(rng, rng.uniform(0, 0.8), rng.uniform(0.2, 0.9)) for _ in range(4)])
        far = corner + size
        made.append(Decal(FLOOR, "rug", (float(corner[0]), float(corner[1])), (float(far[0]), float(far[1])), colors))
    return made
