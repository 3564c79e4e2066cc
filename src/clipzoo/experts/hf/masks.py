"""Masks of Hugging Face models: class maps, and segments or instances of universal models.

Universal models (MaskFormer and its successors) predict masks with classes. The same outputs can be read as a class map
by votes, as panoptic segments, or as instances, and a model was trained for only one of these.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast, get_args

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.boxes import around, objects
from clipzoo.experts.families.hf import ANY_SEMANTIC, EOMT, Mode
from clipzoo.experts.hf.frame import Frame, image_processor_of, padding
from clipzoo.experts.hf.options import choice, ids, share
from clipzoo.experts.hf.postprocessor import Model, OnePassPostprocessor, Query, post_process
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention, unknown
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray, Size

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor

TASKS = {"semantic": ("segmentation",), "instance": ("detection",), "panoptic": ("segmentation", "detection")}
"""What masks were trained to be -> tasks that can use them, the default first."""

FIRST_STUFF = "banner"
"""The first class of COCO's panoptic classes that is stuff: those with smaller ids are things
(github.com/cocodataset/panopticapi, panoptic_coco_categories.json)."""

INSIDE = 0.5
"""Smallest probability of a pixel inside a mask."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment or instance; its ``mask`` is bool [H,W]."""

    id: int
    score: float
    mask: BoolArray


class SemanticPostprocessor(OnePassPostprocessor):
    """The most probable class of every pixel."""

    auto = "AutoModelForSemanticSegmentation"
    task = "segmentation"

    def __init__(self, model: Model) -> None:
        self.convention = Convention(model.classes())
        self.settings: dict[str, object] = {}
        self.unknown = unknown(self.convention.classes)
        self.bilinear = model.family.architectures != ANY_SEMANTIC
        if model.architecture.startswith("Sapiens2") and model.preprocessing.get("do_pad"):
            raise ExpertError(
                f"{model.name} pads images, and the post-processing of its classes does not remove the padding "
                "(transformers 5.24): set do_pad to false in preprocessor_config.json"
            )

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Segmentation | Detection:
        """Return the class map; unknown where the best class is one of `clipzoo.tasks.base.VOID`.

        The confidence is the mean probability of the best class over pixels; None for masks.
        """
        logits, confidence, kept = output.get("logits"), None, None
        if logits is not None and logits.ndim == 4:
            confidence = float(logits.softmax(1).amax(1).mean())
            if self.bilinear:
                kept = contenders(logits[0])
                output = type(output)(**{**output, "logits": logits[:, kept]})
        function = post_process(processor, "post_process_semantic_segmentation")
        (classes,) = function(output, target_sizes=[frame.canvas_pixels])
        if kept is not None:
            classes = kept[classes]
        classes = classes.cpu().numpy().astype(np.uint16)[frame.crop]
        return Segmentation(classes, ~np.isin(classes, self.unknown), confidence)


class MasksPostprocessor(SemanticPostprocessor):
    """Masks with classes, read as what the model was trained for."""

    auto = "AutoModelForUniversalSegmentation"
    options: ClassVar[tuple[str, ...]] = ("task", "mode", "things", "threshold")

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.task_conditioned = model.architecture.startswith("OneFormer")
        if self.task_conditioned:
            self.auto_processor = "AutoProcessor"
        self.mode = _mode(model, self.task_conditioned)
        self.task = _task(model, self.mode)
        self.threshold = share(model.options, "threshold", model.family.threshold)
        self.single_image = self.mode == "semantic" and bool(model.preprocessing.get("do_split_image"))
        self.settings = {"mode": self.mode, **padding(model.preprocessing)}
        eomt = model.family.architectures == EOMT
        if self.mode != "semantic":
            self.settings["threshold"] = self.threshold
        elif eomt and model.preprocessing.get("do_pad") and not self.single_image:
            self.settings["padding"] = "cut off"
        sharing = ("panoptic", "instance") if model.architecture.startswith("Detr") else ("panoptic",)
        self.shared = self.mode in sharing and not eomt
        if self.shared:
            self.settings["mask_threshold"] = INSIDE
        if self.mode == "panoptic" and self.task == "detection":
            self.settings["things"] = _things(model, self.convention.classes)

    def unpads(self, processor: Processor) -> bool:
        """Return true for EoMT's panoptic and instance post-processing."""
        return self.mode != "semantic" and hasattr(image_processor_of(processor), "unpad_image")

    def text(self, query: Query, count: int) -> dict[str, object]:
        """Return the task input, which OneFormer's masks depend on."""
        return {"task_inputs": [self.mode] * count} if self.task_conditioned else {}

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Segmentation | Detection:
        """Return a class map, unknown where there is no segment above the threshold; or instances with masks."""
        if self.mode == "semantic":
            return super().label(processor, output, frame, query)
        segments = list(self._segments(processor, output, frame))
        if self.task == "detection":
            return self._instances(segments, frame.size)
        return self._class_map(segments, frame.size)

    def _segments(self, processor: Processor, output: ModelOutput, frame: Frame) -> Iterator[Segment]:
        """Yield the segments that are not empty.

        Segments of one class are not fused: transformers then gives several segments the same id (its issue 23461).
        """
        function = post_process(processor, f"post_process_{self.mode}_segmentation")
        parameters = inspect.signature(function).parameters
        binary = "return_binary_maps" in parameters  # a small map each; in a map of ids, overlapping instances get lost
        arguments: dict[str, object] = (
            {"return_binary_maps": True} if binary else {"target_sizes": [frame.canvas_pixels]}
        )
        if "label_ids_to_fuse" in parameters:
            arguments["label_ids_to_fuse"] = set()
        inside = _inside(output, self.threshold, frame.canvas_pixels) if self.shared else True
        (result,) = function(output, threshold=self.threshold, **arguments)
        for i, info in enumerate(result["segments_info"]):
            if binary:
                mask = _resize(result["segmentation"][i], frame.canvas_pixels)
            else:
                mask = result["segmentation"] == info["id"]
            mask = (mask & inside)[frame.crop]
            if mask.any():
                yield Segment(info["label_id"], info["score"], mask.cpu().numpy())

    def _class_map(self, segments: list[Segment], size: Size) -> Segmentation:
        classes, scores = np.zeros(size, np.uint16), np.full(size, np.nan, np.float32)
        for segment in segments:
            classes[segment.mask] = segment.id
            scores[segment.mask] = segment.score
        valid = ~np.isnan(scores) & ~np.isin(classes, self.unknown)
        return Segmentation(classes, valid, float(scores[valid].mean(dtype=np.float64)) if valid.any() else None)

    def _instances(self, segments: list[Segment], size: Size) -> Detection:
        things = cast(tuple[int, ...] | None, self.settings.get("things"))
        if things is not None:
            segments = [segment for segment in segments if segment.id in things]
        ids = [segment.id for segment in segments]
        boxes = [around(segment.mask) for segment in segments]
        masks = [rle.encode(segment.mask) for segment in segments]
        scores = [segment.score for segment in segments]
        return objects(size, boxes, ids, scores, np.isin(ids, self.unknown), masks)


def _resize(mask: Tensor, size: Size) -> Tensor:
    """Resize a tensor [h,w] of zeros and ones to bool [H,W], by nearest pixels as transformers does."""
    from torch.nn.functional import interpolate

    return interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0] > 0


def _inside(output: ModelOutput, threshold: float, size: Size) -> Tensor:
    """Return the pixels that are inside the mask to which they are assigned: a bool tensor [H,W] of ``size``.

    Panoptic post-processing assigns each pixel to the mask with the largest score at that pixel, however small that
    score is: transformers 5.24 (``compute_segments``, except EoMT's) assigns pixels that no mask contains. The papers'
    own code leaves these pixels out.
    """
    import torch
    from torch.nn.functional import interpolate

    logits: Tensor = output["logits" if "pred_masks" in output else "class_queries_logits"][0]
    masks: Tensor = output["pred_masks" if "pred_masks" in output else "masks_queries_logits"][0]
    scores, classes = logits.softmax(-1).max(-1)
    kept = (classes < logits.shape[-1] - 1) & (scores > threshold)
    if not kept.any():
        return logits.new_zeros(size, dtype=torch.bool)
    probabilities = interpolate(masks[None, kept].sigmoid(), size, mode="bilinear", align_corners=False)[0]
    assigned = (probabilities * scores[kept, None, None]).argmax(0, keepdim=True)
    inside: Tensor = probabilities.gather(0, assigned)[0] >= INSIDE
    return inside


def contenders(logits: Tensor) -> Tensor:
    """Return the classes that can be best anywhere after bilinear enlargement of logits [K,h,w]: ids [M], ascending.

    Only these need enlarging, a few of 150 in most images. An enlarged pixel is a mean of a square of 2×2 pixels: a
    class whose largest value in the square is below the smallest value of another class is not the best there.
    """
    import torch

    if min(logits.shape[1:]) < 2:
        return torch.arange(len(logits), device=logits.device)

    def over_squares(extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        pairs = extreme(logits[:, 1:], logits[:, :-1])
        return extreme(pairs[..., 1:], pairs[..., :-1])

    slack = 4 * torch.finfo(logits.dtype).eps * logits.abs().amax()  # enlargement rounds
    beaten = over_squares(torch.maximum) + slack < over_squares(torch.minimum).amax(0)
    return (~beaten).flatten(1).any(1).nonzero()[:, 0]


# Meaning of masks --------------------------------------------------------------------------------------------


def _mode(model: Model, task_conditioned: bool) -> Mode:
    """Return the mode that the URI, the family, the model's name or its classes state, in this order.

    The mode of a model that is conditioned on its task follows from the task.
    """
    modes, task = get_args(Mode), model.options.get("task")
    if "mode" in model.options:
        return choice(model.options, "mode", modes)  # type: ignore[return-value]
    if task_conditioned:
        return "instance" if task == "detection" else "semantic"
    if model.family.mode is not None:
        return model.family.mode
    named: list[Mode] = [mode for mode in modes if re.search(rf"(?<![a-z]){mode}(?![a-z])", model.name.lower())]
    if len(named) == 1:
        return named[0]
    if _coco_panoptic(model.classes()):
        return "panoptic"
    raise ExpertError(
        f"what were the masks of {model.name} trained to be? Its files do not say. Read its model card and add "
        "?mode=semantic (a class for every pixel), ?mode=instance (objects) or ?mode=panoptic (both) to the URI"
    )


def _task(model: Model, mode: Mode) -> str:
    task = model.options.get("task", TASKS[mode][0])
    if task not in TASKS[mode]:
        raise ExpertError(
            f"?task={task}: masks of {model.name} are {mode}, which gives labels of {' or '.join(TASKS[mode])} only. "
            "Remove task=, correct ?mode=, or use a model that was trained for this task"
        )
    return task


def _coco_panoptic(classes: tuple[str, ...]) -> bool:
    return FIRST_STUFF in classes and "tree-merged" in classes


def _things(model: Model, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Return the ids of classes whose segments are objects, from the URI, OneFormer's processor or COCO's names."""
    if "things" in model.options:
        return ids(model.options["things"], "things", len(classes))
    metadata = model.preprocessing.get("metadata")
    listed = metadata.get("thing_ids") if isinstance(metadata, dict) else None
    if isinstance(listed, list) and listed and all(isinstance(i, int) for i in listed):
        return tuple(sorted(listed))
    if _coco_panoptic(classes):
        return tuple(range(classes.index(FIRST_STUFF)))
    raise ExpertError(
        f"which of the {len(classes)} classes of {model.name} are objects, and which are stuff such as sky? Its files "
        "do not say. Add ?things= with ids and ranges, such as things=11-18 for Cityscapes"
    )
