"""Masks of Hugging Face models: maps of classes, and of universal models segments or instances.

Universal models (MaskFormer and its kin) predict masks with classes, whatever they were trained for; the same outputs
are read by semantic votes, as panoptic segments or as instances, and only one of these is what training meant.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, ClassVar, get_args

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.boxes import around, objects
from clipzoo.experts.hf.families import ANY_SEMANTIC, EOMT, Mode
from clipzoo.experts.hf.frame import Frame, Size, images_of, padding
from clipzoo.experts.hf.options import choice, ids, share
from clipzoo.experts.hf.reading import Model, Reading, post
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention, unknown
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray

GIVES = {"semantic": ("segmentation",), "instance": ("detection",), "panoptic": ("segmentation", "detection")}
"""What masks were trained to be -> tasks that they can be labels of, the default first."""

FIRST_STUFF = "banner"
"""Of COCO's panoptic classes, in the order of their ids, those before it are things
(github.com/cocodataset/panopticapi, panoptic_coco_categories.json)."""


HELD = 0.5
"""The probability from which on a mask holds a pixel."""


class SemanticReading(Reading):
    """The best class of every pixel."""

    auto = "AutoModelForSemanticSegmentation"
    task = "segmentation"

    def __init__(self, model: Model) -> None:
        self.convention = Convention(model.classes())
        self.settings: dict[str, Any] = {}
        self.unknown = unknown(self.convention.classes)
        self.bilinear = model.family.architectures != ANY_SEMANTIC

    def label(self, processor: Any, output: Any, frame: Frame, asked: tuple[int, ...]) -> Any:
        """Unknown where the best class is one of `clipzoo.tasks.base.VOID`.

        The confidence is the mean over pixels of the best class's probability; None where masks vote.
        """
        logits, sure, able = output.get("logits"), None, None
        if logits is not None and logits.ndim == 4:
            sure = float(logits.softmax(1).amax(1).mean())
            if self.bilinear:
                able = contenders(logits[0])
                output = type(output)(**{**output, "logits": logits[:, able]})
        (found,) = post(processor, "post_process_semantic_segmentation")(output, target_sizes=[frame.whole])
        classes = (found if able is None else able[found]).cpu().numpy().astype(np.uint16)[frame.place]
        return Segmentation(classes, ~np.isin(classes, self.unknown), sure)


class MasksReading(SemanticReading):
    """Masks with classes, read as what they were trained to be."""

    auto = "AutoModelForUniversalSegmentation"
    options: ClassVar[tuple[str, ...]] = ("task", "mode", "things", "threshold")

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.told = model.architecture.startswith("OneFormer")
        self.words = self.told
        self.mode = _mode(model, self.told)
        self.task = _task(model, self.mode)
        self.threshold = share(model.options, "threshold", model.family.threshold)
        self.one_by_one = self.mode == "semantic" and bool(model.preprocessing.get("do_split_image"))
        self.settings = {"mode": self.mode, **padding(model.preprocessing)}
        eomt = model.family.architectures == EOMT
        if self.mode != "semantic":
            self.settings["threshold"] = self.threshold
        elif eomt and model.preprocessing.get("do_pad") and not self.one_by_one:
            self.settings["padding"] = "cut off"
        sharing = ("panoptic", "instance") if model.architecture.startswith("Detr") else ("panoptic",)
        self.shared = self.mode in sharing and not eomt
        if self.shared:
            self.settings["mask_threshold"] = HELD
        if self.mode == "panoptic" and self.task == "detection":
            self.settings["things"] = _things(model, self.convention.classes)

    def unpads(self, processor: Any) -> bool:
        """EoMT's panoptic and instance post-processing does."""
        return self.mode != "semantic" and hasattr(images_of(processor), "unpad_image")

    def text(self, asked: tuple[int, ...], count: int) -> dict[str, Any]:
        """OneFormer is told what its masks shall be."""
        return {"task_inputs": [self.mode] * count} if self.told else {}

    def label(self, processor: Any, output: Any, frame: Frame, asked: tuple[int, ...]) -> Any:
        """A map of classes, unknown where no segment is sure; or instances with their masks."""
        if self.mode == "semantic":
            return super().label(processor, output, frame, asked)
        found = list(self._segments(processor, output, frame))
        return self._instances(found, frame.size) if self.task == "detection" else self._map(found, frame.size)

    def _segments(self, processor: Any, output: Any, frame: Frame) -> Iterator[tuple[int, float, BoolArray]]:
        """Class, score and mask [H,W] of each segment; empty masks are none.

        Segments of one class are never fused: transformers then gives several segments one id (its issue 23461).
        """
        function = post(processor, f"post_process_{self.mode}_segmentation")
        known = inspect.signature(function).parameters
        apart = "return_binary_maps" in known  # one mask each, small; a map of ids loses where instances overlap
        wishes: dict[str, Any] = {"return_binary_maps": True} if apart else {"target_sizes": [frame.whole]}
        if "label_ids_to_fuse" in known:
            wishes["label_ids_to_fuse"] = set()
        held = _held(output, self.threshold, frame.whole) if self.shared else True
        (found,) = function(output, threshold=self.threshold, **wishes)
        for i, segment in enumerate(found["segments_info"]):
            mask = _enlarged(found["segmentation"][i], frame.whole) if apart else found["segmentation"] == segment["id"]
            mask = (mask & held)[frame.place]
            if mask.any():
                yield segment["label_id"], segment["score"], mask.cpu().numpy()

    def _map(self, found: list[tuple[int, float, BoolArray]], size: Size) -> Segmentation:
        classes, scores = np.zeros(size, np.uint16), np.full(size, np.nan, np.float32)
        for kind, score, mask in found:
            classes[mask], scores[mask] = kind, score
        valid = ~np.isnan(scores) & ~np.isin(classes, self.unknown)
        return Segmentation(classes, valid, float(scores[valid].mean(dtype=np.float64)) if valid.any() else None)

    def _instances(self, found: list[tuple[int, float, BoolArray]], size: Size) -> Detection:
        found = [one for one in found if one[0] in self.settings.get("things", (one[0],))]
        kinds, scores = [one[0] for one in found], [one[1] for one in found]
        boxes, masks = [around(one[2]) for one in found], [rle.encode(one[2]) for one in found]
        return objects(size, boxes, kinds, scores, np.isin(kinds, self.unknown), masks)


def _enlarged(mask: Any, size: Size) -> Any:
    """A tensor [h,w] of zeros and ones at the image's size, bool [H,W], by nearest pixels as transformers does."""
    from torch.nn.functional import interpolate

    return interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0] > 0


def _held(output: Any, threshold: float, size: Size) -> Any:
    """Which pixels are in the mask that they are given to: a bool tensor [H,W] of ``size``.

    Where masks share pixels out, each goes to the mask that is surest of it, however unsure that is: transformers 5.24
    (``compute_segments``, but for EoMT's) gives to a segment what no mask holds. The papers' own code leaves it out.
    """
    from torch.nn.functional import interpolate

    logits = output["logits" if "pred_masks" in output else "class_queries_logits"][0]
    masks = output["pred_masks" if "pred_masks" in output else "masks_queries_logits"][0]
    scores, kinds = logits.softmax(-1).max(-1)
    kept = (kinds < logits.shape[-1] - 1) & (scores > threshold)
    if not kept.any():
        return logits.new_zeros(size, dtype=bool)
    shares = interpolate(masks[None, kept].sigmoid(), size, mode="bilinear", align_corners=False)[0]
    surest = (shares * scores[kept, None, None]).argmax(0, keepdim=True)
    return shares.gather(0, surest)[0] >= HELD


def contenders(logits: Any) -> Any:
    """Which classes of logits [K,h,w] can be best somewhere once they are enlarged bilinearly: ids [M], ascending.

    Only these need enlarging, a few of 150 in most pictures. A pixel between others is a mean of a square of 2×2: a
    class whose largest of the four is less than another's smallest is not the best there.
    """
    import torch

    if min(logits.shape[1:]) < 2:
        return torch.arange(len(logits), device=logits.device)

    def over_squares(extreme: Any) -> Any:
        pairs = extreme(logits[:, 1:], logits[:, :-1])
        return extreme(pairs[..., 1:], pairs[..., :-1])

    slack = 4 * torch.finfo(logits.dtype).eps * logits.abs().amax()  # the enlarging rounds
    beaten = over_squares(torch.maximum) + slack < over_squares(torch.minimum).amax(0)
    return (~beaten).flatten(1).any(1).nonzero()[:, 0]


# What masks are ----------------------------------------------------------------------------------------------


def _mode(model: Model, told: bool) -> Mode:
    """What the URI, the family, the model's name or its classes say; of a model that is told, what the task wants."""
    modes, task = get_args(Mode), model.options.get("task")
    if "mode" in model.options:
        return choice(model.options, "mode", modes)  # type: ignore[return-value]
    if told:
        return "instance" if task == "detection" else "semantic"
    named = [mode for mode in modes if re.search(rf"(?<![a-z]){mode}(?![a-z])", model.name.lower())]
    found = model.family.mode or (named[0] if len(named) == 1 else None)
    if found is None and _coco_panoptic(model.classes()):
        found = "panoptic"
    if found is None:
        raise ExpertError(
            f"what were the masks of {model.name} trained to be? Its files do not say; see its model card and add "
            "?mode=semantic (a class for every pixel), ?mode=instance (objects) or ?mode=panoptic (both) to the URI"
        )
    return found


def _task(model: Model, mode: Mode) -> str:
    task = model.options.get("task", GIVES[mode][0])
    if task not in GIVES[mode]:
        raise ExpertError(
            f"?task={task}: masks of {model.name} are {mode}, and can be labels of {' or '.join(GIVES[mode])}; "
            "leave task out, name a model trained for it, or correct ?mode="
        )
    return task


def _coco_panoptic(classes: tuple[str, ...]) -> bool:
    return FIRST_STUFF in classes and "tree-merged" in classes


def _things(model: Model, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Ids of classes whose segments are objects: as the URI, OneFormer's processor or COCO's names tell."""
    if "things" in model.options:
        return ids(model.options["things"], "things", len(classes))
    metadata = model.preprocessing.get("metadata")
    listed = metadata.get("thing_ids") if isinstance(metadata, dict) else None
    if isinstance(listed, list) and listed and all(isinstance(i, int) for i in listed):
        return tuple(sorted(listed))
    if _coco_panoptic(classes):
        return tuple(range(classes.index(FIRST_STUFF)))
    raise ExpertError(
        f"which of the {len(classes)} classes of {model.name} are objects, and which stuff like sky? Its files do not "
        "say; add ?things= with ids and ranges, as things=11-18 of Cityscapes"
    )
