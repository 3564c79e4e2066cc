"""Semantic segmentation: which class of a label space each pixel belongs to.

Convention: ids count from 0 in the order of ``Convention.classes``; background is a class if the label
space has one. Unknown (void, ignored, unlabeled) is ``valid == False`` and never an id: 255 and 65535
stand for it in the file alone. Ids are never interpolated: a view takes the pixel under each output pixel's
center.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipzoo.tasks import maps, png
from clipzoo.tasks.base import Additive, Convention, Measure, Statistics, Target, Task, require
from clipzoo.types import BoolArray, ImageArray, View

MAX_CLASSES = 65535
"""Ids are uint16, and the largest stands for void in the file."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Class ids, uint16 [H,W], 0 where ``valid`` [H,W] is false; a ``confidence`` in [0, 1] of the whole."""

    ids: NDArray[np.uint16]
    valid: BoolArray
    confidence: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", maps.zero_unknown(self.ids, self.valid))


class SegmentationMetric(Additive):
    """Measures of the whole set's confusion matrix, over the pixels whose truth is known.

    ``miou`` is the mean over the classes that occur in the truth of |both| / |either|: with every class
    present the number of torchmetrics' ``MulticlassJaccardIndex``, not that of a mean over images.
    ``accuracy`` is the share of right pixels. A pixel without a prediction is wrong.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"miou": Measure(), "accuracy": Measure()}
    over = "pixels of the whole set"

    def __init__(self, count: int) -> None:
        self.count = count

    def statistics(self, prediction: Segmentation, truth: Segmentation) -> Statistics:
        """Float64 [3K]: of each class the pixels where truth and prediction have it, where either has it, true ones."""
        maps.same_size(prediction.valid, truth.valid)
        K = self.count
        top = max(int(prediction.ids.max(initial=0)), int(truth.ids.max(initial=0)))
        require(top < K, f"class id {top} in a label space of {K} classes; compare labels of one label space")
        true = truth.ids[truth.valid].astype(np.int64)
        guess = np.where(prediction.valid, prediction.ids, K)[truth.valid].astype(np.int64)
        hits, trues, guesses = (np.bincount(x, minlength=K + 1)[:K] for x in (true[true == guess], true, guess))
        return np.concatenate([hits, trues + guesses - hits, trues]).astype(np.float64)

    def compute(self, total: Statistics) -> dict[str, float]:
        """``miou`` and ``accuracy``, in [0, 1]."""
        hits, union, trues = total.reshape(3, self.count)
        present = trues > 0
        if not present.any():
            return {"miou": float("nan"), "accuracy": float("nan")}
        return {
            "miou": float((hits[present] / union[present]).mean()),
            "accuracy": float(hits.sum() / trues.sum()),
        }


class SegmentationTask(Task[Segmentation]):
    """Class ids; K logits; cross-entropy; mIoU."""

    name = "segmentation"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Segmentation, convention: Convention) -> None:
        """Raise `LabelError` unless ids are uint16 [H,W] of the label space, and confidence a share."""
        K = self.channels(convention)
        maps.check_map("segmentation ids", label.ids, label.valid, np.uint16)
        top = int(label.ids.max())
        require(
            top < K,
            f"class id {top} in a label space of {K} classes, whose ids end at {K - 1}; mark void as "
            "invalid, or give the convention all class names",
        )
        require(
            label.confidence is None or 0 <= label.confidence <= 1,
            f"a confidence of {label.confidence} is no share; give a number in [0, 1], or None",
        )

    def encode(self, label: Segmentation) -> bytes:
        """Lossless PNG: 8 bits where ids end below 255, 16 bits otherwise."""
        top = int(label.ids.max(initial=0))
        require(
            top < MAX_CLASSES,
            f"class id {top} is the file's void; ids end at {MAX_CLASSES - 1}: drop classes",
        )
        dtype: type[np.unsignedinteger[Any]] = np.uint8 if top < 255 else np.uint16
        void = int(np.iinfo(dtype).max)
        codes = np.where(label.valid, label.ids, void).astype(dtype)
        facts: dict[str, Any] = {"void": void}
        if label.confidence is not None:
            facts["confidence"] = float(label.confidence)
        return png.write(codes, self.name, facts, level=6)

    def decode(self, data: bytes) -> Segmentation:
        """The inverse of `encode`, exactly."""
        codes, facts = png.read(data, self.name, ("L", "I;16", "I"))
        void, confidence = facts.get("void"), facts.get("confidence")
        require(
            void == np.iinfo(codes.dtype).max and isinstance(confidence, float | None),
            f"a {codes.dtype} segmentation PNG with void {void!r} and confidence {confidence!r} was not "
            "written by encode(); label the image again",
        )
        return Segmentation(codes.astype(np.uint16), codes != void, confidence)

    def valid_share(self, label: Segmentation) -> float:
        """The share of pixels whose class is known."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Segmentation, view: View) -> Segmentation:
        """Nearest pixels, of ids and validity alike."""
        return replace(label, ids=maps.nearest(label.ids, view), valid=maps.nearest(label.valid, view))

    def hflip(self, label: Segmentation) -> Segmentation:
        """Left and right exchanged; ids as they are."""
        return replace(label, ids=maps.mirror(label.ids), valid=maps.mirror(label.valid))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """One logit a class."""
        K = len(convention.classes)
        require(
            0 < K <= MAX_CLASSES,
            f"a label space of {K} classes; segmentation needs 1 to {MAX_CLASSES}: name them in Convention",
        )
        return K

    def collate(self, labels: Sequence[Segmentation | None], size: tuple[int, int]) -> Target:
        """``ids`` int64 [B,H,W] and ``valid``."""
        return {
            "ids": maps.batch(labels, "ids", size, np.int64),
            "valid": maps.batch(labels, "valid", size, np.bool_),
        }

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Cross-entropy alone, ``cross_entropy``."""
        return ("cross_entropy",)

    def loss(
        self, raw: Tensor, target: Target, convention: Convention, name: str | None = None, **options: Any
    ) -> Tensor:
        """The loss of logits [B,K,H,W] and ids."""
        return self.criterion(convention, name)(raw, target["ids"], target["valid"], **options)

    def predict(self, raw: Tensor, convention: Convention) -> list[Segmentation]:
        """The class of the largest logit."""
        ids = raw.detach().argmax(1).cpu().numpy().astype(np.uint16)
        return [Segmentation(one, np.ones(one.shape, np.bool_)) for one in ids]

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> SegmentationMetric:
        """mIoU and accuracy over the convention's classes."""
        return SegmentationMetric(self.channels(convention))

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """One-hot times 10, [B,K,H,W]; zeros where invalid."""
        hot = F.one_hot(target["ids"] * target["valid"], self.channels(convention)).movedim(-1, 1)
        return 10.0 * hot * target["valid"][:, None]

    def render(self, label: Segmentation, convention: Convention) -> ImageArray:
        """A color a class, the same for an id in every picture."""
        return palette(label.ids) * label.valid[..., None]


def palette(ids: NDArray[np.integer[Any]]) -> ImageArray:
    """Colors uint8 [...,3] of class ids, never black; hues by the golden ratio set near ids far apart."""
    hue = ids.astype(np.float64) * 0.6180339887 % 1.0
    value = np.choose(ids % 3, [1.0, 0.8, 0.6])
    saturation = np.choose(ids // 3 % 2, [0.75, 0.45])
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    ramp = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    shade = value[..., None] * (1 - saturation[..., None] * ramp)
    return np.asarray(np.rint(255 * shade), np.uint8)


TASK = SegmentationTask()
