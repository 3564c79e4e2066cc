"""Boxes of Hugging Face detectors, as their processors give them; objects that become a detection label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts._hf_options import share
from clipzoo.experts._hf_reading import Model, Reading, Size, post, unknown
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection


class BoxesReading(Reading):
    """Boxes with classes out of ``id2label``."""

    auto = "AutoModelForObjectDetection"
    options: ClassVar[tuple[str, ...]] = ("threshold", "floor")
    task = "detection"

    def __init__(self, model: Model) -> None:
        self.threshold = share(model.options, "threshold", model.family.threshold)
        self.floor = share(model.options, "floor", self.threshold)
        if self.floor > self.threshold:
            raise ExpertError(
                f"?floor={self.floor} is above the threshold {self.threshold}: boxes with scores between the two are "
                "ignored ones, so give a smaller floor, or none"
            )
        self.convention = Convention(self.label_space(model))
        self.settings = {"threshold": self.threshold, "floor": self.floor}
        self.unknown = unknown(self.convention.classes)

    def label_space(self, model: Model) -> tuple[str, ...]:
        """The names of the classes."""
        return model.classes()

    def label(self, processor: Any, output: Any, size: Size, asked: tuple[int, ...]) -> Detection:
        """Boxes above the floor, cut to the image; those not above the threshold ignored."""
        (found,) = post(processor, "post_process_object_detection")(output, threshold=self.floor, target_sizes=[size])
        return self.detection(size, found["boxes"], found["labels"], found["scores"])

    def detection(self, size: Size, boxes: Any, ids: Any, scores: Any) -> Detection:
        """Tensors [N,4] xyxy in pixels, [N] and [N] as a label."""
        boxes, ids, scores = (x.float().cpu().numpy() for x in (boxes, ids, scores))
        return objects(size, boxes, ids, scores, ~(scores > self.threshold) | np.isin(ids, self.unknown))


def objects(
    size: Size, boxes: Any, ids: Any, scores: Any, ignored: Any, masks: Sequence[str] | None = None
) -> Detection:
    """N objects as a label: boxes cut to the frame, and what has no area in it dropped."""
    (H, W), N = size, len(ids)
    label = Detection(
        size,
        np.clip(np.asarray(boxes, np.float32).reshape(N, 4), 0, np.array([W, H, W, H], np.float32)),
        np.asarray(ids).astype(np.uint16),
        np.clip(np.asarray(scores, np.float32), 0, 1),
        np.asarray(ignored, np.bool_),
        None if masks is None else tuple(masks),
    )
    return label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1))
