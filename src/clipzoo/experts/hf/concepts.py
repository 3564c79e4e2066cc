"""Instances of concepts that prompts name: SAM 3 of Hugging Face, which searches an image for one concept at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from clipzoo.experts.boxes import objects
from clipzoo.experts.hf.frame import Frame, frame_of
from clipzoo.experts.hf.postprocessor import Query, one, post_process
from clipzoo.experts.hf.prompts import PromptedPostprocessor
from clipzoo.tasks import rle

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor
    from clipzoo.tasks.detection import Detection

LONGEST = 32
"""Tokens of a prompt (transformers 5.24, models/sam3/processing_sam3.py pads to this length and cuts nothing)."""


class ConceptsPostprocessor(PromptedPostprocessor):
    """Instances with boxes and masks; the image is encoded once for all concepts."""

    auto = "Sam3Model"
    auto_processor = "Sam3Processor"
    calls: ClassVar[tuple[str, ...]] = ("forward", "get_vision_features")

    def check_length(self, processor: Processor, query: Query) -> None:
        """Raise `ExpertError` if a name is longer than a prompt."""
        self.check_names(processor, query, LONGEST)

    def text(self, query: Query, count: int) -> dict[str, object]:
        """Return the names as prompts, for all images of a batch."""
        return {"text": self.prompts(query)}

    def labels(
        self, model: PreTrainedModel, processor: Processor, pictures: Sequence[Image], query: Query
    ) -> list[object]:
        """Return one label per picture; each concept is one pass of the detector over the batch."""
        count = len(pictures)
        inputs = self.prepare(processor, pictures, query).to(model.device, model.dtype)
        frame = frame_of(processor, inputs, pictures[0], self.unpads(processor))
        images = model.get_vision_features(pixel_values=inputs["pixel_values"])
        found: list[list[Detection]] = [[] for _ in pictures]
        for position in range(len(query)):
            this = slice(position, position + 1)
            prompt = {name: inputs[name][this].expand(count, -1) for name in ("input_ids", "attention_mask")}
            outputs = model(vision_embeds=images, **prompt)
            for row, labels in enumerate(found):
                output = one(outputs, row, count)
                labels.append(self.label(processor, output, frame, query[this]))
        return [self.with_query(query, _joined(labels)) for labels in found]

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Detection:
        """Return the instances of the only concept of ``query``."""
        function = post_process(processor, "post_process_instance_segmentation")
        (result,) = function(output, threshold=self.floor, target_sizes=[frame.canvas_pixels])
        scores = result["scores"]
        ids = scores.new_full(scores.shape, query[0])
        masks = [rle.encode(mask[frame.crop]) for mask in result["masks"].bool().cpu().numpy()]
        return self.detection(frame.size, result["boxes"], ids, scores, masks)


def _joined(labels: Sequence[Detection]) -> Detection:
    """Return the objects of all labels of one image in one label."""
    boxes, ids, scores, ignored = (
        np.concatenate([getattr(label, name) for label in labels]) for name in ("boxes", "ids", "scores", "ignored")
    )
    masks = [text for label in labels for text in label.masks or ()]
    return objects(labels[0].size, boxes, ids, scores, ignored, masks)
