"""Edges of the masks that Segment Anything models of Hugging Face find without a prompt.

The masks are those of the library's pipeline ``mask-generation``: a grid of points, each with three masks, which are
filtered by the model's estimate of their quality and by their stability, and duplicates are removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.hf.options import count, share
from clipzoo.experts.hf.postprocessor import Model, Postprocessor, Query
from clipzoo.tasks.base import Convention
from clipzoo.tasks.edges import Edges
from clipzoo.types import BoolArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

    from clipzoo.experts.hf.frame import Processor


class BoundariesPostprocessor(Postprocessor):
    """Borders of all masks: a pixel has the quality of the best mask that ends there, 0 where none does."""

    auto = "AutoModelForMaskGeneration"
    options: ClassVar[tuple[str, ...]] = ("points", "quality", "stability")
    task = "edges"
    single_image = True

    def __init__(self, model: Model) -> None:
        dtype = model.options.get("dtype", "float32")
        if dtype != "float32":
            raise ExpertError(
                f"?dtype={dtype}: masks of points need float32, since the library's suppression of duplicates refuses "
                f"scores of {dtype} (transformers 5.24 with torchvision 0.29): remove dtype=, and use --precision bf16"
            )
        self.arguments = {
            "points_per_crop": count(model.options, "points", 32),
            "pred_iou_thresh": share(model.options, "quality", 0.88),
            "stability_score_thresh": share(model.options, "stability", 0.95),
        }
        self.convention = Convention()
        self.settings = {**self.arguments, "edges": "inner borders of masks"}

    def labels(
        self, model: PreTrainedModel, processor: Processor, pictures: Sequence[Image], query: Query
    ) -> list[object]:
        """Return one label per picture.

        Raises:
            SampleError: no mask passes the filters, so that nothing is known about the edges of the picture.
        """
        import transformers

        masks_of = transformers.pipeline("mask-generation", model, image_processor=processor, device=model.device)
        found = [masks_of(picture, **self.arguments) for picture in pictures]
        return [self._edges(result["masks"], result["scores"].float().cpu().tolist()) for result in found]

    def _edges(self, masks: Sequence[BoolArray], scores: Sequence[float]) -> Edges:
        if not masks:
            raise SampleError(
                f"no mask has a quality above {self.arguments['pred_iou_thresh']} and a stability above "
                f"{self.arguments['stability_score_thresh']}: give smaller values of ?quality= and ?stability="
            )
        values = np.zeros(masks[0].shape, np.float32)
        for mask, score in zip(masks, scores, strict=True):
            border = _border(np.asarray(mask, np.bool_))
            values[border] = np.maximum(values[border], np.clip(score, 0, 1))
        return Edges(values, np.ones(values.shape, np.bool_))


def _border(mask: BoolArray) -> BoolArray:
    """Return the pixels of a mask with a neighbor above, below, left or right that is in the image, not in the mask."""
    outside = np.zeros_like(mask)
    outside[1:] |= ~mask[:-1]
    outside[:-1] |= ~mask[1:]
    outside[:, 1:] |= ~mask[:, :-1]
    outside[:, :-1] |= ~mask[:, 1:]
    return mask & outside
