"""A depth map as a surface in space: binary glTF with the picture as its texture."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzoo.errors import LabelError
from clipzoo.tasks.depth import Depth
from clipzoo.types import BoolArray, FloatArray, ImageArray

SIDE = 192
"""Vertices along the longer side."""

GAP = 1.12
"""Largest ratio of the depths of neighbors that are connected."""

NARROW, WIDE, USUAL = 20.0, 120.0, 60.0
"""Smallest, largest and assumed angle of view of the longer side, in degrees."""

NEAR, FAR = 1.0, 3.0
"""Depths of the nearest and the farthest point where the scale is unknown."""

SHARE = 0.5
"""Percent of the nearest and of the farthest pixels that are moved to the depth of the next ones."""

FLOATS, INTEGERS = 5126, 5125
VERTICES, TRIANGLES = 34962, 34963
"""Constants of glTF: float32 and uint32, buffers of vertices and of indices."""


def glb(image: ImageArray, depth: Depth, degrees: float = USUAL) -> bytes:
    """Return the surface that a depth map describes as a binary glTF 2.0 file, in meters for metric depth.

    The x axis points right, y up, and the camera looks along −z from (0, 0, median depth), so the origin is in the
    middle of the scene.

    Args:
        image: the texture, uint8 H×W×3 of any size.
        depth: of the same picture, of any size.
        degrees: the angle of view of the picture's longer side, clipped to 20–120.

    Raises:
        LabelError: no three neighboring pixels are known and at similar depths.
    """
    points, known = positions(depth, min(max(degrees, NARROW), WIDE))
    triangles = _triangles(-points[..., 2], known)
    if not len(triangles):
        raise LabelError("the depth map has no connected surface, so there is nothing to show; try another picture")
    height, width = known.shape
    points[..., 2] += np.median(-points[..., 2][known])
    across, down = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    texture = io.BytesIO()
    Image.fromarray(image).save(texture, "JPEG", quality=90)
    return _file(points.reshape(-1, 3), np.stack([across, down], -1).reshape(-1, 2), triangles, texture.getvalue())


def positions(depth: Depth, degrees: float) -> tuple[FloatArray, BoolArray]:
    """Return the points of a grid of at most `SIDE` × `SIDE` pixels, float32 [h,w,3], and which of them are known.

    x points right, y up, z toward the viewer; the camera is at the origin.
    """
    H, W = depth.values.shape
    shrink = min(1.0, SIDE / max(H, W))
    rows, columns = (((np.arange(n) + 0.5) / n * full).astype(int) for n, full in
                     ((max(1, round(H * shrink)), H), (max(1, round(W * shrink)), W)))  # fmt: skip
    grid = np.ix_(rows, columns)
    known = depth.valid[grid] & np.isfinite(depth.values[grid])
    focal = max(H, W) / 2 / math.tan(math.radians(degrees) / 2)
    x, y = np.meshgrid((columns + 0.5 - W / 2) / focal, (H / 2 - rows - 0.5) / focal)
    rays = np.stack([x, y, -np.ones_like(x)], -1)
    if depth.along == "ray":
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return (rays * _meters(depth, grid, known)[..., None]).astype(np.float32), known


def _meters(depth: Depth, grid: tuple[NDArray[np.integer], ...], known: BoolArray) -> NDArray[np.float64]:
    """Return positive depths; values without a scale are moved to `NEAR`–`FAR`."""
    values = np.where(known, depth.values[grid], 1.0).astype(np.float64)
    if not known.any():
        return values
    low, high = np.percentile(values[known], (SHARE, 100 - SHARE))
    values = np.clip(values, low, high)
    if depth.kind == "metric":
        return values
    share = (values - low) / ((high - low) or 1.0)
    if depth.kind == "affine-disparity":
        return np.asarray(1 / (1 / FAR + share * (1 / NEAR - 1 / FAR)))
    return np.asarray(NEAR + share * (FAR - NEAR))


def _triangles(depth: NDArray[np.floating], known: BoolArray) -> NDArray[np.uint32]:
    """Return indices [N,3], counterclockwise for the camera, of neighbors without a gap between them."""
    number = np.arange(depth.size, dtype=np.uint32).reshape(depth.shape)
    corners = (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:])
    a, b, c, d = (corner.reshape(-1) for corner in corners)
    both = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    depths = depth.reshape(-1)[both]
    connected = (depths.max(-1) <= GAP * depths.min(-1)) & known.reshape(-1)[both].all(-1)
    return np.asarray(both[connected])


def _file(points: FloatArray, across: NDArray[np.floating], triangles: NDArray[np.uint32], texture: bytes) -> bytes:
    """Return a glTF file of one mesh, with a material that needs no light; see the specification of glTF 2.0, § 4."""
    parts = [points.astype("<f4").tobytes(), across.astype("<f4").tobytes(), triangles.astype("<u4").tobytes(), texture]
    starts = np.cumsum([0, *(len(_padded(part)) for part in parts)])
    views: list[dict[str, int]] = [
        {"buffer": 0, "byteOffset": int(start), "byteLength": len(part)}
        for start, part in zip(starts, parts, strict=False)
    ]
    for view, target in zip(views, (VERTICES, VERTICES, TRIANGLES), strict=False):
        view["target"] = target
    low, high = points.min(0).tolist(), points.max(0).tolist()
    surface = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}
    scene = {
        "asset": {"version": "2.0", "generator": "clipzoo"},
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "meshes": [{"primitives": [surface]}],
        "materials": [{
            "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1},
            "doubleSided": True, "extensions": {"KHR_materials_unlit": {}},
        }],
        "textures": [{"source": 0}], "images": [{"bufferView": 3, "mimeType": "image/jpeg"}],
        "extensionsUsed": ["KHR_materials_unlit"],
        "accessors": [
            {"bufferView": 0, "componentType": FLOATS, "count": len(points), "type": "VEC3", "min": low, "max": high},
            {"bufferView": 1, "componentType": FLOATS, "count": len(across), "type": "VEC2"},
            {"bufferView": 2, "componentType": INTEGERS, "count": triangles.size, "type": "SCALAR"},
        ],
        "bufferViews": views, "buffers": [{"byteLength": int(starts[-1])}],
    }  # fmt: skip
    text = _padded(json.dumps(scene).encode(), b" ")
    return _chunks([(b"JSON", text), (b"BIN\0", b"".join(map(_padded, parts)))])


def _chunks(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(struct.pack("<I4s", len(data), kind) + data for kind, data in chunks)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def _padded(data: bytes, fill: bytes = b"\0") -> bytes:
    return data + fill * (-len(data) % 4)
