"""Features: direction of an encoder's feature vector at each position of a map.

Convention: unit vectors of ``Convention.channels`` numbers in the space of one encoder, at the resolution of its tokens
or coarser maps; position (0, 0) is the top left part of the image. Lengths are not kept. Views move positions and keep
vectors; mirroring changes no vector. Unknown positions are ``valid == False``, never a zero vector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor

from clipzoo.errors import LabelError
from clipzoo.tasks import maps
from clipzoo.tasks.base import Additive, Convention, MapTask, Mark, Measure, Statistics, Target, require
from clipzoo.types import MAX_PIXELS, BoolArray, FloatArray, ImageArray, View

MAGIC = b"clipzoo features 1\n"

SHORTEST = 0.01
"""Averaged vectors shorter than this have no known direction."""

ANALYZED = 4096
"""Vectors of an image whose principal components are its colors; all of a picture of 360×480 would take 12 s."""

STEPS = 127
"""Codes of a channel are −127 to 127: its largest absolute value in the image is 127."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Unit ``vectors``, float32 [C,H,W], 0 where ``valid`` [H,W] is false."""

    vectors: FloatArray
    valid: BoolArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", maps.zero_unknown(self.vectors, self.valid))


class FeaturesMetric(Additive):
    """Cosine similarity of prediction and truth, the mean over all positions of the set where both are known.

    ``coverage`` is the share of known true positions with a prediction.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"cosine": Measure(range=(-1.0, 1.0)), "coverage": Measure()}
    over = "positions of the whole set"

    def statistics(self, prediction: Features, truth: Features) -> Statistics:
        """Return float64 [3]: sum of cosines, positions compared, positions with known truth."""
        maps.same_size(prediction.valid, truth.valid)
        both = prediction.valid & truth.valid
        p, t = (x.vectors[:, both].astype(np.float64) for x in (prediction, truth))
        return np.array([(p * t).sum(), both.sum(), truth.valid.sum()], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return the mean cosine in [−1, 1] and the coverage in [0, 1]; NaN without positions."""
        cosines, compared, known = map(float, total)
        mean = cosines / compared if compared else math.nan
        return {"cosine": mean, "coverage": compared / known if known else math.nan}


class _Facts(TypedDict):
    """The first line of a file after `MAGIC`."""

    channels: int
    height: int
    width: int
    holes: bool


class FeaturesTask(MapTask[Features]):
    """Unit vectors of an encoder, predicted by as many channels of any length."""

    name = "features"
    extension = "feat"
    head = "linear"
    title = "features of an encoder"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Features, convention: Convention) -> None:
        """Raise `LabelError` unless vectors are float32 [C,H,W] of length 1, with the channels of the convention."""
        require(
            convention.channels > 0,
            "the features have no stated number of channels; set Convention(channels=…) in the expert's card",
        )
        maps.check_map("features", label.vectors, label.valid, np.float32, channels=convention.channels)
        lengths = np.linalg.norm(label.vectors, axis=0)
        wrong = label.valid & ~(np.abs(lengths - 1) < 1e-3)  # written so that NaN is wrong
        require(
            not wrong.any(),
            f"{np.count_nonzero(wrong)} of {np.count_nonzero(label.valid)} known features are not of length 1, but of "
            f"length {lengths[wrong][:1]} and others; make them with clipzoo.tasks.features.unit()",
        )

    def encode(self, label: Features) -> bytes:
        """Encode as 8-bit codes with one scale per channel and image: C·H·W + 4·C bytes and a header.

        The validity adds a bit per position if anything is unknown. The codes are not compressed further: zlib saves
        less than a tenth of features, which look like noise.
        """
        C, H, W = label.vectors.shape
        scales = (np.abs(label.vectors).max((1, 2)) / STEPS).astype("<f4")
        steps = np.where(scales > 0, scales, 1)[:, None, None]
        codes = np.rint(label.vectors / steps).clip(-STEPS, STEPS).astype(np.int8)
        holes = not bool(label.valid.all())
        facts: _Facts = {"channels": C, "height": H, "width": W, "holes": holes}
        known = np.packbits(label.valid).tobytes() if holes else b""
        return b"".join([MAGIC, json.dumps(facts).encode(), b"\n", scales.tobytes(), codes.tobytes(), known])

    def decode(self, data: bytes) -> Features:
        """Decode a file written by `encode`, within its quantization."""
        facts, start = _facts(data)
        C, H, W = facts["channels"], facts["height"], facts["width"]
        known = -(-H * W // 8) if facts["holes"] else 0
        require(
            len(data) == start + 4 * C + C * H * W + known,
            f"the label of features is damaged: it has {len(data)} bytes, but its header states {C} channels of "
            f"{H}×{W}; label the image again",
        )
        scales = np.frombuffer(data, "<f4", C, start)
        codes = np.frombuffer(data, np.int8, C * H * W, start + 4 * C).reshape(C, H, W)
        valid = np.ones((H, W), np.bool_)
        if known:
            bits = np.frombuffer(data, np.uint8, known, len(data) - known)
            valid = np.unpackbits(bits, count=H * W).reshape(H, W).astype(np.bool_)
        require(
            bool(np.isfinite(scales).all()),
            "the label of features has scales that are not finite; label the image again",
        )
        return unit(codes * scales[:, None, None], valid)

    def valid_share(self, label: Features) -> float:
        """Return the share of positions with known features."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Features, view: View) -> Features:
        """Average known vectors and normalize them; a position is known if half of it was."""
        return unit(*maps.resample(label.vectors, label.valid, view))

    def hflip(self, label: Features) -> Features:
        """Mirror positions; vectors do not change."""
        return Features(maps.mirror(label.vectors), maps.mirror(label.valid))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """Return the number of channels of the encoder."""
        return convention.channels

    def collate(self, labels: Sequence[Features | None], size: tuple[int, int]) -> Target:
        """Return ``vectors`` float32 [B,C,H,W] and ``valid``; C is 1 if no image has a label."""
        known = next((label for label in labels if label is not None), None)
        channels = 1 if known is None else len(known.vectors)
        return {
            "vectors": maps.batch(labels, "vectors", (channels, *size), np.float32),
            "valid": maps.batch(labels, "valid", size, np.bool_),
        }

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Return 1 − cosine."""
        return ("angular",)

    def truth(self, target: Target, convention: Convention) -> Tensor:
        """Return unit vectors [B,C,H,W], or [B,1,H,W] if no image has a label."""
        return target["vectors"]

    def predict(self, raw: Tensor, convention: Convention) -> list[Features]:
        """Return normalized raw vectors; those without a direction have only a first component."""
        raw = raw.detach().float()
        length = raw.norm(dim=1, keepdim=True)
        first = torch.zeros_like(raw)
        first[:, 0] = 1
        vectors = torch.where(length > 1e-6, raw / length.clamp(min=1e-6), first)
        return [Features(one, np.ones(one.shape[1:], np.bool_)) for one in vectors.cpu().numpy()]

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> FeaturesMetric:
        """Return the metric of mean cosine similarity and coverage."""
        return FeaturesMetric()

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Return the vectors [B,C,H,W]; 0 where invalid."""
        vectors = target["vectors"].expand(-1, convention.channels, -1, -1)
        return torch.where(target["valid"][:, None], vectors, 0)

    def render(self, label: Features, convention: Convention) -> ImageArray:
        """Render the first three principal components of this image's vectors as red, green and blue.

        Each component spans from its smallest to its largest value. Colors of two images have no common meaning.
        """
        picture = np.zeros((*label.valid.shape, 3), np.uint8)
        if label.valid.any():
            picture[label.valid] = _principal_colors(label.vectors[:, label.valid].T)
        return picture

    def legend(self, label: Features, convention: Convention) -> list[Mark]:
        """Return the colors of the principal components."""
        colors = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
        return [Mark(f"principal component {number}", color) for number, color in enumerate(colors, 1)]


def unit(vectors: FloatArray, valid: BoolArray) -> Features:
    """Return vectors [C,H,W] of any length as features; those shorter than `SHORTEST`, or not finite, are unknown."""
    length = np.linalg.norm(vectors, axis=0)
    valid = valid & np.isfinite(length) & (length >= SHORTEST)
    with np.errstate(invalid="ignore"):  # unknown vectors may be infinite
        return Features((vectors / np.where(valid, length, 1)).astype(np.float32), valid)


def _facts(data: bytes) -> tuple[_Facts, int]:
    """Return the facts of a file, and the offset of its scales."""
    line, newline, _ = data[len(MAGIC) : len(MAGIC) + 200].partition(b"\n")
    try:
        facts = json.loads(line) if data.startswith(MAGIC) and newline else None
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not {"channels", "height", "width", "holes"} <= facts.keys():
        raise LabelError(
            f"cannot read the features ({len(data)} bytes, beginning {data[:8]!r}): the file has no header of a "
            "store's features; label the image again"
        )
    sides = [facts["channels"], facts["height"], facts["width"]]
    require(
        all(isinstance(side, int) and side > 0 for side in sides) and sides[1] * sides[2] <= MAX_PIXELS,
        f"the header of the features states {sides} channels, rows and columns; label the image again",
    )
    return {"channels": sides[0], "height": sides[1], "width": sides[2], "holes": bool(facts["holes"])}, len(
        MAGIC
    ) + len(line) + 1


def _principal_colors(vectors: FloatArray) -> ImageArray:
    """Return uint8 [N,3] of vectors [N,C]; the components are those of at most `ANALYZED` of them."""
    some = vectors[:: -(-len(vectors) // ANALYZED)].astype(np.float64)
    mean = some.mean(0)
    _, _, axes = np.linalg.svd(some - mean, full_matrices=False)
    axes = axes[:3]
    axes = axes * np.where(axes[np.arange(len(axes)), np.abs(axes).argmax(1)] < 0, -1, 1)[:, None]  # sign is free
    parts = vectors @ axes.T.astype(vectors.dtype) - mean @ axes.T
    low, high = parts.min(0), parts.max(0)
    colors = np.zeros((len(vectors), 3), np.uint8)
    colors[:, : len(axes)] = np.rint(255 * (parts - low) / np.where(high - low > 1e-9, high - low, 1))
    return colors


TASK = FeaturesTask()
