"""Boxes with masks of Hugging Face detectors whose queries predict both (RF-DETR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipzoo.experts.hf.boxes import BoxesPostprocessor
from clipzoo.experts.hf.frame import Frame
from clipzoo.experts.hf.postprocessor import Query, post_process
from clipzoo.tasks import rle

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor
    from clipzoo.tasks.detection import Detection


class InstancesPostprocessor(BoxesPostprocessor):
    """Boxes with classes of ``id2label`` and their masks."""

    auto = "AutoModelForInstanceSegmentation"

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Detection:
        """Return the boxes above the floor whose masks are not empty.

        The library gives boxes and masks by two functions, in one order (by score), and leaves out empty masks
        (transformers 5.24, models/rf_detr/image_processing_rf_detr.py). So each mask belongs to the next box with its
        class and score.
        """
        (found,) = post_process(processor, "post_process_object_detection")(
            output, threshold=self.floor, target_sizes=[frame.canvas]
        )
        (parts,) = post_process(processor, "post_process_instance_segmentation")(
            output, threshold=self.floor, target_sizes=[frame.canvas_pixels], return_binary_maps=True
        )
        scores, ids = found["scores"].tolist(), found["labels"].tolist()
        kept: list[int] = []
        for part in parts["segments_info"]:
            start = kept[-1] + 1 if kept else 0
            same = (part["label_id"], part["score"])
            kept.append(next(i for i in range(start, len(ids)) if (ids[i], round(scores[i], 6)) == same))
        masks = [rle.encode(mask[frame.crop]) for mask in parts["segmentation"].cpu().numpy()] if kept else []
        boxes, labels, shares = (found[name][kept] for name in ("boxes", "labels", "scores"))
        return self.detection(frame.size, boxes, labels, shares, masks)
