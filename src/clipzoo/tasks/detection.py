"""Detection: a box around each object, its class, and how sure that is.

Convention: boxes are (x0, y0, x1, y1) in pixels of a frame of ``size`` (H, W), which the label bears: x to the right,
y down, 0 at the left and upper border of the first pixel, so the whole frame is (0, 0, W, H). Coordinates are
multiples of 1/256 px, which makes mirroring exact. Ids count from 0 in the order of ``Convention.classes``, which
names things alone: background is where no box is. ``ignored`` marks a box of which only the place is known (a crowd, an
object that a view cut off, a guess below its expert's floor): there the label says nothing, and neither teaches nor
judges. ``asked`` are the ids of the classes that were looked for, where that is not all: of another class, that no box
is there says nothing. Of boxes that overlap, a pixel belongs to the smallest. A score is 1 in truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import batched_nms

from clipzoo.errors import LabelError
from clipzoo.losses import focal, giou
from clipzoo.tasks import _average_precision, _fcos, maps, rle
from clipzoo.tasks.base import Convention, Measure, Metric, Rows, Statistics, Target, Task, require
from clipzoo.tasks.segmentation import MAX_CLASSES, palette
from clipzoo.types import MAX_PIXELS, BoolArray, FloatArray, ImageArray, View

STEPS = 256
"""Coordinates are multiples of 1 / STEPS of a pixel."""

SEEN_SHARE = 0.25 - 1e-4
"""A box of which a view shows less is ignored; the tolerance makes ties fall alike under mirroring."""

WHERE = 5
"""Channels that tell where a box is: four distances and centerness."""

ELSEWHERE = 1.5
"""The raw distance, a tenth of the frame, that `oracle` asks for where no object is: a probe that is not sure blends
it in."""

SURE = 4.0
"""The logit that `oracle` asks for where a class is, and its negative where it is not."""

CANDIDATES, OVERLAP, MOST = 1000, 0.6, 100
"""How many boxes an image may have before suppression, the overlap that is suppressed, and how many after it."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """N objects in a frame of ``size`` (H, W).

    ``boxes`` float32 [N,4] xyxy, ``ids`` uint16 [N], ``scores`` float32 [N] in [0, 1], ``ignored`` bool [N];
    ``masks``, if known, N compressed COCO RLEs of the frame, None for an object without one; ``asked``, if not all,
    uint16 [M].
    """

    size: tuple[int, int]
    boxes: FloatArray
    ids: NDArray[np.uint16]
    scores: FloatArray
    ignored: BoolArray
    masks: tuple[str | None, ...] | None = None
    asked: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", np.rint(self.boxes * STEPS) / STEPS)

    @property
    def valid(self) -> BoolArray:
        """[H,W], false at pixels that belong to an ignored box."""
        if not self.ignored.any():
            return np.ones(self.size, np.bool_)
        return ~np.append(self.ignored, False)[_fcos.owners(self.shares, self.size)]

    @property
    def shares(self) -> NDArray[np.float64]:
        """The boxes in shares of the frame."""
        H, W = self.size
        return self.boxes / np.array([W, H, W, H], np.float64)

    @property
    def confidence(self) -> float | None:
        """The mean score of the boxes that are not ignored; None if there are none."""
        return None if self.ignored.all() else float(self.scores[~self.ignored].mean())

    def take(self, rows: Any) -> Detection:
        """The objects that ``rows`` (indices, a slice or bool [N]) chooses, in the same frame."""
        kept = np.arange(len(self.ids))[rows]
        masks = None if self.masks is None else tuple(self.masks[i] for i in kept)
        arrays = {name: getattr(self, name)[kept] for name in ("boxes", "ids", "scores", "ignored")}
        return replace(self, **arrays, masks=masks)


class DetectionMetric(Metric):
    """COCO's average precision of boxes, of the 100 best an image: ``ap50`` at an overlap of 0.5, ``ap`` over 0.5:0.95.

    The mean over the classes that occur in the truth. Ignored boxes of a prediction are no detections; those of the
    truth excuse detections of their class that lie in them, as crowds do. Detections of classes that it was not asked
    for are not judged.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"ap50": Measure(), "ap": Measure()}
    over = "boxes of the whole set"

    def __init__(self, count: int) -> None:
        self.count = count

    def statistics(self, prediction: Detection, truth: Detection) -> Statistics:
        """Float64 [4 · 100 + K]: of each detection class + 1, score, bounds at which it is right, at which excused (a
        bit each); then how many true boxes each class has.
        """
        require(
            prediction.size == truth.size,
            f"a prediction in a frame of {prediction.size} cannot be judged by a truth in one of {truth.size}; bring "
            "it to the truth's size with crop_resize and View.whole",
        )
        top = max(int(label.ids.max(initial=0)) for label in (prediction, truth))
        require(top < self.count, f"class id {top} in a label space of {self.count} classes; compare labels of one")
        found = prediction.take(~prediction.ignored)
        if truth.asked is not None:
            found = found.take(np.isin(found.ids, np.append(truth.asked, truth.ids)))
        found = found.take(np.argsort(-found.scores, kind="stable")[:MOST])
        table, bits = np.zeros((MOST, 4)), 1 << np.arange(len(_average_precision.BOUNDS))
        table[: len(found.ids), :2] = np.stack([found.ids + 1.0, found.scores], 1)
        for kind in np.unique(found.ids):
            of, true = np.flatnonzero(found.ids == kind), truth.take(truth.ids == kind)
            boxes, others = found.boxes[of].astype(np.float64), true.boxes.astype(np.float64)
            overlap = _average_precision.overlaps(boxes, others, true.ignored)
            right, excused = _average_precision.match(overlap, true.ignored)
            table[of, 2:] = np.stack([right @ bits, excused @ bits], 1)
        truths = np.bincount(truth.ids[~truth.ignored], minlength=self.count)
        return np.concatenate([table.ravel(), truths]).astype(np.float64)

    def resampled(self, rows: Rows, weights: Rows) -> dict[str, NDArray[np.float64]]:
        """``ap50`` and ``ap``, in [0, 1]."""
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


class DetectionTask(Task[Detection]):
    """Boxes as in FCOS (Tian, Shen, Chen and He 2019, arXiv 1904.01355), at one stride.

    Each pixel in a box tells its class, its distances to the left, upper, right and lower side, and how central it is
    (centerness). K + 5 channels: class logits, raw distances (see ``_fcos.UNIT``), the logit of centerness.
    """

    name = "detection"
    extension = "json"
    head = "fcos"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Detection, convention: Convention) -> None:
        """Raise `LabelError` unless boxes lie in the frame, ids in the label space, and all is of N objects."""
        _check(label)
        K = self.channels(convention) - WHERE
        top = max(int(ids.max(initial=0)) for ids in (label.ids, label.asked) if ids is not None)
        require(top < K, f"class id {top} in a label space of {K} classes, whose ids end at {K - 1}; name all classes")
        for text in filter(None, label.masks or ()):
            rle.decode(text, label.size)

    def encode(self, label: Detection) -> bytes:
        """JSON: boxes to a thousandth of a pixel, scores in full, masks as they are."""
        _check(label)
        facts = {
            "task": self.name,
            "size": label.size,
            "boxes": [[round(x, 3) for x in box] for box in label.boxes.tolist()],
            "ids": label.ids.tolist(),
            "scores": [float(str(score)) for score in label.scores],  # as few digits as tell it from its neighbors
            "ignored": label.ignored.tolist(),
            **({} if label.masks is None else {"masks": label.masks}),
            **({} if label.asked is None else {"asked": label.asked.tolist()}),
        }
        return json.dumps(facts, separators=(",", ":")).encode()

    def decode(self, data: bytes) -> Detection:
        """The inverse of `encode`, exactly."""
        try:
            facts = json.loads(data)
            require(facts["task"] == self.name, f"the file holds {facts['task']!r}, not a {self.name} label")
            label = _read(facts)
            _check(label)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, LabelError) as error:
            seen = f"{len(data)} bytes, beginning {data[:20]!r}"
            raise LabelError(f"cannot read the {self.name} label ({seen}): {type(error).__name__}: {error}") from error
        return label

    def valid_share(self, label: Detection) -> float:
        """The share of pixels that belong to no ignored box."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Detection, view: View) -> Detection:
        """Boxes cut to the crop; those of which less than a quarter is seen are ignored, those outside dropped."""
        (height, width), (x0, y0, x1, y1) = view.size, view.box(label.size)
        boxes = label.boxes.astype(np.float64)
        cut = np.clip(boxes, [x0, y0, x0, y0], [x1, y1, x1, y1])
        share = _fcos.areas(cut) / _fcos.areas(boxes)
        scale = np.array([width / (x1 - x0), height / (y1 - y0)] * 2)
        seen = replace(
            label,
            size=view.size,
            boxes=((cut - [x0, y0, x0, y0]) * scale).astype(np.float32),
            ignored=label.ignored | (share < SEEN_SHARE),
        )
        kept = (seen.boxes[:, 2:] > seen.boxes[:, :2]).all(1)
        return replace(seen.take(kept), masks=_each(label.take(kept), lambda mask: maps.nearest(mask, view)))

    def hflip(self, label: Detection) -> Detection:
        """Left and right exchanged: the new left side is the old right one."""
        x0, y0, x1, y1 = label.boxes.T
        W = np.float32(label.size[1])
        return replace(label, boxes=np.stack([W - x1, y0, W - x0, y1], 1), masks=_each(label, maps.mirror))

    # Learning ------------------------------------------------------------------------------------------

    def taught(self, label: Detection) -> Detection:
        """The label without its masks."""
        return replace(label, masks=None)

    def channels(self, convention: Convention) -> int:
        """One logit a class, four distances, centerness."""
        K = len(convention.classes)
        require(
            0 < K <= MAX_CLASSES,
            f"a label space of {K} classes; detection needs 1 to {MAX_CLASSES}: name them in Convention",
        )
        return K + WHERE

    def collate(self, labels: Sequence[Detection | None], size: tuple[int, int]) -> Target:
        """``ids`` int64 [B,H,W], ``distances`` float32 [B,4,H,W], ``valid``, for labels in frames of any size.

        Distances are left, up, right, down in shares of the frame: larger than 0 in an object, all 0 elsewhere. A box
        so small that no pixel's center lies in it is not taught. ``asked`` bool [B,1+M]: whether the classes from M on
        were looked for, and then each of those before.
        """
        B = len(labels)
        ids, distances = np.zeros((B, *size), np.int64), np.zeros((B, 4, *size), np.float32)
        valid = np.zeros((B, *size), np.bool_)
        for b, label in enumerate(labels):
            if label is not None:
                owner = _fcos.owners(label.shares, size)
                valid[b] = ~np.append(label.ignored, False)[owner]
                owner = np.where(valid[b], owner, -1)
                ids[b], distances[b] = np.append(label.ids, 0)[owner], _fcos.sides_from(label.shares, owner)
        target = {"ids": ids, "distances": distances, "valid": valid, "asked": _asked(labels)}
        return {name: torch.from_numpy(x) for name, x in target.items()}

    def loss(
        self, raw: Tensor, target: Target, convention: Convention, name: str | None = None, **options: Any
    ) -> Tensor:
        """Focal loss of classes, and in objects generalized IoU of boxes and cross-entropy of centerness.

        A class that was not asked for is taught where it is, and nowhere that it is not.
        """
        K, valid = self.channels(convention) - WHERE, target["valid"]
        raw = torch.where(valid[:, None], raw.float(), 0)
        hot, distances = _known(target, K)
        inside = distances[:, 0] > 0
        others, named = target["asked"][:, :1], target["asked"][:, 1 : K + 1]
        asked = torch.cat([named, others.expand(-1, K - named.shape[1])], 1)[..., None, None]
        return (
            focal.loss(raw[:, :K], hot, valid[:, None] & (asked | hot))
            + giou.loss(_fcos.around(_fcos.distances(raw[:, K:-1])), _fcos.around(distances), inside)
            + focal.loss(raw[:, -1:], _fcos.centerness(distances), inside, alpha=-1, gamma=0)
        )

    def predict(self, raw: Tensor, convention: Convention) -> list[Detection]:
        """At most 100 boxes an image; a score is √(class · centerness); equal boxes of a class are suppressed."""
        raw = raw.detach().float()
        K, (H, W) = self.channels(convention) - WHERE, raw.shape[-2:]
        scores = (raw[:, :K].sigmoid() * raw[:, -1:].sigmoid()).sqrt().flatten(1)
        best, places = scores.topk(min(CANDIDATES, scores.shape[1]))
        boxes = _fcos.boxes_of(_fcos.distances(raw[:, K:-1]))
        found = []
        for own, score, place in zip(boxes, best, places, strict=True):
            kinds, own = place // (H * W), own[place % (H * W)]
            kept = batched_nms(own, score, kinds, OVERLAP)[:MOST]
            box, kind, sure = (x[kept].cpu().numpy() for x in (own, kinds, score))
            label = Detection((H, W), box, kind.astype(np.uint16), sure, np.zeros(len(kept), np.bool_))
            found.append(label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1)))
        return found

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> DetectionMetric:
        """AP50 and AP over the convention's classes."""
        return DetectionMetric(self.channels(convention) - WHERE)

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Logits of ±4 and raw distances, [B,K+5,H,W]; least centerness where no object is."""
        hot, distances = _known(target, self.channels(convention) - WHERE)
        inside = distances[:, :1] > 0
        logits = torch.where(hot, SURE, -SURE)
        raw = torch.where(inside, _fcos.raw_of(distances), ELSEWHERE)
        central = torch.where(inside, _fcos.centerness(distances).logit(1e-6).clamp(-SURE, SURE), -SURE)
        return torch.where(target["valid"][:, None], torch.cat([logits, raw, central], 1), 0)

    def render(self, label: Detection, convention: Convention) -> ImageArray:
        """Outlines, and masks at half their brightness, in the colors of segmentation; ignored boxes gray.

        The less sure, the darker, beside the surest; boxes less than half as sure as it are left out.
        """
        best = float(label.scores[~label.ignored].max(initial=0))
        label = label.take(label.ignored | (label.scores >= best / 2))
        picture = np.zeros((*label.size, 3), np.uint8)
        colors = np.where(
            label.ignored[:, None], 96, palette(label.ids) * (label.scores / max(best, 1e-6))[:, None]
        ).astype(np.uint8)
        order = np.argsort(np.where(label.ignored, -1, label.scores), kind="stable")
        for i, text in enumerate(label.masks or ()):
            if text is not None:
                picture[rle.decode(text, label.size)] = colors[i] // 2
        drawn = Image.fromarray(picture)
        pen, width = ImageDraw.Draw(drawn), max(1, round(max(label.size) / 100))
        for i in order:
            (x0, y0), (x1, y1) = np.floor(label.boxes[i, :2]), np.ceil(label.boxes[i, 2:]) - 1
            pen.rectangle((x0, y0, x1, y1), outline=tuple(colors[i].tolist()), width=width)
        return np.array(drawn)


def _id(value: Any) -> int:
    require(0 <= index(value) < MAX_CLASSES, f"a class id of {value}; ids run from 0 to {MAX_CLASSES - 1}")
    return index(value)


def _read(facts: Mapping[str, Any]) -> Detection:
    """The label of a file's facts; any of the errors of Python's own conversions if they are none."""
    (height, width), ids, masks, asked = map(index, facts["size"]), facts["ids"], facts.get("masks"), facts.get("asked")
    with np.errstate(over="ignore"):  # infinite coordinates are told as boxes outside of the frame
        boxes, scores = (np.array(facts[name], np.float64).astype(np.float32) for name in ("boxes", "scores"))
    return Detection(
        (height, width),
        boxes.reshape(len(ids), 4),
        np.array([_id(i) for i in ids], np.uint16),
        scores,
        np.array(facts["ignored"], np.bool_),
        None if masks is None else tuple(None if mask is None else str(mask) for mask in masks),
        None if asked is None else np.array([_id(i) for i in asked], np.uint16),
    )


def _check(label: Detection) -> None:
    """Raise `LabelError` unless the label is sound in itself, whatever its label space."""
    (H, W), N = label.size, len(label.ids)
    require(
        min(H, W) > 0 and H * W <= MAX_PIXELS,
        f"a frame of {H}×{W} pixels; sides are at least 1, and there are at most {MAX_PIXELS} pixels: give (H, W)",
    )
    for what, array, dtype, shape in (
        ("boxes", label.boxes, np.float32, (N, 4)),
        ("ids", label.ids, np.uint16, (N,)),
        ("scores", label.scores, np.float32, (N,)),
        ("ignored", label.ignored, np.bool_, (N,)),
    ):
        require(
            array.dtype == dtype and array.shape == shape,
            f"{what} are {array.dtype} of shape {array.shape}; the contract for {N} objects is {np.dtype(dtype).name} "
            f"of shape {shape}: convert or reshape them",
        )
    x0, y0, x1, y1 = label.boxes.T
    wrong = ~((x0 >= 0) & (x0 < x1) & (x1 <= W) & (y0 >= 0) & (y0 < y1) & (y1 <= H))  # so that NaN is wrong, too
    require(
        not wrong.any(),
        f"{wrong.sum()} of {N} boxes, the first of them {label.boxes[wrong][:1].tolist()}, are not (x0, y0, x1, y1) "
        f"with x0 < x1 and y0 < y1 in a frame {W} wide and {H} high; clip them, and convert (x, y, width, height)",
    )
    require(
        bool(((label.scores >= 0) & (label.scores <= 1)).all()),
        "some scores are not in [0, 1]; give probabilities, not logits",
    )
    require(
        label.masks is None or len(label.masks) == N,
        f"{len(label.masks or ())} masks for {N} boxes; give one a box, or None",
    )
    asked = np.zeros(0, np.uint16) if label.asked is None else label.asked
    require(
        asked.dtype == np.uint16 and asked.ndim == 1,
        f"asked is {asked.dtype} of shape {asked.shape}; the contract is uint16 of shape (M,), or None for all classes",
    )


def _each(label: Detection, change: Callable[[BoolArray], BoolArray]) -> tuple[str | None, ...] | None:
    """The label's masks, each changed."""
    if label.masks is None:
        return None
    masks = label.masks
    return tuple(None if text is None else rle.encode(change(rle.decode(text, label.size))) for text in masks)


def _asked(labels: Sequence[Detection | None]) -> BoolArray:
    """[B,1+M], as `DetectionTask.collate` says."""
    asked = [None if label is None else label.asked for label in labels]
    named = max((int(ids.max(initial=0)) + 1 for ids in asked if ids is not None), default=0)
    table = np.ones((len(labels), 1 + named), np.bool_)
    for row, ids in zip(table, asked, strict=True):
        if ids is not None:
            row[:] = False
            row[1 + ids.astype(int)] = True
    return table


def _known(target: Target, K: int) -> tuple[Tensor, Tensor]:
    """Whether each class is there, bool [B,K,H,W], and distances [B,4,H,W]; nothing where not valid."""
    distances = torch.where(target["valid"][:, None], target["distances"], 0)
    named = torch.arange(K, device=distances.device).view(1, K, 1, 1)
    return (target["ids"][:, None] == named) & (distances[:, :1] > 0), distances


TASK = DetectionTask()
