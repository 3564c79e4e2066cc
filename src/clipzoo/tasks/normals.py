"""Surface normals: direction of the visible surface at each pixel.

Convention: unit vectors (x, y, z) in the frame of the camera: x right, y up, z toward the viewer. A wall facing the
camera is (0, 0, 1), a floor (0, 1, 0). Crops and resizes keep that camera's frame; mirroring negates x. Unknown pixels
are ``valid == False``, never a zero vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipzoo.tasks import levels, maps, png
from clipzoo.tasks.base import Additive, Convention, MapTask, Mark, Measure, Metric, Statistics, Target, require
from clipzoo.tasks.depth import Depth
from clipzoo.types import BoolArray, Camera, FloatArray, ImageArray, View

SHORTEST = 0.01
"""Averaged vectors shorter than this have no known direction."""

BOUNDS = (11.25, 22.5, 30)
"""Degrees of the shares of small angles."""

ZERO = np.float32(127)
"""Code of 0; codes are 0 (−1) to 254 (+1)."""

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
    "Data-Driven 3D Primitives for Single Image Understanding", ICCV 2013); ``coverage`` is the share of
    known true pixels with a prediction, which shows omitted pixels.
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "mean_angle": Measure("lower", "°", (0.0, 180.0)),
        "within_11": Measure(),
        "within_22": Measure(),
        "within_30": Measure(),
        "coverage": Measure(),
    }
    over = "pixels of the whole set"

    def statistics(self, prediction: Normals, truth: Normals) -> Statistics:
        """Return float64 [6]: sum of angles, pixels below each bound, pixels compared, pixels with known truth."""
        angles = _angles(prediction, truth)
        within = [np.count_nonzero(angles < bound) for bound in BOUNDS]
        return np.array([angles.sum(), *within, angles.size, truth.valid.sum()], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return means over all valid pixels of the sum ``total``: degrees and shares in [0, 1]; NaN without pixels."""
        *sums, compared, known = map(float, total)
        means = [x / compared if compared else math.nan for x in sums]
        return dict(zip(self.measures, [*means, compared / known if known else math.nan], strict=True))


class ImagesMetric(Additive):
    """Angles of each image, averaged over images, as Probe3D reports them (arXiv 2404.08636): ``rmse`` in degrees is
    √mean angle², and the shares are those of `NormalsMetric`."""

    measures: ClassVar[Mapping[str, Measure]] = {
        "rmse": Measure("lower", "°", (0.0, 180.0)),
        "within_11": Measure(),
        "within_22": Measure(),
        "within_30": Measure(),
    }
    over = "images"

    def statistics(self, prediction: Normals, truth: Normals) -> Statistics:
        """Return float64 [5]: the measures of one image, and 1 if any pixel is compared."""
        angles = _angles(prediction, truth)
        if not angles.size:
            return np.zeros(5)
        within = [np.mean(angles < bound) for bound in BOUNDS]
        return np.array([np.sqrt(np.mean(angles**2)), *within, 1], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return means over the images of the sum ``total``; NaN without images."""
        *sums, count = map(float, total)
        return dict(zip(self.measures, [x / count if count else math.nan for x in sums], strict=True))


def _angles(prediction: Normals, truth: Normals) -> NDArray[np.float64]:
    """Return the angles in degrees where both normals are known, float64 [N]."""
    maps.same_size(prediction.valid, truth.valid)
    both = prediction.valid & truth.valid
    p, t = (x.vectors[:, both].astype(np.float64) for x in (prediction, truth))
    chords = np.linalg.norm(p - t, axis=0)  # the arc cosine is inaccurate near 0, where good predictions are
    return np.asarray(2 * np.degrees(np.arcsin(np.clip(chords / 2, 0, 1))))


class NormalsTask(MapTask[Normals]):
    """Unit vectors, predicted by three channels of any length."""

    name = "normals"
    title = "surface normals"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Normals, convention: Convention) -> None:
        """Raise `LabelError` unless vectors are float32 [3,H,W] of length 1."""
        maps.check_map("normals", label.vectors, label.valid, np.float32, channels=3)
        lengths = np.linalg.norm(label.vectors, axis=0)  # of all pixels: selecting the known ones takes longer
        wrong = label.valid & ~(np.abs(lengths - 1) < 1e-3)  # written so that NaN is wrong
        require(
            not wrong.any(),
            f"{np.count_nonzero(wrong)} of {np.count_nonzero(label.valid)} known normals are not of length 1, but of "
            f"length {lengths[wrong][:1]} and others; normalize them, or mark them as invalid",
        )

    def encode(self, label: Normals) -> bytes:
        """Encode as RGB PNG, 127 + 127 n per channel, black where unknown; the angular error is at most 0.4°.

        0 is exact, mirroring is x → 254 − x, and image viewers can display the label. Octahedral codes of 2 × 8 bits
        would save a quarter of the bytes, but have an error of 0.95°, or 0.64° with a search.
        """
        return self.encode_as(label, png.DEFAULT)

    def encode_as(self, label: Normals, codec: str) -> bytes:
        """Encode as `encode` does, by a codec of `png.CODECS`."""

        def smaller(view: View) -> NDArray[np.uint8]:
            return _codes(_unit(*maps.resample(label.vectors, label.valid, view, Image.Resampling.BOX)))

        return levels.write(_codes(label), self.name, {}, 6, codec, 4, smaller)

    def decode(self, data: bytes) -> Normals:
        """Decode a file written by `encode`, within its quantization."""
        codes, _ = png.read(data, self.name, ("RGB",))
        planes = _planes(codes)
        return Normals(_vectors(planes), np.asarray(planes.any(0)))

    def read(self, data: bytes, view: View) -> Normals:
        """Return `view` of `decode`; of a level, the direction of the mean of its codes, rounded to 8 bits."""
        codes, _, level = levels.read(data, self.name, ("RGB",), view)
        if level:
            return _of_level(codes, view)
        planes = _planes(codes)
        seen = _unit(*maps.resample_codes(planes, np.asarray(planes.any(0)), view, _vectors))
        return self.hflip(seen) if view.flip else seen

    def valid_share(self, label: Normals) -> float:
        """Return the share of pixels with a known normal."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Normals, view: View) -> Normals:
        """Average known vectors and normalize them; a pixel is known if half of it was."""
        return _unit(*maps.resample(label.vectors, label.valid, view))

    def hflip(self, label: Normals) -> Normals:
        """Mirror the vectors and negate x."""
        mirrored = maps.mirror(label.vectors) * np.array([-1, 1, 1], np.float32)[:, None, None]
        return Normals(mirrored, maps.mirror(label.valid))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """Return 3: x, y, z, of any length."""
        return 3

    def collate(self, labels: Sequence[Normals | None], size: tuple[int, int]) -> Target:
        """Return ``vectors`` float32 [B,3,H,W] and ``valid``."""
        return {
            "vectors": maps.batch(labels, "vectors", (3, *size), np.float32),
            "valid": maps.batch(labels, "valid", size, np.bool_),
        }

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Return 1 − cosine, and the angle weighted by a learned confidence."""
        return ("angular", "angmf")

    def truth(self, target: Target, convention: Convention) -> Tensor:
        """Return unit vectors [B,3,H,W]."""
        return target["vectors"]

    def predict(self, raw: Tensor, convention: Convention) -> list[Normals]:
        """Return normalized raw vectors; those without a direction face the viewer."""
        raw = raw.detach().float()
        length = raw.norm(dim=1, keepdim=True)
        viewer = raw.new_tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
        unit = torch.where(length > 1e-6, raw / length.clamp(min=1e-6), viewer)
        return [Normals(one, np.ones(one.shape[1:], np.bool_)) for one in unit.cpu().numpy()]

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> NormalsMetric:
        """Return the metric of mean angle, shares within 11.25°, 22.5° and 30°, and coverage."""
        return NormalsMetric()

    def metrics(self, convention: Convention) -> Mapping[str, Metric]:
        """Return ``images``, the measures of Probe3D."""
        return {"images": ImagesMetric()}

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Return the vectors [B,3,H,W]; 0 where invalid."""
        return torch.where(target["valid"][:, None], target["vectors"], 0)

    def render(self, label: Normals, convention: Convention) -> ImageArray:
        """Render (n + 1) / 2 as RGB."""
        colors = np.asarray(np.rint(127.5 * (np.moveaxis(label.vectors, 0, -1) + 1)), np.uint8)
        return colors * label.valid[..., None]

    def legend(self, label: Normals, convention: Convention) -> list[Mark]:
        """Return the colors of surfaces that face right, up, and the viewer."""
        return [Mark("right", (255, 128, 128)), Mark("up", (128, 255, 128)), Mark("toward the viewer", (128, 128, 255))]


def _codes(label: Normals) -> NDArray[np.uint8]:
    codes = np.asarray(ZERO + np.rint(ZERO * np.moveaxis(label.vectors, 0, -1)), np.uint8)
    return codes * label.valid[..., None]


def _planes(codes: png.Codes) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.moveaxis(codes, -1, 0), np.uint8)


def _vectors(planes: NDArray[np.uint8]) -> FloatArray:
    """Return the unit vectors [3,H,W] of codes [3,H,W]; any value where these are unknown."""
    vectors = DECODED[planes]
    length = np.sqrt(np.square(vectors).sum(0))
    require(
        bool((np.abs(length[planes.any(0)] - 1) < 0.01).all()),
        "the PNG's normals are not of length 1: its pixels were changed; label the image again",
    )
    return np.asarray(vectors / np.maximum(length, SHORTEST), np.float32)


def _unit(vectors: FloatArray, valid: BoolArray) -> Normals:
    """Return vectors of any length as normals; those without a direction are unknown."""
    length = np.sqrt(np.square(vectors).sum(0))  # the bits of np.linalg.norm in a third of the time
    return Normals(vectors / np.maximum(length, SHORTEST), valid & (length >= SHORTEST))


def _of_level(codes: png.Codes, view: View) -> Normals:
    """Return the normals of codes [H,W,3], 0 where unknown, under a view."""
    known = (codes[..., 0] | codes[..., 1] | codes[..., 2]) > 0
    sums = np.moveaxis(_resized(codes, view), -1, 0).astype(np.float32, order="C")
    if known.all():
        sums -= ZERO
        valid = np.ones(view.size, np.bool_)
    else:
        share = _resized(known * np.uint8(255), view) / np.float32(255)
        sums -= ZERO * share
        valid = share >= maps.KNOWN_SHARE
    if view.flip:
        sums[0] *= -1
        sums, valid = sums[..., ::-1], valid[:, ::-1]
    return _unit(sums / ZERO, valid)


def _resized(codes: png.Codes, view: View) -> NDArray[np.uint8]:
    """Resample codes [H,W] or [H,W,3] as bytes, bilinear with antialiasing."""
    (H, W), (height, width) = codes.shape[:2], view.size
    picture = Image.fromarray(codes)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=view.box((H, W))))


def normals_from_depth(depth: Depth, camera: Camera, bend: float = 0.05) -> Normals:
    """Return the normals of the surface of a metric depth map.

    Normals are cross products of central differences of the visible points, which is exact on planes. Inverse depth is
    linear over the image of a plane; where its second difference exceeds ``bend`` times its value, neighbors are on
    different surfaces and the normal is unknown. It is also unknown at the border (so everywhere in maps smaller than
    3×3) and next to unknown depth. At the crease of a corner, the normal is that of a cut across it.

    Args:
        depth: metric, along z or ray.
        camera: the camera of the depth map; for a view's label, ``view.camera(camera)``.
        bend: relative threshold, see above.

    Raises:
        LabelError: the depth is not metric.
    """
    require(
        depth.kind == "metric" and depth.along is not None,
        f"normals cannot be computed from {depth.kind} along {depth.along}: they need metric depth, because an unknown "
        "shift bends planes; use a column of metric depth",
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
    """Return points [3,H,W] in meters, in the frame of normals; (0, 0, −1) m where unknown."""
    H, W = depth.valid.shape
    x = ((np.arange(W) + 0.5) / W - camera.cx) / camera.fx
    y = (camera.cy - (np.arange(H) + 0.5) / H) / camera.fy
    rays = np.stack([*np.meshgrid(x, y), np.full((H, W), -1.0)])
    values = np.where(depth.valid, depth.values, 1.0)
    return rays * (values / np.linalg.norm(rays, axis=0) if depth.along == "ray" else values)


def _smooth(depth: Depth, z: NDArray[np.float64], bend: float) -> BoolArray:
    """Return bool [H−2,W−2], true where a pixel and its four neighbors are known and on one surface."""
    v, inverse = depth.valid, 1 / z
    known = v[1:-1, 1:-1] & v[1:-1, 2:] & v[1:-1, :-2] & v[2:, 1:-1] & v[:-2, 1:-1]
    center = inverse[1:-1, 1:-1]
    across = np.abs(inverse[1:-1, 2:] + inverse[1:-1, :-2] - 2 * center)
    down = np.abs(inverse[2:, 1:-1] + inverse[:-2, 1:-1] - 2 * center)
    return np.asarray(known & (np.maximum(across, down) < bend * center))


TASK = NormalsTask()
