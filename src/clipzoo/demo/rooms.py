"""The embedded world: rooms with real CC0 furniture, drawn from a seed, with the truth of every pixel.

``render(seed, split)`` is a pure function. Conventions of the truth: depth in meters along the
camera's axis (``z``); normals are unit vectors in the camera's frame, x right, y up, z toward the
viewer; class ids index ``classes()``; instance 0 is the room and 1 the focus object. Edges are outlines,
occlusions and creases of shapes, one pixel wide, on the nearer surface; shadows and patterns have none.
Truth is sampled at pixel centers; the picture is the average of four samples per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipzoo.demo.captions import caption
from clipzoo.demo.layout import Camera, Floats, Layout, Rig, layout
from clipzoo.demo.meshes import classes, meshes, names
from clipzoo.demo.rasterize import extremes, rasterize, shadow
from clipzoo.demo.surfaces import CEILING, FLOOR

SPLITS = ("pretraining", "captioned", "experts", "probe", "validation", "test", "heldout")
NEAR = 0.05
TRIPOD = Rig(lens=(54.0, 60.0), height=(0.65, 0.9), slack=0.2, room=8.0)
FREE_HAND = Rig(lens=(36.0, 78.0))
"""Any lens at any height makes metric depth ambiguous: such pictures train the start only."""
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
JUMP, CREASE = 0.1, np.radians(50)
"""An edge is where inverse depth deviates from linear by this share, or normals differ by this angle (radians)."""


@dataclass(frozen=True)
class Scene:
    """One picture with its truth."""

    image: Bytes  # HWC RGB
    depth: Floats  # HxW, meters along z
    normals: Floats  # 3xHxW, unit, x right, y up, z toward the viewer
    segmentation: Bytes  # HxW, ids of ``classes()``
    instances: Bytes  # HxW, 0 the room, 1 the focus object, then the others
    edges: Bools  # HxW
    boxes: Floats  # Nx4 xyxy in pixels, of the visible instances
    box_classes: Ints  # N, ids of ``classes()``
    name: str  # zero-shot name of the focus object
    names: tuple[str, ...]  # of all objects, the focus first
    held_out: bool
    caption: str
    intrinsics: tuple[float, float, float, float]  # fx, fy, cx, cy in pixels
    field_of_view: float  # degrees


def render(seed: int, split: str, size: int = 96) -> Scene:
    """Render picture ``seed`` of ``split``, ``size``×``size`` pixels."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    held_out, plain_look = split == "heldout", split == "experts"
    plan = layout(rng, held_out, plain_look, FREE_HAND if split == "pretraining" else TRIPOD)
    focus, *others = [meshes()[o.mesh].name for o in plan.objects]
    text = caption(focus, others, names(), np.random.default_rng([SPLITS.index(split), seed, 1]))
    fine = _trace(plan, 2 * size)
    color = _shade(plan, fine).reshape(size, 2, size, 2, 3).mean((1, 3))
    image = _develop(color, plain_look, rng)
    focal = size / 2 / np.tan(np.radians(plan.camera.field_of_view) / 2)
    depth, normals, segmentation, instances = _truth(plan, fine, size)
    boxes, box_classes = _boxes(instances, segmentation)
    return Scene(
        image=image,
        depth=depth,
        normals=normals,
        segmentation=segmentation,
        instances=instances,
        edges=_edges(depth, normals, instances.astype(np.int64) << 8 | segmentation),
        boxes=boxes,
        box_classes=box_classes,
        name=focus,
        names=(focus, *others),
        held_out=held_out,
        caption=text,
        intrinsics=(float(focal), float(focal), size / 2, size / 2),
        field_of_view=plan.camera.field_of_view,
    )


@dataclass(frozen=True)
class Traced:
    """The surface that each sample of a picture shows, before lighting."""

    triangle: Ints  # N, -1 where the room is visible
    face: Ints  # N, the face of the room at the sample
    depth: Floats  # N
    points: Floats  # Nx3, world
    owner: Ints  # of each triangle, the object's number
    corners: Floats  # Tx3x3, world
    colors: Floats  # Tx3
    across: Floats  # Tx3, world normals of the triangles, towards the camera
    inverse_depth: Floats  # Tx3, plane coefficients on a screen of ``size``×``size`` samples
    size: int


def _rays(camera: Camera, size: int) -> Floats:
    """Return Nx3 world directions through the sample centers, of length 1 along the camera's axis."""
    tangent = np.tan(np.radians(camera.field_of_view) / 2)
    steps = ((np.arange(size) + 0.5) * 2 / size - 1) * tangent
    x, y = np.meshgrid(steps, -steps)
    local = np.stack([x.ravel(), y.ravel(), -np.ones(size * size)], 1).astype(np.float32)
    return local @ camera.axes


def _room(plan: Layout, rays: Floats) -> tuple[Ints, Floats]:
    """Return the face of the room that each ray hits (N), and its depth (N)."""
    safe = np.where(np.abs(rays) < 1e-9, np.float32(1e-9), rays)
    bound = np.where(safe > 0, plan.high, plan.low)
    leave = (bound - plan.camera.position) / safe
    x, y, z = leave.T
    axis = np.where(y < np.minimum(x, z), 1, np.where(x < z, 0, 2))
    take = axis[:, None]
    beyond = np.take_along_axis(safe, take, 1)[:, 0] > 0
    depth: Floats = np.take_along_axis(leave, take, 1)[:, 0].astype(np.float32)
    return 2 * axis + beyond, depth


def _trace(plan: Layout, size: int) -> Traced:
    """Return the visible surface of every sample."""
    camera = plan.camera
    corners = np.concatenate([o.corners for o in plan.objects])
    colors = np.concatenate([o.colors for o in plan.objects])
    owner = np.repeat(np.arange(len(plan.objects)), [len(o.corners) for o in plan.objects])
    local = (corners - camera.position) @ camera.axes.T
    ahead = extremes(-local[..., 2])[0] > NEAR
    corners, colors, owner, local = corners[ahead], colors[ahead], owner[ahead], local[ahead]
    focal = size / 2 / np.tan(np.radians(camera.field_of_view) / 2)
    nearness = (-1 / local[..., 2]).astype(np.float32)
    screen = local[..., :2] * nearness[..., None] * np.array([focal, -focal]) + size / 2
    winner, inverse = rasterize(screen.astype(np.float32), nearness, size)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-12
    away = ((corners[:, 0] - camera.position) * across).sum(1) > 0
    across[away] *= -1
    rays = _rays(camera, size)
    face, depth = _room(plan, rays)
    triangle = winner.ravel()
    hit = np.flatnonzero(triangle >= 0)
    a, b, c = inverse[triangle[hit]].T
    row, column = np.divmod(hit, size)
    object_depth = 1 / np.maximum(a * (column + 0.5) + b * (row + 0.5) + c, 1e-3)
    depth[hit] = object_depth
    points = camera.position + rays * depth[:, None]
    return Traced(triangle, face, depth, points.astype(np.float32), owner, corners, colors, across, inverse, size)


INWARD = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)


def _paint(plan: Layout, traced: Traced) -> tuple[Floats, Floats]:
    """Return albedo (Nx3) and emitted light (N) of every sample."""
    color = np.empty((len(traced.triangle), 3), np.float32)
    glow = np.zeros(len(traced.triangle), np.float32)
    hit = traced.triangle >= 0
    color[hit] = traced.colors[traced.triangle[hit]]
    bare = np.flatnonzero(~hit)
    face, point = traced.face[bare], traced.points[bare]
    u = np.where(face < 2, point[:, 2], point[:, 0])
    v = np.where((face == FLOOR) | (face == CEILING), point[:, 2], point[:, 1])
    room = np.empty((len(bare), 3), np.float32)
    shine = np.zeros(len(bare), np.float32)
    kinds = np.where(face == FLOOR, 0, np.where(face == CEILING, 2, 1))
    for kind, pattern in enumerate(plan.surfaces):
        chosen = kinds == kind
        if chosen.any():
            room[chosen] = pattern.albedo(u[chosen], v[chosen])
    for decal in plan.decals:
        decal.paint(room, shine, face, u, v)
    color[bare], glow[bare] = room, shine
    return color, glow


def _shade(plan: Layout, traced: Traced) -> Floats:
    """Return the lit color of every sample, Nx3, linear: side light with shadows, ambient light, dark corners."""
    light = plan.light
    color, glow = _paint(plan, traced)
    normal = INWARD[traced.face]
    hit = traced.triangle >= 0
    normal[hit] = traced.across[traced.triangle[hit]]
    lambert = np.maximum(normal @ light.towards, 0)
    if light.shadows and len(traced.corners):
        facing = np.flatnonzero(lambert > 0)
        lambert[facing] *= shadow(traced.corners, traced.points[facing], light.towards)
    gap = np.minimum(traced.points - plan.low, plan.high - traced.points)
    least, greatest = extremes(gap)
    second = gap @ np.ones(3, np.float32) - least - greatest
    corner = 1 - 0.35 * np.exp(-np.maximum(second, 0) / 0.25)
    sky = (0.8 + 0.2 * normal[:, 1]) * np.where(hit, 1, corner)
    if light.shadows:
        low = np.flatnonzero(~hit & (traced.points[:, 1] < 0.5))
        x, y, z = traced.points[low].T
        for thing in plan.objects:
            flat = (x - thing.center[0]) ** 2 + (z - thing.center[2]) ** 2
            sky[low] *= 1 - 0.45 * np.exp(-flat / (0.6 * thing.radius) ** 2 - np.maximum(y, 0) * 5)
    frontal = 0.12 * np.abs(normal @ plan.camera.axes[2])
    lit = light.ambient * (sky + frontal)[:, None] + light.color * lambert[:, None]
    shaded: Floats = color * np.maximum(lit, glow[:, None])
    return shaded


def _develop(color: Floats, plain_look: bool, rng: np.random.Generator) -> Bytes:
    """Return the noisy 8-bit picture of linear colors."""
    exposure = rng.uniform(0.9, 1.3)
    curve = rng.uniform(0.8, 1.1)
    tint = rng.normal(1, 0.03, 3)
    noise = rng.normal(0, rng.uniform(2, 8) if plain_look else rng.uniform(0.5, 5), color.shape)
    developed = 255 * np.clip(color * exposure * tint, 0, 1) ** curve + noise
    return np.clip(np.round(developed), 0, 255).astype(np.uint8)


def _truth(plan: Layout, traced: Traced, size: int) -> tuple[Floats, Floats, Bytes, Bytes]:
    """Return depth, normals, classes and instances at pixel centers.

    The surface is that of one sample of the pixel; its plane is evaluated at the center.
    """
    coarse = np.arange(traced.size**2).reshape(traced.size, traced.size)[1::2, 1::2].ravel()
    triangle, face = traced.triangle[coarse], traced.face[coarse]
    rays = _rays(plan.camera, size)
    axis = face // 2
    bound = np.where(face % 2 == 1, plan.high[axis], plan.low[axis]) - plan.camera.position[axis]
    along = np.take_along_axis(rays, axis[:, None], 1)[:, 0]
    depth = bound / np.where(np.abs(along) < 1e-9, 1e-9, along)
    hit = np.flatnonzero(triangle >= 0)
    row, column = np.divmod(hit, size)
    a, b, c = traced.inverse_depth[triangle[hit]].T
    depth[hit] = 1 / np.maximum(a * (2 * column + 1) + b * (2 * row + 1) + c, 1e-6)
    rough = traced.depth[coarse]
    depth = np.clip(depth, 0.7 * rough, 1.4 * rough)  # at an edge, the plane of a grazing surface may be far off
    normal = INWARD[face]
    normal[hit] = traced.across[triangle[hit]]
    ids = np.array([classes().index(meshes()[o.mesh].group) for o in plan.objects])
    segmentation = np.where(face == FLOOR, 0, np.where(face == CEILING, 2, 1)).astype(np.uint8)
    segmentation[hit] = ids[traced.owner[triangle[hit]]]
    instances = np.zeros(size * size, np.uint8)
    instances[hit] = traced.owner[triangle[hit]] + 1
    local = np.ascontiguousarray((normal @ plan.camera.axes.T).T)
    shape = (size, size)
    return (
        depth.reshape(shape).astype(np.float32),
        local.reshape(3, *shape).astype(np.float32),
        segmentation.reshape(shape),
        instances.reshape(shape),
    )


def _edges(depth: Floats, normals: Floats, things: Ints) -> Bools:
    """Return HxW: True for the nearer of two neighboring pixels that show different objects or surfaces."""
    return _horizontal(depth, normals, things) | _horizontal(depth.T, normals.swapaxes(1, 2), things.T).T


def _horizontal(depth: Floats, normals: Floats, things: Ints) -> Bools:
    """As `_edges`, for neighbors left and right. Inverse depth is linear along the image of a plane."""
    nearness = 1 / depth
    steps = np.pad(np.diff(nearness), ((0, 0), (1, 1)), constant_values=np.inf)
    bend = np.abs(np.diff(steps))
    jump = np.minimum(bend[:, 1:], bend[:, :-1]) > JUMP * np.minimum(nearness[:, 1:], nearness[:, :-1])
    crease = (normals[..., 1:] * normals[..., :-1]).sum(0) < np.cos(CREASE)
    differ = jump | crease | (things[:, 1:] != things[:, :-1])
    left_is_nearer = depth[:, :-1] <= depth[:, 1:]
    out = np.zeros(depth.shape, np.bool_)
    out[:, :-1] |= differ & left_is_nearer
    out[:, 1:] |= differ & ~left_is_nearer
    return out


def _boxes(instances: Bytes, segmentation: Bytes) -> tuple[Floats, Ints]:
    """Return boxes (Nx4, xyxy) and classes (N) of the instances with at least 8 visible pixels."""
    boxes, kinds = [], []
    for number in range(1, int(instances.max()) + 1):
        rows, columns = np.nonzero(instances == number)
        if len(rows) >= 8:
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            kinds.append(int(segmentation[rows[0], columns[0]]))
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(kinds, np.int64)
