"""Detection: a box around each object, its class, and how sure that is.

Convention: boxes are (x0, y0, x1, y1) in pixels of a frame of ``size`` (H, W), which the label bears: x to the right,
y down, 0 at the left and upper border of the first pixel, so the whole frame is (0, 0, W, H). Coordinates are
multiples of 1/256 px, which makes mirroring exact. Ids count from 0 in the order of ``Convention.classes``, which
names things alone: background is where no box is. ``ignored`` marks a box of which only the place is known (a crowd, an
object that a view cut off, a guess below its expert's floor): there the label says nothing, and neither teaches nor
judges. Of boxes that overlap, a pixel belongs to the smallest. A score is 1 in truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import batched_nms

from clipzoo.errors import LabelError
from clipzoo.losses import focal, giou
from clipzoo.tasks import _average_precision, _maps, _rle
from clipzoo.tasks.base import Convention, Measure, Metric, Rows, Statistics, Target, Task, require
from clipzoo.tasks.segmentation import MAX_CLASSES, palette
from clipzoo.types import MAX_PIXELS, BoolArray, FloatArray, ImageArray, View

STEPS = 256
"""Coordinates are multiples of 1 / STEPS of a pixel."""

SEEN_SHARE = 0.25 - 1e-4
"""A box of which a view shows less is ignored; the tolerance makes ties fall alike under mirroring."""

UNIT = 0.125
"""A raw distance of x stands for UNIT · softplus(x) of the frame."""

NEAREST = 1e-3
"""The smallest distance, a share of the frame, that `oracle` asks for."""

SURE = 4.0
"""The logit that `oracle` asks for where a class is, and its negative where it is not."""

CANDIDATES, OVERLAP, MOST = 1000, 0.6, 100
"""How many boxes an image may have before suppression, the overlap that is suppressed, and how many after it."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """N objects in a frame of ``size`` (H, W).

    ``boxes`` float32 [N,4] xyxy, ``ids`` uint16 [N], ``scores`` float32 [N] in [0, 1], ``ignored`` bool [N], and
    ``masks``, if known, N compressed COCO RLEs of the frame.
    """

    size: tuple[int, int]
    boxes: FloatArray
    ids: NDArray[np.uint16]
    scores: FloatArray
    ignored: BoolArray
    masks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", np.rint(self.boxes * STEPS) / STEPS)

    @property
    def valid(self) -> BoolArray:
        """[H,W], false at pixels that belong to an ignored box."""
        return ~np.append(self.ignored, False)[_owners(self, self.size)]

    @property
    def confidence(self) -> float | None:
        """The mean score of the boxes that are not ignored; None if there are none."""
        return None if self.ignored.all() else float(self.scores[~self.ignored].mean())

    def take(self, rows: Any) -> Detection:
        """Some of the objects."""
        kept = np.arange(len(self.ids))[rows]
        masks = None if self.masks is None else tuple(self.masks[i] for i in kept)
        return Detection(self.size, self.boxes[kept], self.ids[kept], self.scores[kept], self.ignored[kept], masks)


class DetectionMetric(Metric):
    """COCO's average precision of boxes, of the 100 best an image: ``ap50`` at an overlap of 0.5, ``ap`` over 0.5:0.95.

    The mean over the classes that occur in the truth. Ignored boxes of a prediction are no detections; those of the
    truth excuse detections of their class that lie in them, as crowds do.
    """

    measures: ClassVar[Mapping[str, Measure]] = {"ap50": Measure(), "ap": Measure()}

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
        image, kinds, codes = (
            image[order],
            table[image, place, 0][order],
            table[image, place, 2:][order].astype(np.int64),
        )
        flags = codes[..., None] >> np.arange(len(_average_precision.BOUNDS)) & 1 > 0
        count = weights @ truths
        total, classes = np.zeros((2, len(weights))), (count > 0).sum(1)
        for kind in np.flatnonzero(truths.any(0)):
            of = kinds == kind + 1
            found = _average_precision.average_precision(image[of], flags[of, 0], flags[of, 1], weights, count[:, kind])
            total += np.nan_to_num([found[0], found.mean(0)])
        means = np.where(classes > 0, total / np.maximum(classes, 1), np.nan)
        return dict(zip(self.measures, means, strict=True))


class DetectionTask(Task[Detection]):
    """Boxes as in FCOS (Tian, Shen, Chen and He 2019, arXiv 1904.01355), at one stride.

    Each pixel in a box tells its class, its distances to the left, upper, right and lower side, and how central it is
    (centerness). K + 5 channels: class logits, raw distances (see `UNIT`), the logit of centerness.
    """

    name = "detection"
    extension = "json"
    head = "fcos"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Detection, convention: Convention) -> None:
        """Raise `LabelError` unless boxes lie in the frame, ids in the label space, and all is of N objects."""
        _check(label)
        K, top = len(convention.classes), int(label.ids.max(initial=0))
        require(
            top < K or not label.ids.size,
            f"class id {top} in a label space of {K} classes, whose ids end at {K - 1}; give the convention all class "
            "names, of things alone: background has none",
        )
        for text in label.masks or ():
            _rle.decode(text, label.size)

    def encode(self, label: Detection) -> bytes:
        """JSON, without loss."""
        _check(label)
        facts = {
            "task": self.name,
            "size": label.size,
            "boxes": [[round(x, 3) for x in box] for box in label.boxes.tolist()],
            "ids": label.ids.tolist(),
            "scores": [float(str(score)) for score in label.scores],  # as few digits as tell it from its neighbours
            "ignored": label.ignored.tolist(),
            **({} if label.masks is None else {"masks": label.masks}),
        }
        return json.dumps(facts, separators=(",", ":")).encode()

    def decode(self, data: bytes) -> Detection:
        """The inverse of `encode`, exactly."""
        try:
            facts = json.loads(data)
            require(facts["task"] == self.name, f"the file holds {facts['task']!r}, not a {self.name} label")
            height, width = map(int, facts["size"])
            ids, masks = np.array(facts["ids"], np.int64), facts.get("masks")
            require(not ((ids < 0) | (ids >= MAX_CLASSES)).any(), f"class ids run from 0 to {MAX_CLASSES - 1}")
            label = Detection(
                (height, width),
                np.array(facts["boxes"], np.float32).reshape(-1, 4),
                ids.astype(np.uint16),
                np.array(facts["scores"], np.float32),
                np.array(facts["ignored"], np.bool_),
                None if masks is None else tuple(map(str, masks)),
            )
            _check(label)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, LabelError) as error:
            seen = f"{len(data)} bytes, beginning {data[:20]!r}"
            raise LabelError(
                f"cannot read the {self.name} label ({seen}): {type(error).__name__}: {error}; label the image again"
            ) from error
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
        share = _areas(cut) / _areas(boxes)
        scale = np.array([width / (x1 - x0), height / (y1 - y0)] * 2)
        seen = replace(
            label,
            size=view.size,
            boxes=((cut - [x0, y0, x0, y0]) * scale).astype(np.float32),
            ignored=label.ignored | (share < SEEN_SHARE),
            masks=_each(label, lambda mask: _maps.nearest(mask, view)),
        )
        return seen.take((seen.boxes[:, 2:] > seen.boxes[:, :2]).all(1))

    def hflip(self, label: Detection) -> Detection:
        """Left and right exchanged: the new left side is the old right one."""
        x0, y0, x1, y1 = label.boxes.T
        W = np.float32(label.size[1])
        return replace(label, boxes=np.stack([W - x1, y0, W - x0, y1], 1), masks=_each(label, _maps.mirror))

    # Learning ------------------------------------------------------------------------------------------

    def channels(self, convention: Convention) -> int:
        """One logit a class, four distances, centerness."""
        K = len(convention.classes)
        require(
            0 < K <= MAX_CLASSES,
            f"a label space of {K} classes; detection needs 1 to {MAX_CLASSES}: name them in Convention",
        )
        return K + 5

    def collate(self, labels: Sequence[Detection | None], size: tuple[int, int]) -> Target:
        """``ids`` int64 [B,H,W], ``distances`` float32 [B,4,H,W], ``valid``, for labels in frames of any size.

        Distances are left, up, right, down in shares of the frame: larger than 0 in an object, all 0 elsewhere.
        """
        B = len(labels)
        ids, distances = np.zeros((B, *size), np.int64), np.zeros((B, 4, *size), np.float32)
        valid = np.zeros((B, *size), np.bool_)
        for b, label in enumerate(labels):
            if label is not None:
                ids[b], distances[b], valid[b] = _dense(label, size)
        return {name: torch.from_numpy(x) for name, x in (("ids", ids), ("distances", distances), ("valid", valid))}

    def loss(self, raw: Tensor, target: Target, convention: Convention) -> Tensor:
        """Focal loss of classes, and in objects generalised IoU of boxes and cross-entropy of centerness."""
        K, valid = self.channels(convention) - 5, target["valid"]
        raw = torch.where(valid[:, None], raw.float(), 0)
        distances = torch.where(valid[:, None], target["distances"], 0)
        inside = distances[:, 0] > 0
        named = torch.arange(K, device=raw.device).view(1, K, 1, 1)
        hot = (target["ids"][:, None] == named) & inside[:, None]
        guess, right = _around(_distances(raw[:, K:-1])), _around(distances)
        return (
            focal.loss(raw[:, :K], hot, valid)
            + giou.loss(guess, right, inside)
            + focal.loss(raw[:, K + 4 :], _centerness(distances), inside, alpha=-1, gamma=0)
        )

    def predict(self, raw: Tensor, convention: Convention) -> list[Detection]:
        """At most 100 boxes an image; a score is √(class · centerness); equal boxes of a class are suppressed."""
        raw = raw.detach().float()
        K, (B, _, H, W) = self.channels(convention) - 5, raw.shape
        scores = (raw[:, :K].sigmoid() * raw[:, K + 4 :].sigmoid()).sqrt().flatten(1)
        best, index = scores.topk(min(CANDIDATES, scores.shape[1]))
        y, x = torch.meshgrid(*(torch.arange(n, device=raw.device) + 0.5 for n in (H, W)), indexing="ij")
        boxes = (_around(_distances(raw[:, K:-1])) + torch.stack([x, y, x, y])).flatten(2).movedim(1, 2)
        limit = boxes.new_tensor([W, H, W, H])
        found = []
        for b in range(B):
            kinds, own = index[b] // (H * W), boxes[b][index[b] % (H * W)].clamp(boxes.new_zeros(4), limit)
            kept = batched_nms(own, best[b], kinds, OVERLAP)[:MOST]
            arrays = [x[kept].cpu().numpy() for x in (own, kinds, best[b])]
            label = Detection((H, W), arrays[0], arrays[1].astype(np.uint16), arrays[2], np.zeros(len(kept), np.bool_))
            found.append(label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1)))
        return found

    # Judgement -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> DetectionMetric:
        """AP50 and AP over the convention's classes."""
        return DetectionMetric(self.channels(convention) - 5)

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Logits of ±4 and raw distances, [B,K+5,H,W]; where no object is, distances of raw 0 that nothing reads."""
        K, valid = self.channels(convention) - 5, target["valid"][:, None]
        distances = torch.where(valid, target["distances"], 0)
        inside = distances[:, :1] > 0
        named = torch.arange(K, device=distances.device).view(1, K, 1, 1)
        logits = torch.where((target["ids"][:, None] == named) & inside, SURE, -SURE)
        far = distances.clamp(min=NEAREST) / UNIT
        raw = torch.where(inside, far + torch.log(-torch.expm1(-far)), 0)
        central = torch.where(inside, _centerness(distances).logit(1e-6).clamp(-SURE, SURE), -SURE)
        return torch.where(valid, torch.cat([logits, raw, central], 1), 0)

    def render(self, label: Detection, convention: Convention) -> ImageArray:
        """Outlines, and masks at half their brightness, in the colours of segmentation; ignored boxes grey.

        The less sure, the darker; surer ones lie above.
        """
        picture = np.zeros((*label.size, 3), np.uint8)
        colours = np.where(label.ignored[:, None], 96, palette(label.ids) * label.scores[:, None]).astype(np.uint8)
        order = np.argsort(np.where(label.ignored, -1, label.scores), kind="stable")
        for i, text in enumerate(label.masks or ()):
            picture[_rle.decode(text, label.size)] = colours[i] // 2
        drawn = Image.fromarray(picture)
        pen, width = ImageDraw.Draw(drawn), max(1, round(max(label.size) / 100))
        for i in order:
            (x0, y0), (x1, y1) = np.floor(label.boxes[i, :2]), np.ceil(label.boxes[i, 2:]) - 1
            pen.rectangle((x0, y0, x1, y1), outline=tuple(colours[i].tolist()), width=width)
        return np.array(drawn)


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


def _areas(boxes: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """[N], of boxes [N,4]."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(1))


def _each(label: Detection, change: Callable[[BoolArray], BoolArray]) -> tuple[str, ...] | None:
    """The label's masks, each changed."""
    if label.masks is None:
        return None
    return tuple(_rle.encode(change(_rle.decode(text, label.size))) for text in label.masks)


def _owners(label: Detection, size: tuple[int, int]) -> NDArray[np.int64]:
    """[H,W], the index of the smallest box around each pixel's centre, in a grid of ``size`` over the frame; or −1."""
    owners = np.full(size, -1)
    sides = label.boxes * (np.array([*size[::-1], *size[::-1]]) / [*label.size[::-1], *label.size[::-1]])
    first, stop = np.floor(sides[:, :2] + 0.5).astype(int), np.ceil(sides[:, 2:] - 0.5).astype(int)
    for i in np.argsort(-_areas(label.boxes), kind="stable"):
        owners[first[i, 1] : stop[i, 1], first[i, 0] : stop[i, 0]] = i
    return owners


def _dense(label: Detection, size: tuple[int, int]) -> tuple[NDArray[np.int64], FloatArray, BoolArray]:
    """Ids [H,W], distances [4,H,W] and validity [H,W] of a label in a grid of ``size``; see `DetectionTask.collate`."""
    owners, (H, W) = _owners(label, size), size
    inside = (owners >= 0) & ~np.append(label.ignored, False)[owners]
    ids = np.where(inside, np.append(label.ids, 0)[owners], 0)
    shares = np.append(label.boxes, np.zeros((1, 4)), 0) / [*label.size[::-1], *label.size[::-1]]
    x0, y0, x1, y1 = np.moveaxis(shares[owners], 2, 0)
    y, x = (np.arange(H)[:, None] + 0.5) / H, (np.arange(W) + 0.5) / W
    distances = np.where(inside, np.stack([x - x0, y - y0, x1 - x, y1 - y]), 0).astype(np.float32)
    return ids, distances, inside | (owners < 0)


def _distances(raw: Tensor) -> Tensor:
    """Raw [B,4,H,W] as distances in shares of the frame, larger than 0."""
    return UNIT * F.softplus(raw)


def _around(distances: Tensor) -> Tensor:
    """Distances [B,4,H,W] as boxes, xyxy in pixels of the grid from each pixel's centre."""
    H, W = distances.shape[-2:]
    return distances * distances.new_tensor([-W, -H, W, H]).view(1, 4, 1, 1)


def _centerness(distances: Tensor) -> Tensor:
    """[B,1,H,W] in [0, 1], FCOS's equation 3: 1 in the middle of a box, 0 at its sides, and where no box is."""
    one, other = distances[:, :2], distances[:, 2:]
    shares = torch.minimum(one, other) / torch.maximum(one, other).clamp(min=1e-12)
    return shares.prod(1, keepdim=True).sqrt()


TASK = DetectionTask()
