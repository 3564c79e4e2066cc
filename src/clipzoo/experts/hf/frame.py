"""Position of an image in a model's input: processors pad images, and most post-processing ignores the padding.

transformers 5.24: with a fixed ``pad_size`` the processors of DETR, YOLOS, RT-DETR, MaskFormer and similar models pad
each image at the bottom and right, and their post-processing stretches the padded canvas over the image. Boxes are
fractions of that canvas, since the processors scale the boxes of training to it
(``_update_annotation_for_padded_image``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from clipzoo.errors import ExpertError
from clipzoo.types import Size

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BaseImageProcessor, BatchFeature, ProcessorMixin

    Processor: TypeAlias = ProcessorMixin | BaseImageProcessor


@dataclass(frozen=True)
class Frame:
    """An image and the padded canvas around it, in pixels of the image.

    Attributes:
        size: (H, W) of the image.
        canvas: (H, W) of the canvas, with its padding; fractional where the image was resized.
        start: rows of padding above the image and columns of padding left of it.
    """

    size: Size
    canvas: tuple[float, float]
    start: Size = (0, 0)

    @property
    def canvas_pixels(self) -> Size:
        """(H, W) of the canvas in whole pixels, for maps."""
        return round(self.canvas[0]), round(self.canvas[1])

    @property
    def crop(self) -> tuple[slice, slice]:
        """Rows and columns of the image in a map of the canvas."""
        return slice(self.start[0], self.start[0] + self.size[0]), slice(self.start[1], self.start[1] + self.size[1])


def frame_of(processor: Processor, inputs: BatchFeature, image: Image, unpads: bool) -> Frame:
    """Return the frame of a PIL ``image``.

    Args:
        processor: the processor that prepared the image.
        inputs: its output for a batch of images of that size.
        image: one of these images.
        unpads: whether post-processing removes the padding.
    """
    image_processor = image_processor_of(processor)
    size = image.height, image.width
    if hasattr(image_processor, "ensure_multiple_of"):
        return _centered(image_processor, size)
    if unpads:
        return Frame(size, size)
    if "pixel_mask" in inputs:
        mask = inputs["pixel_mask"][0].bool()
        inner = int(mask.any(1).sum()), int(mask.any(0).sum())
    elif getattr(image_processor, "do_pad", False):
        unpadded = image_processor(images=[image], do_pad=False, return_tensors="pt")
        inner = unpadded["pixel_values"].shape[-2:]
    else:
        return Frame(size, size)
    canvas = inputs["pixel_values"].shape[-2:]
    return Frame(size, (size[0] * canvas[0] / inner[0], size[1] * canvas[1] / inner[1]))


def padding(preprocessing: Mapping[str, object]) -> dict[str, object]:
    """Return the setting that a card records for a fixed ``pad_size``: labels of older versions cover the canvas."""
    return {"padding": "cut off"} if preprocessing.get("pad_size") else {}


def image_processor_of(processor: Processor) -> BaseImageProcessor:
    """Return the part of a processor that prepares images: itself if it takes only images."""
    found: BaseImageProcessor = getattr(processor, "image_processor", processor)
    return found


def disable_center_crop(processor: Processor) -> None:
    """Make the processor show the model each image whole, since a label covers the whole image.

    Raises:
        ExpertError: images are resized and then padded, so that the border between them is unknown.
    """
    image_processor = image_processor_of(processor)
    if getattr(image_processor, "do_center_crop", False):
        image_processor.do_center_crop = False
    divisor = _divisor(image_processor)
    if divisor > 1 and image_processor.do_resize and (image_processor.ensure_multiple_of or 1) % divisor:
        raise ExpertError(
            f"the {type(image_processor).__name__} resizes to multiples of {image_processor.ensure_multiple_of} and "
            f"then pads to multiples of {divisor}. The place of the image in the result is then unknown: give "
            "ensure_multiple_of in preprocessor_config.json the value of size_divisor"
        )


def _divisor(image_processor: BaseImageProcessor) -> int:
    """Return the number to whose multiples a DPT-like processor pads both sides; 1 for other processors."""
    if hasattr(image_processor, "ensure_multiple_of") and image_processor.do_pad:
        return int(getattr(image_processor, "size_divisor", None) or 1)
    return 1


def _centered(image_processor: BaseImageProcessor, size: Size) -> Frame:
    """Return the frame of a DPT-like processor; ZoeDepth's is one of them and removes its padding itself.

    Half of the padding, rounded down, is above and left (transformers, models/dpt/image_processing_dpt.py). Resized
    images have none (see `disable_center_crop`).
    """
    H, W = size
    divisor = 1 if getattr(image_processor, "do_resize", True) else _divisor(image_processor)
    rows, columns = -H % divisor, -W % divisor
    return Frame(size, (H + rows, W + columns), (rows // 2, columns // 2))
