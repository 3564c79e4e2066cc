"""Boxes of Hugging Face detectors, as their processors give them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.boxes import objects
from clipzoo.experts.hf.frame import Frame, Size, padding
from clipzoo.experts.hf.options import share
from clipzoo.experts.hf.reading import Model, Reading, post
from clipzoo.tasks.base import Convention, unknown
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
        self.settings = {"threshold": self.threshold, "floor": self.floor, **padding(model.preprocessing)}
        self.unknown = unknown(self.convention.classes)

    def label_space(self, model: Model) -> tuple[str, ...]:
        """The names of the classes."""
        return model.classes()

    def label(self, processor: Any, output: Any, frame: Frame, asked: tuple[int, ...]) -> Detection:
        """Boxes above the floor, cut to the image; those not above the threshold ignored."""
        function = post(processor, "post_process_object_detection")
        (found,) = function(output, threshold=self.floor, target_sizes=[frame.shown])
        return self.detection(frame.size, found["boxes"], found["labels"], found["scores"])

    def detection(self, size: Size, boxes: Any, ids: Any, scores: Any) -> Detection:
        """Tensors [N,4] xyxy in pixels, [N] and [N] as a label."""
        boxes, ids, scores = (x.float().cpu().numpy() for x in (boxes, ids, scores))
        return objects(size, boxes, ids, scores, ~(scores > self.threshold) | np.isin(ids, self.unknown))
