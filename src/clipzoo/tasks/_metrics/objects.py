"""Metrics of detections: COCO's with boxes and with masks, and the official one of PASCAL VOC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.tasks import _average_precision, rle
from clipzoo.tasks._average_precision import BOUNDS, overlaps
from clipzoo.tasks._objects import Detection
from clipzoo.tasks.base import Measure, Metric, Rows, Statistics, require
from clipzoo.types import BoolArray

MOST = 100
"""Number of detections per image that are counted."""

VOC_BOUND = 0.5
"""Overlap from which on a detection is right in PASCAL VOC."""


class DetectionMetric(Metric):
    """COCO's average precision of the 100 best boxes per image: ``ap50`` at overlap 0.5, ``ap`` averaged over 0.5:0.95.

    Averaged over the classes that occur in the truth. Ignored boxes of a prediction are not counted. Detections inside
    ignored true boxes of their class are not counted either, as with COCO's crowds, nor are detections of classes that
    the truth does not cover.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"ap50": Measure(), "ap": Measure()}
    over = "boxes of the whole set"

    def __init__(self, count: int) -> None:
        self.count = count

    def statistics(self, prediction: Detection, truth: Detection) -> Statistics:
        """Return float64 [4 · 100 + K]: class + 1, score, and the thresholds at which a detection is right or excused
        (bit masks), for each detection; then the number of true boxes per class.
        """
        require(
            prediction.size == truth.size,
            f"a prediction in a frame of {prediction.size} cannot be compared with a truth in a frame of {truth.size}; "
            "resize it to the truth's size with crop_resize and View.whole",
        )
        top = max(int(label.ids.max(initial=0)) for label in (prediction, truth))
        require(
            top < self.count,
            f"class id {top} is outside of the label space of {self.count} classes; compare labels of one space",
        )
        found = prediction.take(~prediction.ignored)
        if truth.asked is not None:
            found = found.take(np.isin(found.ids, np.append(truth.asked, truth.ids)))
        found = found.take(np.argsort(-found.scores, kind="stable")[:MOST])
        table, bits = np.zeros((MOST, 4)), 1 << np.arange(len(_average_precision.BOUNDS))
        table[: len(found.ids), :2] = np.stack([found.ids + 1.0, found.scores], 1)
        for kind in np.unique(found.ids):
            of, true = np.flatnonzero(found.ids == kind), truth.take(truth.ids == kind)
            right, excused = self.match(self.overlap(found.take(of), true), true.ignored)
            table[of, 2:] = np.stack([right @ bits, excused @ bits], 1)
        truths = np.bincount(truth.ids[~truth.ignored], minlength=self.count)
        return np.concatenate([table.ravel(), truths]).astype(np.float64)

    def overlap(self, found: Detection, true: Detection) -> NDArray[np.float64]:
        """Return the overlaps [D,G] of detections and true objects; for ignored ones, over the detection's area."""
        return overlaps(found.boxes.astype(np.float64), true.boxes.astype(np.float64), true.ignored)

    def match(self, overlap: NDArray[np.float64], ignored: BoolArray) -> tuple[BoolArray, BoolArray]:
        """Return the right and the excused detections, bool [D,10] each; see `_average_precision.match`."""
        return _average_precision.match(overlap, ignored)

    def resampled(self, rows: Rows, weights: Rows) -> dict[str, NDArray[np.float64]]:
        """Return ``ap50`` and ``ap``, in [0, 1]."""
        table, truths = rows[:, : 4 * MOST].reshape(-1, MOST, 4), rows[:, 4 * MOST :]
        image, place = np.nonzero(table[..., 0])
        order = np.argsort(-table[image, place, 1], kind="stable")
        image, (kinds, _, *codes) = image[order], table[image, place][order].T
        flags = np.array(codes, np.int64)[..., None] >> np.arange(len(_average_precision.BOUNDS)) & 1 > 0
        count = weights @ truths
        total, classes = np.zeros((2, len(weights))), (count > 0).sum(1)
        for kind in np.flatnonzero(truths.any(0)):
            of = kinds == kind + 1
            found = _average_precision.average_precision(image[of], flags[0, of], flags[1, of], weights, count[:, kind])
            total += np.nan_to_num([found[0], found.mean(0)])
        means = np.where(classes > 0, total / np.maximum(classes, 1), np.nan)
        return dict(zip(self.measures, means, strict=True))


class MaskMetric(DetectionMetric):
    """COCO's average precision of instance segmentation: as `DetectionMetric`, with overlaps of masks.

    An object without a mask is an error, since it can be compared with nothing.
    """

    over = "masks of the whole set"

    def overlap(self, found: Detection, true: Detection) -> NDArray[np.float64]:
        """Return the overlaps [D,G] of masks; for ignored ones, over the detection's area."""
        pixels, others = _pixels(found), _pixels(true)
        both = pixels @ others.T
        own, other = pixels.sum(1)[:, None], others.sum(1)
        union = np.where(true.ignored, np.broadcast_to(own, both.shape), own + other - both)
        return np.asarray(both / np.maximum(union, 1), np.float64)


class VocMetric(DetectionMetric):
    """PASCAL VOC's official AP50 (``VOCevaldet.m`` of the development kit since 2010; Everingham et al. 2010).

    Within an image and a class, each detection in order of score belongs to the true box of largest overlap, if that is
    at least 0.5. It is right if the box is not taken, wrong if it is, and not counted if the box is ignored
    (difficult). Precision is made monotonic in recall, and averaged over the whole recall, not over 101 recalls. The
    100 best boxes per image count; the kit has no limit.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"ap50": Measure()}

    def overlap(self, found: Detection, true: Detection) -> NDArray[np.float64]:
        """Return the intersection over union [D,G]; that of ignored boxes has the same definition."""
        none = np.zeros(len(true.ids), np.bool_)
        return overlaps(found.boxes.astype(np.float64), true.boxes.astype(np.float64), none)

    def match(self, overlap: NDArray[np.float64], ignored: BoolArray) -> tuple[BoolArray, BoolArray]:
        """Return the right and the excused detections, bool [D,10] each, of which the first column is used."""
        right, excused = (np.zeros((len(overlap), len(BOUNDS)), np.bool_) for _ in range(2))
        taken = np.zeros(overlap.shape[1], np.bool_)
        for d in np.flatnonzero(overlap.max(1, initial=0) >= VOC_BOUND):
            best = int(overlap[d].argmax())
            if ignored[best]:
                excused[d, 0] = True
            elif not taken[best]:
                right[d, 0] = taken[best] = True
        return right, excused

    def resampled(self, rows: Rows, weights: Rows) -> dict[str, NDArray[np.float64]]:
        """Return ``ap50``, in [0, 1]."""
        table, truths = rows[:, : 4 * MOST].reshape(-1, MOST, 4), rows[:, 4 * MOST :]
        image, place = np.nonzero(table[..., 0])
        order = np.argsort(-table[image, place, 1], kind="stable")
        image, (kinds, _, right, excused) = image[order], table[image, place][order].T
        count = weights @ truths
        total, classes = np.zeros(len(weights)), (count > 0).sum(1)
        for kind in np.flatnonzero(truths.any(0)):
            of = kinds == kind + 1
            total += _whole_area(image[of], right[of] > 0, excused[of] > 0, weights, count[:, kind])
        return {"ap50": np.where(classes > 0, total / np.maximum(classes, 1), np.nan)}


def _whole_area(
    image: NDArray[np.int64],
    right: BoolArray,
    excused: BoolArray,
    weights: NDArray[np.float64],
    truths: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the area under precision, made monotonic, over the whole recall: [R]; the arguments are those of
    `_average_precision.average_precision`, at one threshold.
    """
    step = max(1, _average_precision.CELLS // max(len(image), 1))
    starts = range(0, max(len(weights), 1), step)
    parts = ((np.take(weights[i : i + step], image, 1), truths[i : i + step]) for i in starts)
    return np.concatenate([_area(times, right, excused, some) for times, some in parts])


def _area(
    times: NDArray[np.float64], right: BoolArray, excused: BoolArray, truths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the area of some sets, whose counts of each detection are ``times`` [R,D]."""
    hits, counted = np.cumsum(times * right, 1), np.cumsum(times * ~excused, 1)
    precision = hits / np.maximum(counted, 1)
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = hits / np.maximum(truths, 1)[:, None]
    return np.asarray((best * np.diff(recall, axis=1, prepend=0)).sum(1))


def _pixels(label: Detection) -> NDArray[np.float32]:
    """Return the pixels of the masks, float32 [N,H·W]."""
    masks = label.masks or (None,) * len(label.ids)
    pixels = np.zeros((len(masks), label.size[0] * label.size[1]), np.float32)
    for row, text in zip(pixels, masks, strict=True):
        require(text is not None, "an object has no mask, so overlaps of masks cannot be computed; use boxes")
        row[:] = rle.decode(text or "", label.size).ravel()
    return pixels
