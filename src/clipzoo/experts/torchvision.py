"""Segmentation and detection of torchvision: ``torchvision:<model>[?weights=NAME&file=PATH&option=value…]``.

``weights`` names weights of the model, which torchvision keeps in its cache. ``file`` is a state dict on disk
(.safetensors, or .pth read without running code): a custom one with its ``classes``, or that of ``weights`` if there is
no network. torchvision itself prepares images and computes boxes. Further options: ``threshold`` and ``floor`` (scores
from which a box is an object, and below which it is dropped), ``size`` (of the shorter side), ``batch_size``,
``license``.
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
    "weights": "name of the model's weights, by default torchvision's default",
    "file": "a state dict on disk, .safetensors or .pth",
    "classes": "classes of the file's model by id: all of them for segmentation, those from id 1 for detection",
    "size": "length of the shorter side in pixels after resizing, by default that of the weights' training",
    "batch_size": "images per batch, by default 4",
    "license": "license of the file's weights",
    "licence": "",
}
SCORES = {
    "threshold": f"score from which a box is an object, by default {THRESHOLD}",
    "floor": f"score below which a box is dropped, by default {FLOOR}; between the two it is an ignored box",
}
BACKGROUND, UNUSED = "__background__", "N/A"
"""torchvision's names of class 0, and of ids that COCO does not use."""

MASK = 0.5
"""Smallest probability of a pixel of an object (Mask R-CNN, He et al. 2017, section 3)."""

MAX_ASPECT = 8
"""Largest aspect ratio for segmentation, which resizes the shorter side to a fixed length and limits no other side."""

ZERO_EPS = ("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Models whose weights COCO_V1 were trained with an ``eps`` of 0 in batch normalization."""

LICENSE = "BSD-3-Clause; the terms of COCO's pictures may apply"

_VOC_SPACE = (
    "Pascal VOC's 20 classes and background (class 0), which includes other objects of COCO; void in training (where "
    "masks overlap) is not predicted"
)
_COCO_SPACE = (
    "COCO's 80 classes, numbered from 0; boxes xyxy in pixels of the image. The model's ids are 0 to 90: background "
    "(0) and 10 unused ids (N/A) are removed"
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
        "Mask R-CNN", "detection", f"{_COCO_SPACE}; each with a mask of the whole image, where the probability is "
        "above 0.5",
        "torchvision: models/detection/mask_rcnn.py, models/_meta.py",
    ),
    Family(
        "Keypoint R-CNN", "detection", "boxes of persons, one class; keypoints are dropped",
        "torchvision: models/detection/keypoint_rcnn.py, models/_meta.py",
    ),
)  # fmt: skip


def create(name: str) -> Torchvision:
    """Return the expert of ``<model>[?option=value&…]``; its weights are downloaded, but not loaded.

    Raises:
        ExpertError: there is no such model for segmentation or detection, options are invalid, or weights are not
            available.
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
        raise ExpertError(
            "torchvision: classes= describes the model of a file, and file= is missing: give file=, or remove classes="
        )
    if fields["floor"] > fields["threshold"]:
        raise ExpertError(
            "torchvision: floor= is above threshold=, so there would be no ignored boxes: give a smaller floor="
        )
    return Torchvision(f"torchvision:{name}", model, task, fields)


class Torchvision(Expert):
    """A model of torchvision."""

    def __init__(self, uri: str, model: str, task: str, fields: Mapping[str, Any]) -> None:
        self.model, self.fields = model, fields
        self.batch_size = fields["batch_size"]
        self.weights, self.official = _weights(model, fields)
        self.path = fields["file"] if "file" in fields else _download(self.weights)
        self.names = tuple(self.weights.meta["categories"])
        if "classes" in fields:
            self.names = (*([BACKGROUND] if task == "detection" else []), *fields["classes"])
        things = [i for i, name in enumerate(self.names) if name != UNUSED and (i or task == "segmentation")]
        self._class_ids = np.full(len(self.names), -1)
        self._class_ids[things] = np.arange(len(things))
        classes = tuple(self.names[i].replace(BACKGROUND, "background") for i in things)
        recorded = ("size", *SCORES) if task == "detection" else ("size",)
        settings = {name: fields[name] for name in recorded if name in fields}
        self.card = ExpertCard(
            uri,
            task,
            Convention(classes),
            license=fields.get("license", LICENSE if self.official else "unknown"),
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
            ExpertError: the file does not contain weights of the model.
        """
        from torchvision.models import get_model

        state = _state(self.path)
        model = get_model(self.model, weights=None, weights_backbone=None, num_classes=len(self.names))
        _freeze(model, state, every=self.official and self.model.endswith("_fpn"))
        if self.official and self.model in ZERO_EPS and self.weights.name == "COCO_V1":
            _set_eps(model, 0.0)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ExpertError(
                f"{self.path} is no state dict of a {self.model} with {len(self.names)} outputs ({self.names[0]}, …): "
                f"{' '.join(str(error).split())[:500]}. Name the model of the file, and its classes= if they are custom"
            ) from error
        self._adapt(model)
        self._model, self._device = model.eval().to(device), device

    @property
    def module(self) -> Any:
        """The model, to which labeling applies precision and memory layout; None before `load`."""
        return self._model

    def _adapt(self, model: Any) -> None:
        """Apply the options to the model and its transforms."""
        size = self.fields.get("size")
        resize = {"resize_size": size} if size and self.card.task == "segmentation" else {}
        self._prepare = self.weights.transforms(**resize)
        if self.card.task == "detection":
            if size:
                if getattr(model.transform, "fixed_size", None):
                    raise ExpertError(f"{self.card.uri}: the image size of {self.model} is fixed: remove size=")
                model.transform.min_size = (size,)
            detector = getattr(model, "roi_heads", model)  # boxes below the floor only cost time and memory
            detector.score_thresh = max(detector.score_thresh, self.fields["floor"])

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """Return one label per image, of the image's size."""
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        import torch

        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        H, W = batch.shape[-2:]
        segmentation = self.card.task == "segmentation"
        if segmentation and max(H, W) > MAX_ASPECT * min(H, W):
            raise SampleError(
                f"the picture is too long and thin: {W}×{H}. {self.model} enlarges the shorter side, and the longer "
                "side would need too much memory"
            )
        with torch.inference_mode():
            prepared = self._prepare(batch).to(self._device)
            if segmentation:
                return [_best(logits, (H, W)) for logits in self._model(prepared)["out"].float()]
            return [self._boxes(output, (H, W)) for output in self._model(list(prepared))]

    def _boxes(self, output: Mapping[str, Any], size: tuple[int, int]) -> Detection:
        """Return the boxes whose class has a name."""
        boxes, labels, scores = (output[name].cpu().numpy() for name in ("boxes", "labels", "scores"))
        ids = self._class_ids[labels]
        rows = np.flatnonzero(ids >= 0)
        masks = None
        if "masks" in output:
            masks = [rle.encode((output["masks"][int(row), 0] > MASK).cpu().numpy()) for row in rows]
        threshold, floor = self.fields["threshold"], self.fields["floor"]
        return _boxes.predictions(size, boxes[rows], ids[rows], scores[rows], threshold, floor, masks)


def _best(logits: Any, size: tuple[int, int]) -> Segmentation:
    """Return the best class of logits [K,h,w], enlarged to ``size`` (H, W).

    Classes are enlarged one by one, since K maps of the image's size need too much memory. The confidence is the mean
    probability of the best class over the model's pixels.
    """
    import torch
    from torch.nn.functional import interpolate

    def enlarged(channel: Any) -> Any:
        return interpolate(channel[None, None], size, mode="bilinear", align_corners=False)[0, 0]

    best = enlarged(logits[0])
    ids = torch.zeros_like(best, dtype=torch.int32)
    for i, channel in enumerate(logits[1:], 1):
        values = enlarged(channel)
        ids[values > best] = i
        best = torch.maximum(best, values)
    confidence = float(logits.softmax(0).amax(0).mean())
    return Segmentation(ids.cpu().numpy().astype(np.uint16), np.ones(size, np.bool_), min(confidence, 1.0))


# Models and weights ----------------------------------------------------------------------------------------


def _task(model: str) -> str:
    """Return the task of a model of torchvision."""
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
    """Return the weights that define transforms and classes, and whether the state dict is that of these weights."""
    from torchvision.models import get_model_weights

    known = get_model_weights(model)
    name = fields.get("weights")
    if name is not None:
        name = name.rpartition(".")[2]
        if name not in known.__members__:
            raise ExpertError(f"{model} has no weights {name!r}: choose one of {', '.join(known.__members__)}")
        return known[name], True
    if "file" in fields and "classes" not in fields:
        for weights in known:
            if fields["file"].name == _basename(weights):
                return weights, True
    return known.DEFAULT, "file" not in fields


def _basename(weights: Any) -> str:
    return str(weights.url.rpartition("/")[2])


def _download(weights: Any) -> Path:
    """Return the path of weights in torchvision's cache, downloaded if they are missing."""
    import torch

    name = _basename(weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    digest = name.rpartition("-")[2].partition(".")[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fetching(weights.url, path.parent)
            torch.hub.download_url_to_file(weights.url, str(path), digest, progress=False)
    except (OSError, RuntimeError) as error:  # no network, a full disk, or bytes that do not match the digest
        raise ExpertError(
            f"cannot download {weights} ({type(error).__name__}: {error}). On a machine with a network download "
            f"{weights.url}, then copy it to {path}, or use ?weights={weights.name}&file=PATH"
        ) from error
    if not sha256(path).startswith(digest):
        raise ExpertError(
            f"{path} is damaged: its SHA-256 does not begin with {digest}. Delete the file and rerun the command"
        )
    return path


def _state(path: Path) -> dict[str, Any]:
    """Return a state dict without the auxiliary classifier, which only training uses."""
    import safetensors.torch
    import torch

    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise many kinds of errors
        raise ExpertError(
            f"{path} cannot be read as weights without code ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Save its state dict: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    state = state.get("model", state) if isinstance(state, dict) else {}
    return {name: value for name, value in state.items() if not name.startswith("aux_classifier.")}


def _freeze(module: Any, state: Mapping[str, Any], every: bool, prefix: str = "") -> None:
    """Freeze batch normalization that was trained frozen: all if ``every``, otherwise layers without a batch count."""
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
"""Option -> parser of its value, as in ``_answers.PARSERS``."""
