"""A z-buffer in plain numpy, vectorized over triangles: spans of rows first, then their pixels.

Screen coordinates are pixels, x right and y down, the center of pixel ``i`` at ``i + 0.5``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def spread(counts: Ints) -> tuple[Ints, Ints]:
    """Return (owner of each item, its number within the owner): [2,1] -> [0,0,1], [0,1,0]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - starts[owner]


def plane(xy: Floats, value: Floats) -> Floats:
    """Return coefficients (Tx3: a, b, c) of value = a x + b y + c over each triangle's corners.

    Args:
        xy: Tx3x2, the corners on the screen.
        value: Tx3, linear on the screen, such as inverse depth.
    """
    (x0, y0), (x1, y1), (x2, y2) = (xy[:, i].T for i in range(3))
    v0, v1, v2 = value.T
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    area = np.where(np.abs(area) < 1e-9, np.float32(1e-9), area)
    a = ((v1 - v0) * (y2 - y0) - (v2 - v0) * (y1 - y0)) / area
    b = ((v2 - v0) * (x1 - x0) - (v1 - v0) * (x2 - x0)) / area
    return np.stack([a, b, v0 - a * x0 - b * y0], 1)


def rasterize(xy: Floats, nearness: Floats, size: int) -> tuple[Ints, Floats]:
    """Return the nearest triangle at every pixel of a square picture.

    Args:
        xy: Tx3x2, the corners on the screen in pixels.
        nearness: Tx3, linear on the screen and larger nearer: inverse depth, or minus depth
            under an orthographic camera.
        size: side of the picture in pixels.

    Returns:
        the index of the winning triangle, size x size, -1 if there is none; and Tx3 plane coefficients
        of ``nearness``.
    """
    coefficients = plane(xy, nearness)
    winner = np.full(size * size, -1, np.int64)
    (left, right), (top, bottom) = (extremes(xy[..., i]) for i in range(2))
    inside = (left < size) & (right > 0)
    first = np.maximum(np.ceil(top - 0.5), 0).astype(np.int64)
    last = np.minimum(np.floor(bottom - 0.5), size - 1).astype(np.int64)
    triangle, step = spread(np.where(inside, np.maximum(last - first + 1, 0), 0))
    row = first[triangle] + step
    left, right = spans(xy, triangle, (row + 0.5).astype(np.float32))
    start = np.maximum(np.ceil(left - 0.5), 0).astype(np.int64)
    end = np.minimum(np.floor(right - 0.5), size - 1).astype(np.int64)
    span, step = spread(np.maximum(end - start + 1, 0))
    column, row, triangle = start[span] + step, row[span], triangle[span]
    a, b, c = coefficients[triangle].T
    value = (a * (column + np.float32(0.5)) + b * (row + np.float32(0.5)) + c).astype(np.float32)
    pixel = row * size + column
    best = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(best, pixel, value)
    wins = value >= best[pixel]
    winner[pixel[wins]] = triangle[wins]
    return winner.reshape(size, size), coefficients


def extremes(values: Floats) -> tuple[Floats, Floats]:
    """Return minimum and maximum of three columns; much faster than a reduction over a short axis."""
    a, b, c = values.T
    return np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)


def spans(xy: Floats, triangle: Ints, y: Floats) -> tuple[Floats, Floats]:
    """Return the left and right x at which each row ``y`` crosses its triangle."""
    left = np.full(len(y), -np.inf, np.float32)
    right = np.full(len(y), np.inf, np.float32)
    (x0, y0), (x1, y1), (x2, y2) = (xy[:, i].T for i in range(3))
    turn = np.where((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) < 0, -1, 1).astype(np.float32)
    for px, py, qx, qy in ((x0, y0, x1, y1), (x1, y1, x2, y2), (x2, y2, x0, y0)):
        rise = (qy - py) * turn
        slope = (qx - px) / np.where(qy == py, np.float32(1e-9), qy - py)
        crossing = px[triangle] + (y - py[triangle]) * slope[triangle]
        rising = rise[triangle]
        left = np.where(rising < 0, np.maximum(left, crossing), left)
        right = np.where(rising > 0, np.minimum(right, crossing), right)
    return left, right


def shadow(triangles: Floats, points: Floats, light: Floats, size: int = 128, bias: float = 0.04) -> Floats:
    """Return the share of light that reaches each point, in [0, 1], by a small softened shadow map.

    Args:
        triangles: Tx3x3 world coordinates of the triangles that cast shadows.
        points: Nx3 world coordinates.
        light: unit vector towards the light.
        size: side of the shadow map.
        bias: least distance in meters of a shaded point from the triangle that shades it.
    """
    helper = np.array([1, 0, 0] if abs(light[0]) < 0.7 else [0, 0, 1], np.float32)
    right = np.cross(light, helper)
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(light, right), light]).astype(np.float32)
    casters, targets = triangles @ frame.T, points @ frame.T
    low = casters[..., :2].reshape(-1, 2).min(0) - 0.05
    scale = np.float32(size / (casters[..., :2].reshape(-1, 2).max(0) - low + 0.05).max())
    winner, coefficients = rasterize((casters[..., :2] - low) * scale, casters[..., 2], size)
    column, row = ((targets[:, :2] - low) * scale).T
    lit = np.zeros(len(points), np.float32)
    taps = ((0.0, 0.0), (1.3, 0.4), (-0.4, 1.3), (-1.3, -0.4), (0.4, -1.3))
    for dx, dy in taps:
        x, y = (column + np.float32(dx)), (row + np.float32(dy))
        known = (x >= 0) & (x < size) & (y >= 0) & (y < size)
        i, j = np.where(known, x, 0).astype(np.int64), np.where(known, y, 0).astype(np.int64)
        over = winner[j, i]
        a, b, c = coefficients[over].T
        height = a * (i + np.float32(0.5)) + b * (j + np.float32(0.5)) + c
        lit += ~known | (over < 0) | (height - targets[:, 2] < bias)
    return (lit / len(taps)).astype(np.float32)
