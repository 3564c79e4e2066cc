"""Boxes of Hugging Face detectors, from their processors' post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.boxes import objects
from clipzoo.experts.hf.frame import Frame, padding
from clipzoo.experts.hf.options import share
from clipzoo.experts.hf.postprocessor import Model, OnePassPostprocessor, Query, post_process
from clipzoo.tasks.base import Convention, unknown
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor


class BoxesPostprocessor(OnePassPostprocessor):
    """Boxes with classes of ``id2label``."""

    auto = "AutoModelForObjectDetection"
    options: ClassVar[tuple[str, ...]] = ("threshold", "floor")
    task = "detection"

    def __init__(self, model: Model) -> None:
        self.threshold = share(model.options, "threshold", model.family.threshold)
        self.floor = share(model.options, "floor", self.threshold)
        if self.floor > self.threshold:
            raise ExpertError(
                f"?floor={self.floor} is above the threshold {self.threshold}. Boxes with scores between the two are "
                "stored as ignored boxes: give a smaller floor, or remove it"
            )
        self.convention = Convention(self.label_space(model))
        self.settings = {"threshold": self.threshold, "floor": self.floor, **padding(model.preprocessing)}
        self.unknown = unknown(self.convention.classes)

    def label_space(self, model: Model) -> tuple[str, ...]:
        """Return the names of the classes."""
        return model.classes()

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Detection:
        """Return the boxes above the floor, clipped to the image; those up to the threshold are ignored boxes."""
        function = post_process(processor, "post_process_object_detection")
        (result,) = function(output, threshold=self.floor, target_sizes=[frame.canvas])
        return self.detection(frame.size, result["boxes"], result["labels"], result["scores"])

    def detection(
        self, size: Size, boxes: Tensor, ids: Tensor, scores: Tensor, masks: Sequence[str] | None = None
    ) -> Detection:
        """Make a label of tensors: boxes [N,4] xyxy in pixels, ids [N], scores [N], and run lengths of masks."""
        places, numbers, shares = (tensor.float().cpu().numpy() for tensor in (boxes, ids, scores))
        ignored = ~(shares > self.threshold) | np.isin(numbers, self.unknown)
        return objects(size, places, numbers, shares, ignored, masks)
