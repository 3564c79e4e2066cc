"""Segmentation and detection of torchvision: ``torchvision:<model>[?weights=NAME&file=PATH&option=value…]``.

``weights`` is a name of the model's weights, which torchvision keeps in its cache. ``file`` is a state dict on disk
(.safetensors, or .pth read without running code): of a custom model with its ``classes``, or of ``weights`` without a
network. torchvision prepares images and turns outputs into boxes. Further options:
``threshold`` and ``floor`` (scores from which a box is an object, and below which it is nothing), ``size`` (of the
shorter side), ``batch_size``, ``license``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, cast

import numpy as np
from pydantic import Field

from clipzoo import plugins
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import boxes
from clipzoo.experts.base import NOT_FINITE, Expert, ExpertCard, fetching, sha256
from clipzoo.experts.families.torchvision import FAMILIES
from clipzoo.experts.options import ClassNames, ExistingFile, Options, Share, license_option, parse, split
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torchvision.models import WeightsEnum
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

THRESHOLD, FLOOR = 0.5, 0.2
__all__ = ["FAMILIES", "create"]

Pixels = Annotated[int, Field(ge=1, le=10_000)]


class TorchvisionOptions(Options):
    """Options of every model."""

    weights: str | None = Field(None, description="a name of the model's weights, by default torchvision's own default")
    file: ExistingFile | None = Field(None, description="a state dict on disk, .safetensors or .pth")
    classes: ClassNames | None = Field(
        None,
        description="classes of the file's model, in the order of its ids: of segmentation all, of detection those "
        "from id 1 on",
    )
    size: Pixels | None = Field(
        None, description="the shorter side of images in pixels, by default as in the training of the weights"
    )
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = Field(4, description="images per batch, by default 4")
    license: str | None = license_option("the license of the file's weights", None)


class DetectionOptions(TorchvisionOptions):
    """Options of detectors."""

    threshold: Share = Field(
        THRESHOLD, description=f"the score from which on a box is an object, by default {THRESHOLD}"
    )
    floor: Share = Field(
        FLOOR,
        description=f"the score below which a box is dropped, by default {FLOOR}; between the two it is ignored",
    )


BACKGROUND, UNUSED = "__background__", "N/A"
"""What torchvision calls class 0, and ids that COCO left out."""

MASK = 0.5
"""The probability from which a pixel is of an object (Mask R-CNN, He et al. 2017, section 3)."""

HEADS = ("head", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor")
"""Modules of detectors whose outputs are selected: scores and places that are not finite would be dropped silently."""

MAX_ASPECT = 8
"""Segmentation brings the shorter side to a size, whatever becomes of the longer: of at most so many times it here."""

ZERO_EPS = ("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Models whose weights COCO_V1 were trained without the small number that batch normalization adds to variances."""

LICENSE = "BSD-3-Clause; the terms of COCO's pictures may apply"


def create(name: str) -> Torchvision:
    """Return the expert of ``<model>[?option=value&…]``; its weights are fetched, but not loaded.

    Raises:
        ExpertError: not a model of segmentation or detection, wrong options, or the weights are not available.
    """
    model, _, query = name.partition("?")
    task = _task(model)
    kind = DetectionOptions if task == "detection" else TorchvisionOptions
    options = parse(kind, split(query), "torchvision", f"models of {task}")
    if options.classes is not None and options.file is None:
        raise ExpertError("torchvision: classes= names the classes of a file's model; add file=, or remove classes=")
    if isinstance(options, DetectionOptions) and options.floor > options.threshold:
        raise ExpertError("torchvision: floor= is above threshold=, so that no box would be ignored; lower it")
    return Torchvision(f"torchvision:{name}", model, task, options)


class _Judge(Protocol):
    """The part of a detector that selects boxes."""

    score_thresh: float


class Torchvision(Expert):
    """A model of torchvision."""

    def __init__(self, uri: str, model: str, task: str, options: TorchvisionOptions) -> None:
        self.model, self.options = model, options
        self.batch_size = options.batch_size
        self.weights, self.official = _weights(model, options)
        self.path = _download(self.weights) if options.file is None else options.file
        self.names = tuple(self.weights.meta["categories"])
        if options.classes is not None:
            self.names = (*([BACKGROUND] if task == "detection" else []), *options.classes)
        things = [i for i, name in enumerate(self.names) if name != UNUSED and (i or task == "segmentation")]
        self._class_ids = np.full(len(self.names), -1)
        self._class_ids[things] = np.arange(len(things))
        classes = tuple(self.names[i].replace(BACKGROUND, "background") for i in things)
        settings: dict[str, float] = {} if options.size is None else {"size": options.size}
        if isinstance(options, DetectionOptions):
            settings |= {"threshold": options.threshold, "floor": options.floor}
        self.card = ExpertCard(
            uri,
            task,
            Convention(classes),
            license=options.license if options.license is not None else LICENSE if self.official else "unknown",
            revision=self.weights.name if self.official else "",
            weights_sha256=sha256(self.path),
            preprocessing={"transforms": " ".join(repr(self.weights.transforms()).split()), **settings},
        )
        self._model: nn.Module | None = None
        self._prepare: Callable[[Tensor], Tensor] | None = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        """Build the model and load its weights.

        Raises:
            ExpertError: the file is not of this model.
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
                f"{' '.join(str(error).split())[:500]}; name its model, and its classes= if it was trained for others"
            ) from error
        self._adapt(model)
        self._model, self._device = model.eval().to(device), device

    @property
    def module(self) -> nn.Module | None:
        """The model, for precision and layout of labeling; None before `load`."""
        return self._model

    def _adapt(self, model: nn.Module) -> None:
        """Apply the options to the model."""
        size, task = self.options.size, self.card.task
        self._prepare = self.weights.transforms(**({"resize_size": size} if size and task == "segmentation" else {}))
        if isinstance(self.options, DetectionOptions):
            if size:
                transform = cast("GeneralizedRCNNTransform", model.transform)
                if getattr(transform, "fixed_size", None):
                    raise ExpertError(f"{self.card.uri}: images of a {self.model} have a fixed size; remove size=")
                transform.min_size = (size,)
            judge = cast(
                _Judge, getattr(model, "roi_heads", model)
            )  # less than the floor costs time and memory, and tells nothing
            judge.score_thresh = max(judge.score_thresh, self.options.floor)
            for name, module in model.named_modules():
                if name in HEADS:
                    module.register_forward_hook(_check_head)

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return one label per image, of the image's size.

        Raises:
            SampleError: images are too long and thin, or outputs of the model are not finite.
        """
        if self._model is None or self._prepare is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        import torch

        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        H, W = batch.shape[-2:]
        segmentation = self.card.task == "segmentation"
        if segmentation and max(H, W) > MAX_ASPECT * min(H, W):
            raise SampleError(
                f"the picture is too long and thin: {W}×{H}; {self.model} enlarges the shorter side, and could not "
                "hold the longer one"
            )
        with torch.inference_mode():
            prepared = self._prepare(batch).to(self._device)
            if segmentation:
                return [_best(logits, (H, W)) for logits in self._model(prepared)["out"].float()]
            return [self._boxes(output, (H, W)) for output in self._model(list(prepared))]

    def _boxes(self, output: Mapping[str, Tensor], size: tuple[int, int]) -> Detection:
        """Return the boxes of classes that have a name."""
        arrays = {name: output[name].cpu().numpy() for name in ("boxes", "labels", "scores")}
        ids = self._class_ids[arrays["labels"]]
        rows = np.flatnonzero(ids >= 0)
        masks = None
        if "masks" in output:
            masks = [rle.encode((output["masks"][int(row), 0] > MASK).cpu().numpy()) for row in rows]
        assert isinstance(self.options, DetectionOptions)
        threshold, floor = self.options.threshold, self.options.floor
        return boxes.predictions(
            size, arrays["boxes"][rows], ids[rows], arrays["scores"][rows], threshold, floor, masks
        )


def _check_head(module: nn.Module, inputs: object, outputs: object) -> None:
    """Raise `SampleError` if an output of a head, a tensor, sequence or mapping, is not finite."""
    import torch

    if isinstance(outputs, torch.Tensor):
        if not bool(outputs.isfinite().all()):
            raise SampleError(NOT_FINITE.format(f"outputs of the model's {type(module).__name__}"))
    elif isinstance(outputs, Mapping | list | tuple):
        for part in outputs.values() if isinstance(outputs, Mapping) else outputs:
            _check_head(module, inputs, part)


def _best(logits: Tensor, size: tuple[int, int]) -> Segmentation:
    """The best class of logits [K,h,w], enlarged to ``size`` (H, W) class by class: K maps of it would fill the memory.

    The confidence is the mean over the model's pixels of the best class's probability.
    """
    import torch
    from torch.nn.functional import interpolate

    if not bool(logits.isfinite().all()):
        raise SampleError(NOT_FINITE.format("the model's logits"))
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
    """Return the task of a model of the zoo."""
    from torchvision import models

    known = {
        name: task
        for task, module in (("segmentation", models.segmentation), ("detection", models.detection))
        for name in models.list_models(module=module)
    }
    if model not in known:
        raise ExpertError(
            f"torchvision has no model {model!r} of segmentation or detection; {plugins.hint(model, known)}"
        )
    return known[model]


def _weights(model: str, options: TorchvisionOptions) -> tuple[WeightsEnum, bool]:
    """Return the weights that define preparation and classes, and true if the model has exactly these weights."""
    from torchvision.models import get_model_weights

    known = get_model_weights(model)
    if options.weights is not None:
        name = options.weights.rpartition(".")[2]
        if name not in known.__members__:
            raise ExpertError(f"{model} has no weights {name!r}; {plugins.hint(name, known.__members__)}")
        return known[name], True
    if options.file is not None and options.classes is None:
        for weights in known:
            if options.file.name == _basename(weights):
                return weights, True
    return known.DEFAULT, options.file is None


def _basename(weights: WeightsEnum) -> str:
    return str(weights.url.rpartition("/")[2])


def _download(weights: WeightsEnum) -> Path:
    """Return the path of weights in torchvision's cache, after a download if they are not there."""
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
        raise ExpertError(
            f"{path} is damaged: its SHA-256 does not begin with {begins}; delete it, and rerun the command"
        )
    return path


def _state(path: Path) -> dict[str, Tensor]:
    """Return a state dict without the auxiliary classifier, which only training uses."""
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


def _freeze(module: nn.Module, state: Mapping[str, Tensor], every: bool, prefix: str = "") -> None:
    """Replace batch normalization that was frozen in training (``every``, or without a count of batches)."""
    from torch.nn import BatchNorm2d
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in list(module.named_children()):
        inner = f"{prefix}{name}."
        if isinstance(child, BatchNorm2d) and (every or f"{inner}num_batches_tracked" not in state):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze(child, state, every, inner)


def _set_eps(model: nn.Module, eps: float) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = eps
