"""Edges: probability of an edge at each pixel.

Convention: probabilities in [0, 1]. The definition of an edge (outlines of objects, creases, marks) is that of the
expert or annotator. Unknown pixels are ``valid == False``, never 0. A pixel of a view takes the largest probability of
the pixels under it, because averaging would remove lines that are thinner than a pixel. So lines stay one pixel wide at
full strength at any size, and fill a larger share of smaller maps. Mirroring moves values without changing them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.tasks import levels, maps, png
from clipzoo.tasks.base import Additive, Convention, MapTask, Mark, Measure, Metric, Statistics, Target, require
from clipzoo.tasks.maps import S
from clipzoo.types import BoolArray, FloatArray, ImageArray, View

STEPS = np.float32(254)
"""Codes are 1 (probability 0) to 255 (probability 1); 0 is unknown."""

CERTAIN = 5.0
"""Largest logit of the oracle, at probabilities of 0.7 % and 99.3 %: finite, so that a probe can regress on it."""

THRESHOLDS = (1 / (1 + np.exp(-np.linspace(-CERTAIN, CERTAIN, 101)))).astype(np.float32)
"""Thresholds of predictions, including 0.5; evenly spaced as logits, which probes predict."""

TOLERANCE = 0.0075
"""Maximum distance of matching edges as a fraction of the diagonal; at least one pixel."""

RING = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
"""Steps (down, right) to a pixel and its eight neighbors."""


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Probabilities ``values``, float32 [H,W] in [0, 1], 0 where ``valid`` [H,W] is false."""

    values: FloatArray
    valid: BoolArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", maps.zero_unknown(self.values, self.valid))


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedEdges(Edges):
    """Edges of several annotators, ``annotators`` bool [A,H,W], whose mean is ``values``.

    Only `metrics` use the annotators: a view or a file of such a label has the mean alone.
    """

    annotators: BoolArray

    @classmethod
    def of(cls, annotators: BoolArray) -> AnnotatedEdges:
        """Return the label of maps [A,H,W]."""
        return cls(annotators.mean(0, dtype=np.float32), np.ones(annotators.shape[1:], np.bool_), annotators)


class EdgesMetric(Additive):
    """Precision and recall of thinned edges over the whole set, at `THRESHOLDS` (the protocol of BSDS500).

    Martin, Fowlkes and Malik, "Learning to Detect Natural Image Boundaries Using Local Brightness, Color, and
    Texture Cues" (PAMI 2004); Arbeláez et al., "Contour Detection and Hierarchical Image Segmentation" (PAMI 2011).
    Maps are thinned by `thin`; true edges have a probability of at least 0.5. Precision is the share of predicted edge
    pixels with a true one within `TOLERANCE`, recall the share of true ones with a predicted one. ``ap`` is the area
    under the best precision at each recall or more, ``ods`` the best F-measure at one threshold for all images.

    Matching is by dilation. BSDS500's code matches pixels one to one, so that only one line of a double line matches;
    here both do. Scores are never lower than with that code (5 to 11 points higher on maps of 40×50 in our tests, in
    the same order) and are comparable only with each other. `metrics` has that code's protocol.

    NaN if the truth has no edge. Pixels with unknown truth are excluded; a pixel without a prediction has no edge.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"ap": Measure(), "ods": Measure()}
    over = "edge pixels of the whole set"

    def statistics(self, prediction: Edges, truth: Edges) -> Statistics:
        """Return float64 [3T+1] pixel counts: predicted, correct, recalled at each of T thresholds; all true ones."""
        maps.same_size(prediction.valid, truth.valid)
        true = thin(truth.values) >= 0.5
        lines = thin(np.where(truth.valid, prediction.values, np.float32(0)))
        reach = max(1.0, TOLERANCE * math.hypot(*true.shape))
        near_true, near_lines = _spread(true, reach), _spread(lines, reach)
        counts = [_at_thresholds(pixels) for pixels in (lines, lines[near_true], near_lines[true])]
        return np.append(np.concatenate(counts), np.count_nonzero(true)).astype(np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return ``ap`` and ``ods``, in [0, 1]."""
        predicted, correct, recalled = total[:-1].reshape(3, -1)[:, ::-1]  # the highest threshold first
        if not total[-1]:
            return {"ap": math.nan, "ods": math.nan}
        precision, recall = correct / np.maximum(predicted, 1), recalled / total[-1]
        best = np.maximum.accumulate(precision[::-1])[::-1]
        both = np.maximum(precision + recall, 1e-12)
        return {
            "ap": float((best * np.diff(recall, prepend=0)).sum()),
            "ods": float((2 * precision * recall / both).max()),
        }


class EdgesTask(MapTask[Edges]):
    """Edge probabilities, predicted by one logit."""

    name = "edges"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Edges, convention: Convention) -> None:
        """Raise `LabelError` unless values are float32 [H,W] in [0, 1]."""
        maps.check_map("edge probabilities", label.values, label.valid, np.float32)
        known = label.values[label.valid]
        wrong = ~((known >= 0) & (known <= 1))  # written so that NaN is wrong
        require(
            not wrong.any(),
            f"{np.count_nonzero(wrong)} of {known.size} known edge probabilities are not in [0, 1], such as "
            f"{known[wrong][:1]}; give the sigmoid of logits, divide 8-bit maps by 255, or mark them as invalid",
        )

    def encode(self, label: Edges) -> bytes:
        """Encode as 8-bit PNG, 1 + 254 p, 0 where unknown; the error of p is at most 0.2 %, and 0 and 1 are exact."""
        return self.encode_as(label, png.DEFAULT)

    def encode_as(self, label: Edges, codec: str) -> bytes:
        """Encode as `encode` does, by a codec of `png.CODECS`."""
        codes = np.where(label.valid, 1 + np.rint(STEPS * label.values), 0).astype(np.uint8)
        return levels.write(codes, self.name, {}, 6, codec, 2, lambda view: _largest(codes, view))

    def decode(self, data: bytes) -> Edges:
        """Decode a file written by `encode`, within its quantization."""
        codes, _ = png.read(data, self.name, ("L",))
        return _of(codes)

    def read(self, data: bytes, view: View) -> Edges:
        """Return `view` of `decode`; of a level, the border of what is under a pixel moves by up to a level pixel."""
        codes, _, _ = levels.read(data, self.name, ("L",), view)
        seen = _largest(codes, view)
        return _of(maps.mirror(seen) if view.flip else seen)

    def valid_share(self, label: Edges) -> float:
        """Return the share of pixels with a known probability."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Edges, view: View) -> Edges:
        """Take the largest known probability under each pixel; a pixel is known if half of it was."""
        return Edges(*maps.largest(label.values, label.valid, view))

    def hflip(self, label: Edges) -> Edges:
        """Mirror values and validity."""
        return Edges(maps.mirror(label.values), maps.mirror(label.valid))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """Return 1: the logit of an edge."""
        return 1

    def collate(self, labels: Sequence[Edges | None], size: tuple[int, int]) -> Target:
        """Return ``values`` float32 [B,H,W] and ``valid``."""
        return {
            "values": maps.batch(labels, "values", size, np.float32),
            "valid": maps.batch(labels, "valid", size, np.bool_),
        }

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Return class-balanced cross-entropy, ``balanced``."""
        return ("balanced",)

    def truth(self, target: Target, convention: Convention) -> Tensor:
        """Return probabilities [B,H,W]."""
        return target["values"]

    def predict(self, raw: Tensor, convention: Convention) -> list[Edges]:
        """Return probabilities in [0, 1], the sigmoid of logits [B,1,H,W]."""
        values = raw.detach().squeeze(1).float().sigmoid().cpu().numpy()
        return [Edges(one, np.ones(one.shape, np.bool_)) for one in values]

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> EdgesMetric:
        """Return the metric of average precision and best F-measure of thinned edges."""
        return EdgesMetric()

    def metrics(self, convention: Convention) -> Mapping[str, Metric]:
        """Return ``bsds``, the metric of BSDS500 with several annotators and pixels matched one to one."""
        from clipzoo.tasks._metrics.contours import BsdsMetric

        return {"bsds": BsdsMetric()}

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Return logits between -`CERTAIN` and `CERTAIN`, [B,1,H,W]; 0 where invalid.

        Least squares on two values gives their conditional mean, which increases with the probability of an edge: a
        ridge probe ranks pixels like a logistic one, and ``ap`` depends only on the ranking.
        """
        values = torch.where(target["valid"], target["values"], 0.5)[:, None]
        return values.logit().clamp(-CERTAIN, CERTAIN)

    def render(self, label: Edges, convention: Convention) -> ImageArray:
        """Render edges white on dark gray."""
        gray = np.rint(48 + 207 * label.values).astype(np.uint8) * label.valid
        return np.repeat(gray[..., None], 3, axis=2)

    def legend(self, label: Edges, convention: Convention) -> list[Mark]:
        """Return the colors of probability 1 and 0."""
        return [Mark("edge", (255, 255, 255)), Mark("no edge", (48, 48, 48))]


def thin(values: FloatArray) -> FloatArray:
    """Return ``values`` >= 0 [H,W] where they are at least as large as both neighbors across the line, else 0.

    Non-maximum suppression as in Canny, "A Computational Approach to Edge Detection" (PAMI 1986): neighbors are
    interpolated at a distance of one pixel. On a line the gradient is zero, so the direction across it is that of the
    largest change around the pixel: the first axis of the structure tensor over 3×3 pixels. Equal neighbors are all
    kept, so a binary line keeps its width. Pixels outside the map and unknown pixels count as 0.
    """
    values = np.pad(values, 1)  # the border counts as a neighbor, too
    _, up, _, left, _, right, _, down, _ = _moved(values, RING)
    dx, dy = right - left, down - up
    xx, yy, xy = (sum(_moved(product, RING)) for product in (dx * dx, dy * dy, dx * dy))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    sides = [_between(values, np.cos(sign), np.sin(sign)) for sign in (angle, angle + np.pi)]
    return np.where(values * (1 + 1e-5) >= np.maximum(*sides), values, np.float32(0))[1:-1, 1:-1]


def _between(values: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return ``values`` at the offset (x, y) in [-1, 1] right and down from each pixel, bilinear."""
    return np.asarray(
        sum(
            np.maximum(0, 1 - np.abs(x - dx)) * np.maximum(0, 1 - np.abs(y - dy)) * moved
            for (dy, dx), moved in zip(RING, _moved(values, RING), strict=True)
        )
    )


def _moved(values: NDArray[S], steps: Sequence[tuple[int, int]]) -> Iterator[NDArray[S]]:
    """Yield, for each step (down, right), the neighbors of all pixels at that step; 0 outside."""
    H, W = values.shape
    reach = int(np.abs(steps).max())
    padded = np.pad(values, reach)
    for dy, dx in steps:
        yield padded[reach + dy : reach + dy + H, reach + dx : reach + dx + W]


def _spread(values: NDArray[S], reach: float) -> NDArray[S]:
    """Return the largest of ``values`` >= 0 within ``reach`` pixels of each pixel."""
    side = range(-math.floor(reach), math.floor(reach) + 1)
    return reduce(np.maximum, _moved(values, [(dy, dx) for dy in side for dx in side if math.hypot(dy, dx) <= reach]))


def _at_thresholds(values: FloatArray) -> NDArray[np.intp]:
    """Return the number of ``values`` at or above each threshold, [T]."""
    reached = np.bincount(np.searchsorted(THRESHOLDS, values.ravel(), "right"), minlength=len(THRESHOLDS) + 1)
    return reached[::-1].cumsum()[-2::-1]


def _of(codes: png.Codes) -> Edges:
    return Edges((codes.astype(np.float32) - 1) / STEPS, codes > 0)


def _largest(codes: png.Codes, view: View) -> NDArray[np.uint8]:
    """Return `maps.largest` of codes, which have the order of probabilities; 0 where unknown."""
    most, known = maps.largest(codes, codes > 0, view)
    return np.asarray(most * known, np.uint8)


TASK = EdgesTask()
