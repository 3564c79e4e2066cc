"""Surface normals: which way the surface seen at each pixel faces.

Convention: unit vectors (x, y, z) in the frame of the camera that took the picture: x right, y up, z toward
the viewer, so that a wall seen head-on is (0, 0, 1) and a floor (0, 1, 0). A crop or resize leaves them in
that camera's frame; mirroring the scene negates x. Unknown is ``valid == False``, never a zero vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.tasks import maps, png
from clipzoo.tasks.base import Additive, Convention, Measure, Statistics, Target, Task, require
from clipzoo.tasks.depth import Depth
from clipzoo.types import BoolArray, Camera, FloatArray, ImageArray, View

SHORTEST = 0.01
"""Averaged vectors shorter than this cancel each other out: no direction is known."""

ZERO = np.float32(127)
"""The code of 0; codes run from 0 (−1) to 254 (+1)."""

DECODED = (np.arange(256, dtype=np.float32) - ZERO) / ZERO
"""Code -> value."""


@dataclass(frozen=True, slots=True, eq=False)
class Normals:
    """Unit ``vectors``, float32 [3,H,W], 0 where ``valid`` [H,W] is false."""

    vectors: FloatArray
    valid: BoolArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", maps.zero_unknown(self.vectors, self.valid))


class NormalsMetric(Additive):
    """Angles between prediction and truth, over all pixels of the set where both are known.

    ``mean_angle`` in degrees and the shares below 11.25°, 22.5° and 30° (Fouhey, Gupta and Hebert,
    "Data-Driven 3D Primitives for Single Image Understanding", ICCV 2013); ``coverage`` is the share of the
    truth that was predicted at all, so that leaving hard pixels out shows.
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "mean_angle": Measure("lower", "°"),
        "within_11": Measure(),
        "within_22": Measure(),
        "within_30": Measure(),
        "coverage": Measure(),
    }
    over = "pixels of the whole set"

    def statistics(self, prediction: Normals, truth: Normals) -> Statistics:
        """Float64 [6]: sum of angles, pixels below each bound, pixels compared, pixels of known truth."""
        maps.same_size(prediction.valid, truth.valid)
        both = prediction.valid & truth.valid
        p, t = (x.vectors[:, both].astype(np.float64) for x in (prediction, truth))
        chords = np.linalg.norm(p - t, axis=0)  # the arc cosine is blunt at 0, where good predictions are
        angles = 2 * np.degrees(np.arcsin(np.clip(chords / 2, 0, 1)))
        within = [np.count_nonzero(angles < bound) for bound in (11.25, 22.5, 30)]
        return np.array([angles.sum(), *within, both.sum(), truth.valid.sum()], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Means over all valid pixels of the sum ``total``: angles in degrees, shares in [0, 1]; NaN where none was."""
        *sums, compared, known = map(float, total)
        means = [x / compared if compared else math.nan for x in sums]
        return dict(zip(self.measures, [*means, compared / known if known else math.nan], strict=True))


class NormalsTask(Task[Normals]):
    """Unit vectors; three channels of any length; 1 − cosine; mean angle."""

    name = "normals"
    title = "surface normals"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Normals, convention: Convention) -> None:
        """Raise `LabelError` unless vectors are float32 [3,H,W] of length 1."""
        maps.check_map("normals", label.vectors, label.valid, np.float32, channels=3)
        lengths = np.linalg.norm(label.vectors[:, label.valid], axis=0)
        wrong = ~(np.abs(lengths - 1) < 1e-3)  # so that NaN is wrong, too
        require(
            not wrong.any(),
            f"{np.count_nonzero(wrong)} of {wrong.size} known normals are not of length 1, but of length "
            f"{lengths[wrong][:1]} and others; normalize them, or mark them as invalid",
        )

    def encode(self, label: Normals) -> bytes:
        """RGB PNG, 127 + 127 n a channel, black where unknown; the angle errs by at most 0.4°.

        So 0 is exact, mirroring is x → 254 − x, and any viewer shows the label. Octahedral codes of 2 × 8
        bits would save a quarter of the bytes, but err by 0.95°, or 0.64° with a search.
        """
        codes = np.asarray(ZERO + np.rint(ZERO * np.moveaxis(label.vectors, 0, -1)), np.uint8)
        return png.write(codes * label.valid[..., None], self.name, {}, level=6)

    def decode(self, data: bytes) -> Normals:
        """The inverse of `encode`, within its quantization."""
        codes, _ = png.read(data, self.name, ("RGB",))
        planes = np.ascontiguousarray(np.moveaxis(codes, -1, 0))
        vectors = DECODED[planes]
        length, valid = np.sqrt(np.square(vectors).sum(0)), np.asarray(planes.any(0))
        require(
            bool((np.abs(length[valid] - 1) < 0.01).all()),
            "the normals of a PNG are not of length 1: something changed its pixels; label the image again",
        )
        return Normals(vectors / np.maximum(length, SHORTEST), valid)

    def valid_share(self, label: Normals) -> float:
        """The share of pixels whose normal is known."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Normals, view: View) -> Normals:
        """Known vectors averaged and brought back to length 1; known where half of a pixel was."""
        vectors, valid = maps.resample(label.vectors, label.valid, view)
        length = np.linalg.norm(vectors, axis=0)
        return Normals(vectors / np.maximum(length, SHORTEST), valid & (length >= SHORTEST))

    def hflip(self, label: Normals) -> Normals:
        """Left and right exchanged, and x negated."""
        mirrored = maps.mirror(label.vectors) * np.array([-1, 1, 1], np.float32)[:, None, None]
        return Normals(mirrored, maps.mirror(label.valid))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """Three: x, y, z, of any length."""
        return 3

    def collate(self, labels: Sequence[Normals | None], size: tuple[int, int]) -> Target:
        """``vectors`` float32 [B,3,H,W] and ``valid``."""
        return {
            "vectors": maps.batch(labels, "vectors", (3, *size), np.float32),
            "valid": maps.batch(labels, "valid", size, np.bool_),
        }

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """1 − cosine, or the angle weighted by a learned confidence."""
        return ("angular", "angmf")

    def loss(
        self, raw: Tensor, target: Target, convention: Convention, name: str | None = None, **options: Any
    ) -> Tensor:
        """The loss of vectors [B,3,H,W]; ``angmf`` reads a fourth channel."""
        return self.criterion(convention, name)(raw, target["vectors"], target["valid"], **options)

    def predict(self, raw: Tensor, convention: Convention) -> list[Normals]:
        """Raw vectors brought to length 1; one too short to have a direction faces the viewer."""
        raw = raw.detach().float()
        length = raw.norm(dim=1, keepdim=True)
        viewer = raw.new_tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
        unit = torch.where(length > 1e-6, raw / length.clamp(min=1e-6), viewer)
        return [Normals(one, np.ones(one.shape[1:], np.bool_)) for one in unit.cpu().numpy()]

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> NormalsMetric:
        """Mean angle, shares within 11.25°, 22.5° and 30°, coverage."""
        return NormalsMetric()

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """The vectors, [B,3,H,W]; 0 where invalid."""
        return torch.where(target["valid"][:, None], target["vectors"], 0)

    def render(self, label: Normals, convention: Convention) -> ImageArray:
        """(n + 1) / 2 as RGB."""
        colors = np.asarray(np.rint(127.5 * (np.moveaxis(label.vectors, 0, -1) + 1)), np.uint8)
        return colors * label.valid[..., None]


def normals_from_depth(depth: Depth, camera: Camera, bend: float = 0.05) -> Normals:
    """Normals of the surface that a metric depth map shows.

    The cross product of the central differences of the points seen, which is exact on planes. Inverse depth
    is linear over the picture of a plane; where its second difference exceeds ``bend`` of itself, the
    neighbors lie on different surfaces and the normal is unknown, as it is on the border, which is all of a
    map of less than 3×3, and beside unknown depth. On the crease of a corner it is that of a cut across.

    Args:
        depth: metric, along z or ray.
        camera: that of the depth map: of a view's label, ``view.camera(camera)``.
        bend: see above, relative.

    Raises:
        LabelError: the depth is not metric.
    """
    require(
        depth.kind == "metric" and depth.along is not None,
        f"normals need metric depth, not {depth.kind} along {depth.along}: an unknown shift bends "
        "planes; use a column of metric depth",
    )
    if min(depth.valid.shape) < 3:
        return Normals(np.zeros((3, *depth.valid.shape), np.float32), np.zeros(depth.valid.shape, np.bool_))
    points = _points(depth, camera)
    across, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    vectors = np.cross(down, across, axis=0)  # x right and y up give z toward the viewer
    length = np.linalg.norm(vectors, axis=0)
    valid = _smooth(depth, -points[2], bend) & (length > 0)
    pad = ((1, 1), (1, 1))
    unit = np.pad(vectors / np.where(valid, length, 1), ((0, 0), *pad))
    return Normals(unit.astype(np.float32), np.pad(valid, pad))


def _points(depth: Depth, camera: Camera) -> NDArray[np.float64]:
    """Points [3,H,W] in meters, in the frame of normals; (0, 0, −1) · 1 m where unknown."""
    H, W = depth.valid.shape
    x = ((np.arange(W) + 0.5) / W - camera.cx) / camera.fx
    y = (camera.cy - (np.arange(H) + 0.5) / H) / camera.fy
    rays = np.stack([*np.meshgrid(x, y), np.full((H, W), -1.0)])
    values = np.where(depth.valid, depth.values, 1.0)
    return rays * (values / np.linalg.norm(rays, axis=0) if depth.along == "ray" else values)


def _smooth(depth: Depth, z: NDArray[np.float64], bend: float) -> BoolArray:
    """[H−2,W−2], where a pixel and its four neighbors are known and lie on one surface."""
    v, near = depth.valid, 1 / z
    known = v[1:-1, 1:-1] & v[1:-1, 2:] & v[1:-1, :-2] & v[2:, 1:-1] & v[:-2, 1:-1]
    center = near[1:-1, 1:-1]
    across = np.abs(near[1:-1, 2:] + near[1:-1, :-2] - 2 * center)
    down = np.abs(near[2:, 1:-1] + near[:-2, 1:-1] - 2 * center)
    return np.asarray(known & (np.maximum(across, down) < bend * center))


TASK = NormalsTask()
