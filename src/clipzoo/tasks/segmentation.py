"""Semantic segmentation: class of a label space at each pixel.

Convention: ids start at 0 in the order of ``Convention.classes``; background is a class if the label space has one.
Unknown pixels (void, ignored, unlabeled) are ``valid == False`` and have no id; only files use the codes 255 and 65535
for them. Ids are never interpolated: a view takes the pixel under each output pixel's center.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.tasks import levels, maps, png
from clipzoo.tasks.base import Additive, Convention, MapTask, Mark, Measure, Statistics, Target, require
from clipzoo.types import BoolArray, ImageArray, View

MODES = ("L", "I;16", "I")

MAX_CLASSES = 65535
"""Ids are uint16, and the largest is the code of void in files."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Class ids, uint16 [H,W], 0 where ``valid`` [H,W] is false; ``confidence`` in [0, 1] of the whole label."""

    ids: NDArray[np.uint16]
    valid: BoolArray
    confidence: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", maps.zero_unknown(self.ids, self.valid))


class SegmentationMetric(Additive):
    """Measures of the whole set's confusion matrix, over pixels with known truth.

    ``miou`` is the mean intersection over union of the classes that occur in the truth. If every class occurs, it
    equals torchmetrics' ``MulticlassJaccardIndex``, not a mean over images. ``accuracy`` is the share of correct
    pixels. A pixel without a prediction is wrong.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"miou": Measure(), "accuracy": Measure()}
    over = "pixels of the whole set"

    def __init__(self, count: int) -> None:
        self.count = count

    def statistics(self, prediction: Segmentation, truth: Segmentation) -> Statistics:
        """Return float64 [3K] pixel counts per class: intersection, union, and truth."""
        maps.same_size(prediction.valid, truth.valid)
        K = self.count
        top = max(int(prediction.ids.max(initial=0)), int(truth.ids.max(initial=0)))
        require(
            top < K, f"class id {top} is outside of the label space of {K} classes; compare labels of one label space"
        )
        true = truth.ids[truth.valid].astype(np.int64)
        guess = np.where(prediction.valid, prediction.ids, K)[truth.valid].astype(np.int64)
        hits, trues, guesses = (np.bincount(x, minlength=K + 1)[:K] for x in (true[true == guess], true, guess))
        return np.concatenate([hits, trues + guesses - hits, trues]).astype(np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """Return ``miou`` and ``accuracy``, in [0, 1]."""
        hits, union, trues = total.reshape(3, self.count)
        present = trues > 0
        if not present.any():
            return {"miou": float("nan"), "accuracy": float("nan")}
        return {
            "miou": float((hits[present] / union[present]).mean()),
            "accuracy": float(hits.sum() / trues.sum()),
        }


class SegmentationTask(MapTask[Segmentation]):
    """Class ids, predicted by K logits."""

    name = "segmentation"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Segmentation, convention: Convention) -> None:
        """Raise `LabelError` unless ids are uint16 [H,W] of the label space, and confidence is in [0, 1]."""
        K = self.channels(convention)
        maps.check_map("segmentation ids", label.ids, label.valid, np.uint16)
        top = int(label.ids.max())
        require(
            top < K,
            f"class id {top} is outside of the label space of {K} classes, whose ids are 0 to {K - 1}; mark void as "
            "invalid, or give the convention all class names",
        )
        require(
            label.confidence is None or 0 <= label.confidence <= 1,
            f"confidence {label.confidence} is not in [0, 1]; give a number in [0, 1], or None",
        )

    def encode(self, label: Segmentation) -> bytes:
        """Encode as lossless PNG: 8 bits if all ids are below 255, else 16 bits."""
        return self.encode_as(label, png.DEFAULT)

    def encode_as(self, label: Segmentation, codec: str) -> bytes:
        """Encode as `encode` does, by a codec of `png.CODECS`."""
        top = int(label.ids.max(initial=0))
        require(
            top < MAX_CLASSES,
            f"class id {top} is the code of void in files; the largest id is {MAX_CLASSES - 1}: remove classes",
        )
        dtype: type[np.unsignedinteger] = np.uint8 if top < 255 else np.uint16
        void = int(np.iinfo(dtype).max)
        codes = np.where(label.valid, label.ids, void).astype(dtype)
        facts: dict[str, object] = {"void": void}
        if label.confidence is not None:
            facts["confidence"] = float(label.confidence)
        return levels.write(codes, self.name, facts, 6, codec, 2, lambda view: maps.nearest(codes, view))

    def decode(self, data: bytes) -> Segmentation:
        """Decode a file written by `encode`, without loss."""
        return self._of(*png.read(data, self.name, MODES))

    def read(self, data: bytes, view: View) -> Segmentation:
        """Return `view` of `decode`; of a level, pixels are those of source pixels within half a level pixel."""
        codes, facts, _ = levels.read(data, self.name, MODES, view)
        seen = maps.nearest(codes, view)
        return self._of(maps.mirror(seen) if view.flip else seen, facts)

    def _of(self, codes: png.Codes, facts: Mapping[str, object]) -> Segmentation:
        void, confidence = facts.get("void"), cast(float | None, facts.get("confidence"))
        require(
            void == np.iinfo(codes.dtype).max and isinstance(confidence, float | None),
            f"the {codes.dtype} segmentation PNG has invalid metadata (void {void!r}, confidence {confidence!r}): it "
            "was not written by encode(); label the image again",
        )
        return Segmentation(codes.astype(np.uint16), codes != void, confidence)

    def valid_share(self, label: Segmentation) -> float:
        """Return the share of pixels with a known class."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Segmentation, view: View) -> Segmentation:
        """Resample ids and validity by nearest neighbor."""
        return replace(label, ids=maps.nearest(label.ids, view), valid=maps.nearest(label.valid, view))

    def hflip(self, label: Segmentation) -> Segmentation:
        """Mirror ids and validity."""
        return replace(label, ids=maps.mirror(label.ids), valid=maps.mirror(label.valid))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """Return the number of classes."""
        K = len(convention.classes)
        require(
            0 < K <= MAX_CLASSES,
            f"the label space has {K} classes, but segmentation needs 1 to {MAX_CLASSES}; name them in Convention",
        )
        return K

    def collate(self, labels: Sequence[Segmentation | None], size: tuple[int, int]) -> Target:
        """Return ``ids`` int64 [B,H,W] and ``valid``."""
        return {
            "ids": maps.batch(labels, "ids", size, np.int64),
            "valid": maps.batch(labels, "valid", size, np.bool_),
        }

    def confidences(self, labels: Sequence[Segmentation | None], size: tuple[int, int]) -> Tensor:
        """Return the confidence of each label, float32 [B,1,1]."""
        each = [1.0 if label is None or label.confidence is None else label.confidence for label in labels]
        return torch.tensor(each, dtype=torch.float32).view(-1, 1, 1)

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Return cross-entropy, ``cross_entropy``."""
        return ("cross_entropy",)

    def truth(self, target: Target, convention: Convention) -> Tensor:
        """Return class ids, int64 [B,H,W]."""
        return target["ids"]

    def predict(self, raw: Tensor, convention: Convention) -> list[Segmentation]:
        """Return the classes of the largest logits."""
        ids = raw.detach().argmax(1).cpu().numpy().astype(np.uint16)
        return [Segmentation(one, np.ones(one.shape, np.bool_)) for one in ids]

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> SegmentationMetric:
        """Return the metric of mIoU and accuracy over the convention's classes."""
        return SegmentationMetric(self.channels(convention))

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Return one-hot classes times 10, [B,K,H,W]; zeros where invalid."""
        ids, valid = (target["ids"] * target["valid"])[:, None], target["valid"][:, None]
        shape = (len(ids), self.channels(convention), *ids.shape[2:])
        return torch.zeros(shape, device=ids.device).scatter_(1, ids, 10.0 * valid)

    def render(self, label: Segmentation, convention: Convention) -> ImageArray:
        """Render each class in its color, which depends only on the id."""
        return palette(label.ids) * label.valid[..., None]

    def legend(self, label: Segmentation, convention: Convention) -> list[Mark]:
        """Return the classes in the label with their shares of the image, the largest first."""
        ids, counts = np.unique(label.ids[label.valid], return_counts=True)
        shares, colors = counts / label.ids.size, palette(ids)
        texts = [f"{share:.0%}" if share >= 0.01 else "< 1%" for share in shares]
        return [
            Mark.of(f"{convention.classes[ids[i]]} {texts[i]}", colors[i]) for i in np.argsort(-counts, kind="stable")
        ]


def palette(ids: NDArray[np.integer]) -> ImageArray:
    """Return colors uint8 [...,3] of class ids, never black; the golden ratio separates the hues of similar ids."""
    hue = ids.astype(np.float64) * 0.6180339887 % 1.0
    value = np.choose(ids % 3, [1.0, 0.8, 0.6])
    saturation = np.choose(ids // 3 % 2, [0.75, 0.45])
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    ramp = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    shade = value[..., None] * (1 - saturation[..., None] * ramp)
    return np.asarray(np.rint(255 * shade), np.uint8)


TASK = SegmentationTask()
