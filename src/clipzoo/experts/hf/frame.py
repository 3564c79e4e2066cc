"""Where an image is in what a Hugging Face model was shown: processors pad, and most post-processing forgets it.

transformers 5.24: with a fixed ``pad_size`` the processors of DETR, YOLOS, RT-DETR, MaskFormer and their like pad each
image below and to the right, and their post-processing stretches what was found on the padded canvas over the image.
Boxes are shares of that canvas, since the processors scale the boxes of training to it
(``_update_annotation_for_padded_image``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipzoo.errors import ExpertError

Size = tuple[int, int]
"""(H, W)."""


@dataclass(frozen=True)
class Frame:
    """An image and the canvas around it, in pixels of the image.

    Attributes:
        size: (H, W) of the image.
        shown: (H, W) of the canvas, padding included; not whole numbers where the image was resized.
        start: rows of padding above the image and columns to the left of it.
    """

    size: Size
    shown: tuple[float, float]
    start: Size = (0, 0)

    @property
    def whole(self) -> Size:
        """The canvas in whole pixels, for maps."""
        return round(self.shown[0]), round(self.shown[1])

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the image in a map of the `whole`."""
        return slice(self.start[0], self.start[0] + self.size[0]), slice(self.start[1], self.start[1] + self.size[1])


def frame_of(processor: Any, inputs: Mapping[str, Any], image: Any, unpads: bool) -> Frame:
    """The frame of a PIL ``image``.

    Args:
        processor: what prepared the image.
        inputs: what it made of a batch of images of that size.
        image: one of them.
        unpads: post-processing cuts the padding off itself.
    """
    own, size = images_of(processor), (image.height, image.width)
    if hasattr(own, "ensure_multiple_of"):
        return _around(own, size)
    if unpads:
        return Frame(size, size)
    if "pixel_mask" in inputs:
        shown = inputs["pixel_mask"][0].bool()
        inner = int(shown.any(1).sum()), int(shown.any(0).sum())
    elif getattr(own, "do_pad", False):
        inner = own(images=[image], do_pad=False, return_tensors="pt")["pixel_values"].shape[-2:]
    else:
        return Frame(size, size)
    canvas = inputs["pixel_values"].shape[-2:]
    return Frame(size, (size[0] * canvas[0] / inner[0], size[1] * canvas[1] / inner[1]))


def padding(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a processor with a fixed ``pad_size``: labels that were made before are of the canvas."""
    return {"padding": "cut off"} if preprocessing.get("pad_size") else {}


def images_of(processor: Any) -> Any:
    """The part of a processor that prepares images; itself if it does nothing else."""
    return getattr(processor, "image_processor", processor)


def show_all(processor: Any) -> None:
    """Have the model shown the whole of each image, since a label covers it.

    Raises:
        ExpertError: images are padded after they were resized, so that it is not known where they end.
    """
    own = images_of(processor)
    if getattr(own, "do_center_crop", False):
        own.do_center_crop = False
    if (divisor := _divisor(own)) > 1 and own.do_resize and (own.ensure_multiple_of or 1) % divisor:
        raise ExpertError(
            f"the {type(own).__name__} resizes to multiples of {own.ensure_multiple_of} and then pads to multiples of "
            f"{divisor}; give ensure_multiple_of in preprocessor_config.json the value of size_divisor"
        )


def _divisor(own: Any) -> int:
    """The number that processors of DPT's kind pad sides to a multiple of; 1 of others."""
    return int(getattr(own, "size_divisor", None) or 1) if hasattr(own, "ensure_multiple_of") and own.do_pad else 1


def _around(own: Any, size: Size) -> Frame:
    """The frame of processors of DPT's kind, ZoeDepth's among them, which cuts its padding off itself.

    Half of the padding, rounded down, is above and left (transformers, models/dpt/image_processing_dpt.py).
    """
    (H, W), divisor = size, 1 if getattr(own, "do_resize", True) else _divisor(own)  # see `show_all` of resized images
    below, right = -H % divisor, -W % divisor
    return Frame(size, (H + below, W + right), (below // 2, right // 2))
