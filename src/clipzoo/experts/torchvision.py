"""Segmentation and detection of torchvision: ``torchvision:<model>[?weights=NAME&file=PATH&option=value…]``.

``weights`` is a name of the model's weights, which torchvision keeps in its cache; ``file`` is a state dict on disk
(.safetensors, or .pth read without running code): of one's own training, with its ``classes``, or of ``weights`` where
there is no network. Images are prepared and outputs made into boxes by torchvision itself. Further options:
``threshold`` and ``floor`` (scores from which a box is an object, and below which it is nothing), ``size`` (of the
shorter side), ``batch_size``, ``license``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import _boxes
from clipzoo.experts._answers import Parser, answer, number, parse_classes, split
from clipzoo.experts.base import Expert, ExpertCard, Family, fetching, sha256
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray

THRESHOLD, FLOOR = 0.5, 0.2
OPTIONS = {
    "weights": "a name of the model's weights, by default torchvision's own default",
    "file": "a state dict on disk, .safetensors or .pth",
    "classes": "of the file's model, in the order of its ids: of segmentation all, of detection those from id 1 on",
    "size": "the shorter side, in pixels, to which images are brought, by default as the weights were trained",
    "batch_size": "images a batch, by default 4",
    "license": "of the file's weights",
    "licence": "",
}
SCORES = {
    "threshold": f"the score from which a box is an object, by default {THRESHOLD}",
    "floor": f"the score below which a box is nothing, by default {FLOOR}; between the two it is ignored",
}
BACKGROUND, UNUSED = "__background__", "N/A"
"""What torchvision calls class 0, and ids that COCO left out."""

MASK = 0.5
"""The probability from which a pixel is of an object (Mask R-CNN, He et al. 2017, section 3)."""

LONGEST = 8
"""Segmentation brings the shorter side to a size, whatever becomes of the longer: of at most so many times it here."""

EXACT = ("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Models whose weights COCO_V1 were trained without the small number that batch normalization adds to variances."""

LICENCE = "BSD-3-Clause; the terms of COCO's pictures may apply"

_VOC_SPACE = (
    "Pascal VOC's 20 classes and background, which is class 0: all that is none of the 20, other things of COCO "
    "included; void in training (where masks overlap) is not predicted"
)
_COCO_SPACE = (
    "COCO's 80 classes; boxes xyxy in pixels of the image. Ids run to 90: 0 is background, which no box has, and 10 "
    "are not used (N/A): these are removed, the others count from 0"
)
FAMILIES: tuple[Family, ...] = (
    Family("FCN", "segmentation", _VOC_SPACE, "torchvision: models/segmentation/fcn.py, _COMMON_META"),
    Family("DeepLabV3", "segmentation", _VOC_SPACE, "torchvision: models/segmentation/deeplabv3.py, _COMMON_META"),
    Family("LR-ASPP", "segmentation", _VOC_SPACE, "torchvision: models/segmentation/lraspp.py, weights' _docs"),
    Family("Faster R-CNN", "detection", _COCO_SPACE, "torchvision: models/detection/faster_rcnn.py, models/_meta.py"),
    Family("FCOS", "detection", _COCO_SPACE, "torchvision: models/detection/fcos.py, models/_meta.py"),
    Family("RetinaNet", "detection", _COCO_SPACE, "torchvision: models/detection/retinanet.py, models/_meta.py"),
    Family("SSD", "detection", _COCO_SPACE, "torchvision: models/detection/ssd.py, models/_meta.py"),
    Family("SSDlite", "detection", _COCO_SPACE, "torchvision: models/detection/ssdlite.py, models/_meta.py"),
    Family(
        "Mask R-CNN", "detection", f"{_COCO_SPACE}; a mask of the whole image each, its probabilities cut at 0.5",
        "torchvision: models/detection/mask_rcnn.py, models/_meta.py",
    ),
    Family(
        "Keypoint R-CNN", "detection", "boxes of persons, one class; keypoints are left out",
        "torchvision: models/detection/keypoint_rcnn.py, models/_meta.py",
    ),
)  # fmt: skip


def create(name: str) -> Torchvision:
    """The expert of ``<model>[?option=value&…]``; its weights are fetched, but not loaded.

    Raises:
        ExpertError: not a model of segmentation or detection, wrong options, or weights that are not at hand.
    """
    model, _, query = name.partition("?")
    given = split(query)
    task = _task(model)
    scores = SCORES if task == "detection" else {}
    fields = {
        "threshold": THRESHOLD,
        "floor": FLOOR,
        "batch_size": 4,
        **answer(given, {}, {**OPTIONS, **scores}, PARSERS, "torchvision", task),
    }
    if "classes" in fields and "file" not in fields:
        raise ExpertError("torchvision: classes= names those of a file's model; give file=, or leave classes out")
    if fields["floor"] > fields["threshold"]:
        raise ExpertError("torchvision: floor= is above threshold=, so that no box would be ignored; lower it")
    return Torchvision(f"torchvision:{name}", model, task, fields)


class Torchvision(Expert):
    """A model of torchvision."""

    def __init__(self, uri: str, model: str, task: str, fields: Mapping[str, Any]) -> None:
        self.model, self.fields = model, fields
        self.batch_size = fields["batch_size"]
        self.weights, self.official = _weights(model, fields)
        self.path = fields["file"] if "file" in fields else _fetched(self.weights)
        self.names = tuple(self.weights.meta["categories"])
        if "classes" in fields:
            self.names = (*([BACKGROUND] if task == "detection" else []), *fields["classes"])
        things = [i for i, name in enumerate(self.names) if name != UNUSED and (i or task == "segmentation")]
        self._numbers = np.full(len(self.names), -1)
        self._numbers[things] = np.arange(len(things))
        classes = tuple(self.names[i].replace(BACKGROUND, "background") for i in things)
        told = ("size", *(SCORES if task == "detection" else ()))
        settings = {name: fields[name] for name in told if name in fields}
        self.card = ExpertCard(
            uri,
            task,
            Convention(classes),
            license=fields.get("license", LICENCE if self.official else "unknown"),
            revision=self.weights.name if self.official else "",
            weights_sha256=sha256(self.path),
            preprocessing={"transforms": " ".join(repr(self.weights.transforms()).split()), **settings},
        )
        self._model: Any = None
        self._prepare: Any = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        """Build the model and load its weights.

        Raises:
            ExpertError: the file is none of the model's.
        """
        from torchvision.models import get_model

        state = _state(self.path)
        model = get_model(self.model, weights=None, weights_backbone=None, num_classes=len(self.names))
        _freeze(model, state, every=self.official and self.model.endswith("_fpn"))
        if self.official and self.model in EXACT and self.weights.name == "COCO_V1":
            _set_eps(model, 0.0)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ExpertError(
                f"{self.path} is no state dict of a {self.model} with {len(self.names)} outputs ({self.names[0]}, …): "
                f"{' '.join(str(error).split())[:500]}; name its model, and its classes= if it was trained for others"
            ) from error
        self._adapt(model)
        self._model, self._device = model.eval().to(device), device

    @property
    def module(self) -> Any:
        """The model, for precision and layout of labeling; None before `load`."""
        return self._model

    def _adapt(self, model: Any) -> None:
        """Make the options the model's."""
        size, task = self.fields.get("size"), self.card.task
        self._prepare = self.weights.transforms(**({"resize_size": size} if size and task == "segmentation" else {}))
        if task == "detection":
            if size:
                if getattr(model.transform, "fixed_size", None):
                    raise ExpertError(f"{self.card.uri}: images of a {self.model} have a fixed size; leave size= out")
                model.transform.min_size = (size,)
            judge = getattr(model, "roi_heads", model)  # less than the floor costs time and memory, and tells nothing
            judge.score_thresh = max(judge.score_thresh, self.fields["floor"])

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """One label an image, of the image's size."""
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        import torch

        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        H, W = batch.shape[-2:]
        segmentation = self.card.task == "segmentation"
        if segmentation and max(H, W) > LONGEST * min(H, W):
            raise SampleError(
                f"the picture is too long and thin: {W}×{H}; {self.model} enlarges the shorter side, and could not "
                "hold the longer one"
            )
        with torch.inference_mode():
            prepared = self._prepare(batch).to(self._device)
            if segmentation:
                return [_best(logits, (H, W)) for logits in self._model(prepared)["out"].float()]
            return [self._boxes(found, (H, W)) for found in self._model(list(prepared))]

    def _boxes(self, found: Mapping[str, Any], size: tuple[int, int]) -> Detection:
        """Boxes of classes that have a name."""
        arrays = {name: found[name].cpu().numpy() for name in ("boxes", "labels", "scores")}
        ids = self._numbers[arrays["labels"]]
        rows = np.flatnonzero(ids >= 0)
        masks = None
        if "masks" in found:
            masks = [rle.encode((found["masks"][int(row), 0] > MASK).cpu().numpy()) for row in rows]
        threshold, floor = self.fields["threshold"], self.fields["floor"]
        return _boxes.guesses(size, arrays["boxes"][rows], ids[rows], arrays["scores"][rows], threshold, floor, masks)


def _best(logits: Any, size: tuple[int, int]) -> Segmentation:
    """The best class of logits [K,h,w], enlarged to ``size`` (H, W) class by class: K maps of it would fill the memory.

    The confidence is the mean over the model's pixels of the best class's probability.
    """
    import torch
    from torch.nn.functional import interpolate

    best, ids = None, None
    for place, one in enumerate(logits):
        values = interpolate(one[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        if best is None or ids is None:
            best, ids = values, torch.zeros_like(values, dtype=torch.int32)
        else:
            higher = values > best
            ids[higher] = place
            best = torch.maximum(best, values)
    assert ids is not None, "a model has classes"
    confidence = float(logits.softmax(0).amax(0).mean())
    return Segmentation(ids.cpu().numpy().astype(np.uint16), np.ones(size, np.bool_), min(confidence, 1.0))


# Models and weights ----------------------------------------------------------------------------------------


def _task(model: str) -> str:
    """What a model of the zoo gives."""
    from torchvision import models

    known = {
        name: task
        for task, module in (("segmentation", models.segmentation), ("detection", models.detection))
        for name in models.list_models(module=module)
    }
    if model not in known:
        near = difflib.get_close_matches(model, known, 3) or list(known)
        raise ExpertError(f"torchvision has no model {model!r} of segmentation or detection; it has {', '.join(near)}")
    return known[model]


def _weights(model: str, fields: Mapping[str, Any]) -> tuple[Any, bool]:
    """The weights that the model's preparation and classes are those of, and whether they are the model's own."""
    from torchvision.models import get_model_weights

    known = get_model_weights(model)
    name = fields.get("weights")
    if name is not None:
        name = name.rpartition(".")[2]
        if name not in known.__members__:
            raise ExpertError(f"{model} has no weights {name!r}; it has {', '.join(known.__members__)}")
        return known[name], True
    if "file" in fields and "classes" not in fields:
        for weights in known:
            if fields["file"].name == _basename(weights):
                return weights, True
    return known.DEFAULT, "file" not in fields


def _basename(weights: Any) -> str:
    return str(weights.url.rpartition("/")[2])


def _fetched(weights: Any) -> Path:
    """Weights in torchvision's cache, downloaded if they are not there."""
    import torch

    name = _basename(weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    begins = name.rpartition("-")[2].partition(".")[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fetching(weights.url, path.parent)
            torch.hub.download_url_to_file(weights.url, str(path), begins, progress=False)
    except (OSError, RuntimeError) as error:  # no network, a full disk; bytes that are not those of the name
        raise ExpertError(
            f"cannot download {weights} ({type(error).__name__}: {error}); where there is a network fetch "
            f"{weights.url}, and copy it to {path}, or name it by ?weights={weights.name}&file=PATH"
        ) from error
    if not sha256(path).startswith(begins):
        raise ExpertError(f"{path} is damaged: its SHA-256 does not begin with {begins}; delete it, and run again")
    return path


def _state(path: Path) -> dict[str, Any]:
    """A state dict, without the auxiliary classifier that only training uses."""
    import safetensors.torch
    import torch

    try:
        if path.suffix == ".safetensors":
            found = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise errors of many kinds
        raise ExpertError(
            f"{path} cannot be read as weights alone ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
            "save its state dict: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    found = found.get("model", found) if isinstance(found, dict) else {}
    return {name: value for name, value in found.items() if not name.startswith("aux_classifier.")}


def _freeze(module: Any, state: Mapping[str, Any], every: bool, prefix: str = "") -> None:
    """Batch normalization that was trained frozen (``every``, or has not counted its batches) as torchvision has it."""
    from torch.nn import BatchNorm2d
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in list(module.named_children()):
        inner = f"{prefix}{name}."
        if isinstance(child, BatchNorm2d) and (every or f"{inner}num_batches_tracked" not in state):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze(child, state, every, inner)


def _set_eps(model: Any, eps: float) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = eps


# The URI's options -----------------------------------------------------------------------------------------


def _file(text: str) -> dict[str, Any]:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError("there is no such file")
    return {"file": path}


PARSERS: Mapping[str, Parser] = {
    "weights": lambda text: {"weights": text},
    "file": _file,
    "classes": lambda text: {"classes": parse_classes(text)["classes"]},
    "threshold": number("threshold", 0, 1),
    "floor": number("floor", 0, 1),
    "size": number("size", 1, 10_000, int),
    "batch_size": number("batch_size", 1, 10_000, int),
    "license": lambda text: {"license": text},
    "licence": lambda text: {"license": text},  # as URIs of older stores spell it
}
"""Option -> its answer as a field, as in ``_answers.PARSERS``."""
