"""Depth: distance of the visible surface at each pixel.

Convention: ``kind`` defines the values: ``metric`` is meters, larger than 0; ``affine-depth`` is a + b · depth and
``affine-disparity`` a + b / depth, with an unknown a and an unknown b > 0 per image. Affine values may be ≤ 0; larger
disparity is nearer. ``along`` defines the direction of depth: ``z`` is the optical axis, ``ray`` the line of sight; it
is None only for affine kinds where it is unknown. Unknown pixels (sky, holes, no return) are ``valid == False``, never
0 or infinity. Mirroring moves values without changing them.

A random resized crop keeps its label's meters, but looks as if taken with a longer lens or from a shorter distance:
its scale is ambiguous. The default losses tolerate that. ``silog`` weights a common factor of an image's depth by
√(1 − λ) = 39 % of its logarithm (0 with ``loss_options: {lam: 1}``); ``ssi`` and ``ssi_gradient`` ignore an image's
scale and shift. ``berhu`` tolerates no factor and needs views of one zoom, ``training.scale: [1, 1]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipzoo.errors import LabelError
from clipzoo.tasks import levels, maps, png
from clipzoo.tasks.base import Additive, Convention, MapTask, Mark, Measure, Statistics, Target, require
from clipzoo.types import BoolArray, FloatArray, ImageArray, View

Kind = Literal["metric", "affine-depth", "affine-disparity"]
Along = Literal["z", "ray"]
Doubles = NDArray[np.float64]

MODES = ("I;16", "I")

STEPS = 65534
"""Codes are 1 to 65535; 0 is unknown."""

SCALE = 5
"""Colors of the legend."""

NEAREST, FARTHEST = 1e-3, 1e4
"""Range of metric predictions in meters."""


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """Float32 ``values`` [H,W], 0 where ``valid`` [H,W] is false, of a ``kind`` and ``along`` a direction."""

    values: FloatArray
    valid: BoolArray
    kind: Kind
    along: Along | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", maps.zero_unknown(self.values, self.valid))


class DepthMetric(Additive):
    """Standard measures per image, averaged over images (Eigen et al. 2014, arXiv 1406.2283).

    ``delta1`` is the share of pixels with max(p/t, t/p) < 1.25, ``absrel`` the mean of |p − t| / t, ``rmse``
    √mean (p − t)². They are computed where truth and prediction are both known; ``coverage`` is the share of known true
    pixels with a prediction, which shows omitted pixels.

    A prediction of an affine kind is first fitted to the truth, by least squares with a scale ≥ 0 and a shift per
    image: to metric truth in the space of the prediction (1/depth for disparity), with ``rmse`` in meters; to truth of
    its own kind after normalization to [1, 2], since ratios need positive values, with ``rmse`` in that unit.
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "delta1": Measure(),
        "absrel": Measure("lower", range=(0.0, math.inf)),
        "rmse": Measure("lower", "m", (0.0, math.inf)),
        "coverage": Measure(),
    }
    over = "images"

    def statistics(self, prediction: Depth, truth: Depth) -> Statistics:
        """Return float64 [6]: δ1, absrel, rmse, 1 if these are defined; coverage, 1 if any truth is known."""
        maps.same_size(prediction.valid, truth.valid)
        both = truth.valid & prediction.valid
        if not both.any():
            return np.array([0, 0, 0, 0, 0, float(truth.valid.any())])
        p, t = _comparable(prediction, truth, both)
        delta1 = np.mean(np.maximum(p / t, t / p) < 1.25)
        absrel, rmse = np.mean(np.abs(p - t) / t), np.sqrt(np.mean((p - t) ** 2))
        return np.array([delta1, absrel, rmse, 1, both.sum() / truth.valid.sum(), 1], np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return means over the images of the sum ``total``; NaN where no pixel was valid."""
        delta1, absrel, rmse, scored, coverage, known = map(float, total)
        means = [x / scored if scored else math.nan for x in (delta1, absrel, rmse)]
        return dict(zip(self.measures, [*means, coverage / known if known else math.nan], strict=True))


def _comparable(prediction: Depth, truth: Depth, both: BoolArray) -> tuple[Doubles, Doubles]:
    """Return prediction and truth [N] where ``both`` are known, positive and in one unit."""
    require(
        truth.kind in ("metric", prediction.kind),
        f"{prediction.kind} predictions cannot be compared with {truth.kind} truth; use metric truth or "
        f"{prediction.kind} truth",
    )
    require(
        prediction.along == truth.along or None in (prediction.along, truth.along),
        f"depth along {prediction.along} cannot be compared with depth along {truth.along}; convert one of them",
    )
    p, t = prediction.values[both].astype(np.float64), truth.values[both].astype(np.float64)
    if prediction.kind == "metric":
        return np.maximum(p, NEAREST), t
    if truth.kind != "metric":
        t = 1 + (t - t.min()) / (np.ptp(t) or 1.0)
    elif prediction.kind == "affine-disparity":
        return 1 / _fit(p, 1 / t), t
    return _fit(p, t), t


def _fit(p: Doubles, t: Doubles) -> Doubles:
    """Fit a + b·p to ``t`` > 0 with b ≥ 0, clipped to [0.5 min t, 2 max t]."""
    p = p - p.mean()
    scale = max(float(p @ (t - t.mean())), 0.0) / max(float(p @ p), 1e-30)
    return np.asarray(np.clip(t.mean() + scale * p, 0.5 * t.min(), 2 * t.max()))


class DepthTask(MapTask[Depth]):
    """Depth of any kind, predicted by one channel: log meters or the affine value."""

    name = "depth"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Depth, convention: Convention) -> None:
        """Raise `LabelError` unless values are float32 [H,W] of the convention's kind, finite and in range."""
        maps.check_map("depth values", label.values, label.valid, np.float32)
        kind = _kind(convention)
        require(
            (label.kind, label.along) == (kind, convention.along),
            f"the label is {label.kind} depth along {label.along}, but its column is {kind} along {convention.along}; "
            "convert the label or correct the column's convention",
        )
        known = label.values[label.valid]
        wrong = np.count_nonzero(~np.isfinite(known))
        require(
            wrong == 0,
            f"{wrong} of {known.size} known depth values are not finite; mark them as invalid",
        )
        low = float(known.min(initial=np.inf))
        require(
            kind != "metric" or low > 0,
            f"metric depth of {low:g} m is not larger than 0; mark such pixels as invalid",
        )

    def encode(self, label: Depth) -> bytes:
        """Encode as 16-bit PNG between the label's smallest and largest value; code 0 is unknown.

        Metric depth is stored logarithmically, with a relative error of at most ln(high / low) / 131,068
        (0.004 % over 0.5–80 m); affine kinds linearly, with an error of at most (high − low) / 131,068.
        """
        return self.encode_as(label, png.DEFAULT)

    def encode_as(self, label: Depth, codec: str) -> bytes:
        """Encode as `encode` does, by a codec of `png.CODECS`."""
        known = label.values[label.valid]
        low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
        log = label.kind == "metric"
        require(
            math.isfinite(low) and math.isfinite(high) and (low > 0 or not log),
            f"known {label.kind} depth ranges from {low:g} to {high:g}; it must be finite, and metric depth "
            "positive: mark other pixels as invalid",
        )
        transform = "log" if log else "linear"
        facts = {
            "kind": label.kind,
            "along": label.along,
            "transform": transform,
            "low": low,
            "high": high,
        }

        def codes(label: Depth) -> NDArray[np.uint16]:
            share = _share(np.where(label.valid, label.values, low), low, high, log)
            return np.where(label.valid, 1 + np.rint(STEPS * share), 0).astype(np.uint16)

        def smaller(view: View) -> NDArray[np.uint16]:
            values, valid = maps.resample(label.values[None], label.valid, view, Image.Resampling.BOX)
            return codes(replace(label, values=values[0], valid=valid))

        return levels.write(codes(label), self.name, facts, 1, codec, 4, smaller)

    def decode(self, data: bytes) -> Depth:
        """Decode a file written by `encode`, within its quantization."""
        codes, facts = png.read(data, self.name, MODES)
        return self._of(_converter(facts)(codes), codes > 0, facts)

    def read(self, data: bytes, view: View) -> Depth:
        """Return `view` of `decode`; of a level, means of its means."""
        codes, facts, level = levels.read(data, self.name, MODES, view)
        convert = _converter(facts, np.float32 if level else np.float64)
        values, valid = maps.resample_codes(codes, codes > 0, view, lambda part: convert(part)[None])
        seen = self._of(values[0], valid, facts)
        return self.hflip(seen) if view.flip else seen

    def _of(self, values: FloatArray, valid: BoolArray, facts: Mapping[str, object]) -> Depth:
        return Depth(values, valid, cast(Kind, facts["kind"]), cast(Along | None, facts["along"]))

    def valid_share(self, label: Depth) -> float:
        """Return the share of pixels with known depth."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Depth, view: View) -> Depth:
        """Average known values; a pixel is known if half of it was."""
        values, valid = maps.resample(label.values[None], label.valid, view)
        return replace(label, values=values[0], valid=valid)

    def hflip(self, label: Depth) -> Depth:
        """Mirror values and validity."""
        return replace(label, values=maps.mirror(label.values), valid=maps.mirror(label.valid))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """Return 1: the depth, or for metric depth its logarithm."""
        return 1

    def collate(self, labels: Sequence[Depth | None], size: tuple[int, int]) -> Target:
        """Return ``values`` float32 [B,H,W] and ``valid``."""
        return {
            "values": maps.batch(labels, "values", size, np.float32),
            "valid": maps.batch(labels, "valid", size, np.bool_),
        }

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Return SILog and berHu for metric depth, scale- and shift-invariant losses for affine kinds."""
        return ("silog", "berhu") if _kind(convention) == "metric" else ("ssi", "ssi_gradient")

    def truth(self, target: Target, convention: Convention) -> Tensor:
        """Return log meters or affine values, [B,1,H,W]; 0 where invalid."""
        return self.oracle(target, convention)

    def predict(self, raw: Tensor, convention: Convention) -> list[Depth]:
        """Return meters between 1 mm and 10 km, or affine values."""
        kind = _kind(convention)
        values = raw.detach().squeeze(1).float()
        if kind == "metric":
            values = values.clamp(math.log(NEAREST), math.log(FARTHEST)).exp()
        return [Depth(v, np.ones(v.shape, np.bool_), kind, convention.along) for v in values.cpu().numpy()]

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> DepthMetric:
        """Return the metric of δ1, absrel, rmse and coverage."""
        return DepthMetric()

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Return log meters or affine values, [B,1,H,W]; 0 where invalid."""
        metric = _kind(convention) == "metric"
        values = torch.where(target["valid"], target["values"], 1.0 if metric else 0.0)[:, None]
        return values.clamp(NEAREST, FARTHEST).log() if metric else values

    def render(self, label: Depth, convention: Convention) -> ImageArray:
        """Render near red and far blue, from the 2nd to the 98th percentile; metric depth logarithmically."""
        low, high = _range(label)
        values = np.clip(np.where(label.valid, label.values, low), low, high)
        share = _share(values, low, high, label.kind == "metric")
        return turbo(share if label.kind == "affine-disparity" else 1 - share) * label.valid[..., None]

    def legend(self, label: Depth, convention: Convention) -> list[Mark]:
        """Return a scale of `SCALE` colors from near to far, with meters for metric depth."""
        shares = np.linspace(0, 1, SCALE)
        low, high = _range(label)
        texts = ["near", *[""] * (SCALE - 2), "far"]
        if label.kind == "metric":
            texts = [f"{low * (high / low) ** share:.2g} m" for share in shares]
        return [Mark.of(text, color) for text, color in zip(texts, turbo(1 - shares), strict=True)]


def _range(label: Depth) -> tuple[float, float]:
    """Return the 2nd and the 98th percentile of known values; (1, 1) if there are none."""
    low, high = np.percentile(label.values[label.valid], (2, 98)) if label.valid.any() else (1.0, 1.0)
    return float(low), float(high)


def _kind(convention: Convention) -> Kind:
    if convention.kind is None:
        raise LabelError("the convention does not state the kind of depth; set it, for example kind='metric'")
    require(
        convention.kind != "metric" or convention.along is not None,
        "the convention does not state the direction of metric depth; set along='z' or along='ray'",
    )
    return convention.kind


def _share(values: NDArray[np.floating], low: float, high: float, log: bool) -> Doubles:
    """Return the position of ``values`` between ``low`` and ``high``, in [0, 1]; 0 if these are equal."""
    if log:
        values, low, high = np.log(values.astype(np.float64)), math.log(low), math.log(high)
    return (values.astype(np.float64) - low) / ((high - low) or 1.0)


def _converter(
    facts: Mapping[str, object], precision: type[np.floating] = np.float64
) -> Callable[[png.Codes], FloatArray]:
    """Return the function from codes to float32 values of a file with this metadata."""
    low, high, log = _transform(facts)

    def convert(codes: png.Codes) -> FloatArray:
        share = (codes.astype(precision) - 1) / STEPS
        values = low * np.exp(share * math.log(high / low)) if log else low + share * (high - low)
        return np.clip(values, low, high).astype(np.float32)

    return convert


def _transform(facts: Mapping[str, Any]) -> tuple[float, float, bool]:
    """Return (low, high, logarithmic) of a file's metadata."""
    kind, along, low, high = (facts.get(name) for name in ("kind", "along", "low", "high"))
    log = facts.get("transform") == "log"
    sound = (
        kind in get_args(Kind)
        and along in (*get_args(Along), None)
        and facts.get("transform") in ("log", "linear")
        and isinstance(low, float)
        and isinstance(high, float)
        and low <= high < math.inf
        and low > (0 if log else -math.inf)
    )
    require(sound, f"the depth PNG has invalid metadata {facts}: it was not written by encode(); label the image again")
    return float(low or 0), float(high or 0), log


def turbo(share: NDArray[np.floating]) -> ImageArray:
    """Return colors uint8 [...,3] of values in [0, 1], blue to red, without the nearly black end.

    The polynomial of Mikhailov, "Turbo, An Improved Rainbow Colormap for Visualization" (2019, Apache-2.0).
    """
    powers = (0.05 + 0.95 * np.clip(share, 0, 1))[..., None] ** np.arange(6)
    coefficients = [
        [0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943],
        [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604],
        [0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973],
    ]
    return np.asarray(np.rint(255 * np.clip(powers @ np.transpose(coefficients), 0, 1)), np.uint8)


TASK = DepthTask()
