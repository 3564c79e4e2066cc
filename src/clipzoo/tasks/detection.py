"""Detection: bounding boxes of objects with classes and scores.

Convention: boxes are (x0, y0, x1, y1) in pixels of a frame of ``size`` (H, W), which is part of the label: x to the
right, y down, 0 at the left and upper border of the first pixel, so the whole frame is (0, 0, W, H). Coordinates are
multiples of 1/256 px, which makes mirroring exact. Ids start at 0 in the order of ``Convention.classes``, which has no
background class. ``ignored`` marks a box with unknown content (a crowd, an object cut off by a view, a prediction below
the expert's score threshold): its pixels are used neither for training nor for evaluation. ``asked`` are the ids of the
classes that the labels cover, if not all: the absence of a box of another class means nothing. A pixel in several boxes
belongs to the smallest. True boxes have score 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import batched_nms

from clipzoo.errors import LabelError
from clipzoo.losses import focal, giou, mean
from clipzoo.tasks import _fcos, maps, rle
from clipzoo.tasks._average_precision import overlaps
from clipzoo.tasks._metrics.objects import MOST, DetectionMetric, MaskMetric, VocMetric
from clipzoo.tasks._objects import STEPS, Detection, change_masks, check_label, from_json, to_json
from clipzoo.tasks.base import Convention, Mark, Metric, Target, Task, require
from clipzoo.tasks.segmentation import MAX_CLASSES, palette
from clipzoo.types import BoolArray, ImageArray, View

__all__ = ["STEPS", "TASK", "Detection", "DetectionMetric", "DetectionTask", "overlaps"]

SEEN_SHARE = 0.25 - 1e-4
"""Boxes with a smaller visible share are ignored; the tolerance makes ties equal under mirroring."""

WHERE = 5
"""Channels of the box: four distances and centerness."""

ELSEWHERE = 1.5
"""Raw distance of `oracle` where no object is, a tenth of the frame: an uncertain probe averages it in."""

SURE = 4.0
"""Logit of `oracle` where a class is present; its negative where it is absent."""

CANDIDATES, OVERLAP = 1000, 0.6
"""Non-maximum suppression: boxes per image before it, overlap above which boxes are suppressed; `MOST` remain."""

NAMED = 8
"""Boxes with names in the legend."""


def boxes_of(raw: Tensor) -> Tensor:
    """Return boxes of raw distances [B,4,h,w] to the four sides; see `_fcos.boxes_of`."""
    return _fcos.boxes_of(_fcos.distances(raw))


class DetectionTask(Task[Detection]):
    """Boxes as in FCOS (Tian, Shen, Chen and He 2019, arXiv 1904.01355), at one stride.

    Each pixel in a box predicts the class, the distances to the left, upper, right and lower side, and its centerness.
    K + 5 channels: class logits, raw distances (see ``_fcos.UNIT``), logit of centerness.
    """

    name = "detection"
    extension = "json"
    head = "fcos"

    # Label ---------------------------------------------------------------------------------------------

    def check(self, label: Detection, convention: Convention) -> None:
        """Raise `LabelError` unless boxes are in the frame, ids in the label space, and all arrays of N objects."""
        check_label(label)
        K = self.channels(convention) - WHERE
        top = max(int(ids.max(initial=0)) for ids in (label.ids, label.asked) if ids is not None)
        require(top < K, f"class id {top} is outside of the label space of {K} classes; name all classes")
        for text in filter(None, label.masks or ()):
            rle.decode(text, label.size)

    def encode(self, label: Detection) -> bytes:
        """Encode as JSON: boxes to 1/1000 of a pixel, scores in full, masks unchanged."""
        check_label(label)
        return json.dumps({"task": self.name, **to_json(label)}, separators=(",", ":")).encode()

    def decode(self, data: bytes) -> Detection:
        """Decode a file written by `encode`, without loss."""
        try:
            facts = json.loads(data)
            require(facts["task"] == self.name, f"the file holds {facts['task']!r}, not a {self.name} label")
            label = from_json(facts)
            check_label(label)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, LabelError) as error:
            seen = f"{len(data)} bytes, beginning {data[:20]!r}"
            raise LabelError(f"cannot read the {self.name} label ({seen}): {type(error).__name__}: {error}") from error
        return label

    def valid_share(self, label: Detection) -> float:
        """Return the share of pixels that belong to no ignored box."""
        return float(label.valid.mean())

    # Geometry ------------------------------------------------------------------------------------------

    def crop_resize(self, label: Detection, view: View) -> Detection:
        """Clip boxes to the crop; ignore boxes of which less than a quarter is visible, and remove those outside."""
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
        return replace(seen.take(kept), masks=change_masks(label.take(kept), lambda mask: maps.nearest(mask, view)))

    def hflip(self, label: Detection) -> Detection:
        """Mirror boxes and masks."""
        x0, y0, x1, y1 = label.boxes.T
        W = np.float32(label.size[1])
        return replace(label, boxes=np.stack([W - x1, y0, W - x0, y1], 1), masks=change_masks(label, maps.mirror))

    # Learning ------------------------------------------------------------------------------------------

    def taught(self, label: Detection) -> Detection:
        """Return the label without its masks."""
        return replace(label, masks=None)

    def channels(self, convention: Convention) -> int:
        """Return the number of classes + 5: class logits, four distances, centerness."""
        K = len(convention.classes)
        require(
            0 < K <= MAX_CLASSES,
            f"the label space has {K} classes, but detection needs 1 to {MAX_CLASSES}; name them in Convention",
        )
        return K + WHERE

    def collate(self, labels: Sequence[Detection | None], size: tuple[int, int]) -> Target:
        """Return ``ids`` int64 [B,H,W], ``distances`` float32 [B,4,H,W], ``valid`` and ``asked``; frames may differ.

        Distances are left, up, right, down as fractions of the frame: larger than 0 in an object, all 0 elsewhere. A
        box that contains no pixel center is not learned. ``asked`` is bool [B,1+M]: true if the labels cover the
        classes from M on, then if they cover each class below M.
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

    def confidences(self, labels: Sequence[Detection | None], size: tuple[int, int]) -> Tensor:
        """Return the score of the box that a pixel belongs to, float32 [B,H,W]; 1 outside of boxes."""
        scores = np.ones((len(labels), *size), np.float32)
        for own, label in zip(scores, labels, strict=True):
            if label is not None:
                own[...] = np.append(label.scores, np.float32(1))[_fcos.owners(label.shares, size)]
        return torch.from_numpy(scores)

    def weighs(self, convention: Convention, loss: str | None = None) -> bool:
        """Return True: each pixel's classes, box and centerness have one weight."""
        return True

    def loss(
        self, raw: Tensor, target: Target, convention: Convention, name: str | None = None, **options: object
    ) -> Tensor:
        """Return focal loss of classes plus, in objects, generalized IoU of boxes and cross-entropy of centerness.

        A class that the labels do not cover is learned only where it is present.
        """
        K, valid = self.channels(convention) - WHERE, target["valid"]
        raw = torch.where(valid[:, None], raw.float(), 0)
        hot, distances = _known(target, K)
        inside = distances[:, 0] > 0
        others, named = target["asked"][:, :1], target["asked"][:, 1 : K + 1]
        asked = torch.cat([named, others.expand(-1, K - named.shape[1])], 1)[..., None, None]
        sides = _fcos.around(_fcos.distances(raw[:, K:-1]))
        terms = (
            focal.pixels(raw[:, :K], hot, valid[:, None] & (asked | hot)),
            giou.pixels(sides, _fcos.around(distances), inside),
            focal.pixels(raw[:, -1:], _fcos.centerness(distances), inside, alpha=-1, gamma=0),
        )
        classes, boxes, centers = (mean(term, target.get("weight")) for term in terms)
        return classes + boxes + centers

    def predict(self, raw: Tensor, convention: Convention) -> list[Detection]:
        """Return at most 100 boxes per image, scored √(class · centerness), after non-maximum suppression per class."""
        raw = raw.detach().float()
        K, (H, W) = self.channels(convention) - WHERE, raw.shape[-2:]
        scores = (raw[:, :K].sigmoid() * raw[:, -1:].sigmoid()).sqrt().flatten(1)
        best, places = scores.topk(min(CANDIDATES, scores.shape[1]))
        boxes = boxes_of(raw[:, K:-1])
        found = []
        for own, score, place in zip(boxes, best, places, strict=True):
            kinds, own = place // (H * W), own[place % (H * W)]
            kept = batched_nms(own, score, kinds, OVERLAP)[:MOST]
            box, kind, sure = (x[kept].cpu().numpy() for x in (own, kinds, score))
            label = Detection((H, W), box, kind.astype(np.uint16), sure, np.zeros(len(kept), np.bool_))
            found.append(label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1)))
        return found

    def unknown(self, size: tuple[int, int], convention: Convention) -> Detection:
        """Return an ignored box around the whole frame."""
        box = np.array([[0, 0, size[1], size[0]]], np.float32)
        return Detection(size, box, np.zeros(1, np.uint16), np.ones(1, np.float32), np.ones(1, np.bool_))

    # Judgment -----------------------------------------------------------------------------------------

    def metric(self, convention: Convention) -> DetectionMetric:
        """Return the metric of AP50 and AP over the convention's classes."""
        return DetectionMetric(self.channels(convention) - WHERE)

    def metrics(self, convention: Convention) -> Mapping[str, Metric]:
        """Return ``voc``, the official AP50 of PASCAL VOC, and ``masks``, the metric with overlaps of masks."""
        count = self.channels(convention) - WHERE
        return {"voc": VocMetric(count), "masks": MaskMetric(count)}

    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Return logits of ±4 and raw distances, [B,K+5,H,W]; lowest centerness where no object is."""
        hot, distances = _known(target, self.channels(convention) - WHERE)
        inside = distances[:, :1] > 0
        logits = torch.where(hot, SURE, -SURE)
        raw = torch.where(inside, _fcos.raw_of(distances), ELSEWHERE)
        central = torch.where(inside, _fcos.centerness(distances).logit(1e-6).clamp(-SURE, SURE), -SURE)
        return torch.where(target["valid"][:, None], torch.cat([logits, raw, central], 1), 0)

    def render(self, label: Detection, convention: Convention) -> ImageArray:
        """Draw outlines, and masks at half brightness, in the colors of segmentation; ignored boxes in gray.

        Brightness is the score relative to the best one; boxes below half the best score are not drawn.
        """
        label, colors = _drawn(label)
        pixels = np.zeros((*label.size, 3), np.uint8)
        for i, text in enumerate(label.masks or ()):
            if text is not None:
                pixels[rle.decode(text, label.size)] = colors[i] // 2
        picture = Image.fromarray(pixels)
        pen, width = ImageDraw.Draw(picture), max(1, round(max(label.size) / 100))
        for i in np.argsort(np.where(label.ignored, -1, label.scores), kind="stable"):
            (x0, y0), (x1, y1) = np.floor(label.boxes[i, :2]), np.ceil(label.boxes[i, 2:]) - 1
            pen.rectangle((x0, y0, x1, y1), outline=tuple(colors[i].tolist()), width=width)
        return np.array(picture)

    def legend(self, label: Detection, convention: Convention) -> list[Mark]:
        """Return names and scores of the `NAMED` best boxes that `render` draws, at their upper left corners."""
        label, colors = _drawn(label)
        order = [i for i in np.argsort(-label.scores, kind="stable") if not label.ignored[i]]
        return [
            Mark.of(
                f"{convention.classes[label.ids[i]]} {label.scores[i]:.2f}",
                colors[i],
                (float(label.shares[i, 0]), float(label.shares[i, 1])),
            )
            for i in order[:NAMED]
        ]


def _drawn(label: Detection) -> tuple[Detection, NDArray[np.uint8]]:
    """Return the boxes that are drawn, and their colors uint8 [N,3]."""
    best = float(label.scores[~label.ignored].max(initial=0))
    label = label.take(label.ignored | (label.scores >= best / 2))
    brightness = (label.scores / max(best, 1e-6))[:, None]
    return label, np.where(label.ignored[:, None], 96, palette(label.ids) * brightness).astype(np.uint8)


def _asked(labels: Sequence[Detection | None]) -> BoolArray:
    """Return ``asked`` [B,1+M] of `DetectionTask.collate`."""
    asked = [None if label is None else label.asked for label in labels]
    named = max((int(ids.max(initial=0)) + 1 for ids in asked if ids is not None), default=0)
    table = np.ones((len(labels), 1 + named), np.bool_)
    for row, ids in zip(table, asked, strict=True):
        if ids is not None:
            row[:] = False
            row[1 + ids.astype(int)] = True
    return table


def _known(target: Target, K: int) -> tuple[Tensor, Tensor]:
    """Return presence of classes, bool [B,K,H,W], and distances [B,4,H,W]; false and 0 where not valid."""
    distances = torch.where(target["valid"][:, None], target["distances"], 0)
    named = torch.arange(K, device=distances.device).view(1, K, 1, 1)
    return (target["ids"][:, None] == named) & (distances[:, :1] > 0), distances


TASK = DetectionTask()
