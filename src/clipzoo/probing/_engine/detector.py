"""A detector of torchvision on the maps of an encoder, for presets of detection.

The pyramid is that of ViTDet (Li et al. 2022, arXiv 2203.16527, section 3): all its levels are made of the last map.
Images have the size of the preset's crop, the detector's frame; the encoder sees them at its own size, and its map is
resized to 1/16 of the frame, so that strides are whole for patches of any size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.errors import CheckpointError, LabelError
from clipzoo.evaluation.base import Encoder, frozen
from clipzoo.heads import resize
from clipzoo.probing._engine.module import layers_of
from clipzoo.probing._engine.pictures import padded
from clipzoo.probing.base import Preset, depth_of, fitted, patch_of
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention, Task
from clipzoo.tasks.detection import Detection
from clipzoo.types import ImageArray, Size, View

STRIDE = 16
"""Pixels of the frame per position of the encoder's map."""
LEVELS = {"fcos": (2.0, 1.0, 0.5, 0.25, 0.125), "mask-rcnn": (4.0, 2.0, 1.0, 0.5)}
"""Kind -> size of each level relative to the map; Mask R-CNN proposes boxes on one more, half of the last."""
SCORE = 0.05
"""Score below which detections are dropped, as by torchvision's Mask R-CNN; its FCOS has 0.2, which costs precision."""
MASK = 0.5
"""Probability from which on a pixel belongs to a mask."""

Encode = Callable[[Tensor], Tensor]
"""Images uint8 [B,H,W,3] -> map [B,C,h,w]."""
Target = dict[str, Tensor]
"""Boxes, labels and masks in torchvision's form."""


class DetectorModule(nn.Module):
    """A detector whose backbone is an encoder with a pyramid.

    Args:
        preset: with a `Detector`.
        task: detection.
        convention: of the labels.
        model: the encoder at the size of the preset's crop. It is frozen unless the preset tunes it.
    """

    def __init__(self, preset: Preset, task: Task[Detection], convention: Convention, model: Encoder) -> None:
        super().__init__()
        assert preset.detector
        self.kind, self.crop, self.classes = preset.detector.kind, preset.crop, len(convention.classes)
        self.outputs = task.channels(convention)
        self.encoder = _tuned(model) if preset.detector.tuned else None
        layers = layers_of(preset, depth_of(model))
        seen = fitted(preset.crop, patch_of(model))

        def encode(images: Tensor) -> Tensor:
            return model.maps(_resized(images, seen), layers)[-1].float()

        def encode_frozen(images: Tensor) -> Tensor:
            with frozen(model):
                return encode(images)

        parameter = next(model.parameters()) if isinstance(model, nn.Module) else torch.zeros(1)
        zeros = torch.zeros(1, *preset.crop, 3, dtype=torch.uint8, device=parameter.device)
        pyramid = Pyramid(encode_frozen(zeros).shape[1], preset.detector.width, LEVELS[self.kind])
        encoder = encode if self.encoder is not None else encode_frozen
        self.detector = _create(self.kind, _Backbone(encoder, pyramid, self.kind), self.classes)

    def loss(self, images: Tensor, labels: Sequence[Detection]) -> Tensor:
        """Return the sum of the detector's losses for images uint8 [B,H,W,3] of the crop's size."""
        targets = [self._target(label, images.device) for label in labels]
        losses: dict[str, Tensor] = self.detector(list(images.permute(0, 3, 1, 2).float()), targets)
        return torch.stack(list(losses.values())).sum()

    def detect(self, image: ImageArray, size: Size) -> Detection:
        """Return the detections of a whole picture in a frame of ``size``, with masks if the detector has them."""
        H, W = image.shape[:2]
        factor = min(self.crop[0] / H, self.crop[1] / W)
        inner = max(round(H * factor), 1), max(round(W * factor), 1)
        canvas = torch.from_numpy(padded(View.whole(inner).image(image), self.crop).copy())
        device = next(self.parameters()).device
        with torch.no_grad():
            (found,) = self.detector([canvas.permute(2, 0, 1).float().to(device)])
        found = {name: value.cpu() for name, value in found.items()}
        scale = torch.tensor([size[1] / inner[1], size[0] / inner[0]]).repeat(2)
        edges = torch.tensor([size[1], size[0]]).repeat(2)
        boxes = torch.minimum((found["boxes"] * scale).clamp(min=0), edges)
        ids = (found["labels"] - int(self.kind == "mask-rcnn")).numpy().astype(np.uint16)
        masks = tuple(_pasted(found["masks"], boxes, size)) if "masks" in found else None
        label = Detection(
            size, boxes.numpy(), ids, found["scores"].clamp(0, 1).numpy(), np.zeros(len(ids), np.bool_), masks
        )
        return label.take((label.boxes[:, 2:] > label.boxes[:, :2]).all(1))

    def _target(self, label: Detection, device: torch.device) -> Target:
        """Return the objects that are not ignored; regions of the others are background, as in Detectron2."""
        label = label.take(~label.ignored)
        first = int(self.kind == "mask-rcnn")  # 0 is the background
        target = {
            "boxes": torch.from_numpy(label.boxes.copy()),
            "labels": torch.from_numpy(label.ids.astype(np.int64)) + first,
        }
        if self.kind == "mask-rcnn":
            masks = label.masks if label.masks is not None else (None,) * len(label.ids)
            if None in masks:
                raise LabelError(
                    "an object has no mask, which the detector mask-rcnn needs. Choose a preset with fcos, or a "
                    "benchmark with instance masks, such as coco:PATH"
                )
            pixels = np.array([rle.decode(text or "", label.size) for text in masks], np.uint8)
            target["masks"] = torch.from_numpy(pixels.reshape(-1, *label.size))
            seen = (
                target["masks"].bool().flatten(1).any(1)
            )  # a crop may have a corner of the box without a pixel of the mask
            target = {name: value[seen] for name, value in target.items()}
        return {name: value.to(device) for name, value in target.items()}


class Pyramid(nn.Module):
    """ViTDet's simple feature pyramid: maps [B,width,…] of several sizes from one map [B,C,h,w].

    Args:
        channels: C.
        width: channels of the levels.
        scales: size of each level relative to the map: 4, 2, 1, or a fraction 1/2ⁿ.
    """

    def __init__(self, channels: int, width: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_level(channels, width, scale) for scale in scales)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the levels, the finest first."""
        return [level(x) for level in self.levels]


def _level(channels: int, width: int, scale: float) -> nn.Sequential:
    from torchvision.models.convnext import LayerNorm2d

    steps: list[nn.Module] = []
    if scale == 4:
        steps += [nn.ConvTranspose2d(channels, channels // 2, 2, 2), LayerNorm2d(channels // 2), nn.GELU()]
        channels //= 2
    if scale >= 2:
        steps.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        channels //= 2
    if scale < 1:
        steps.append(nn.MaxPool2d(round(1 / scale), ceil_mode=True))
    steps += [nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width)]
    return nn.Sequential(*steps, nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width))


class _Backbone(nn.Module):
    """Images of the frame, float [B,3,H,W] from 0 to 255 -> levels by name, as torchvision's detectors expect."""

    def __init__(self, encode: Encode, pyramid: Pyramid, kind: str) -> None:
        super().__init__()
        self.encode, self.pyramid, self.proposes = encode, pyramid, kind == "mask-rcnn"
        self.out_channels = next(reversed([*pyramid.parameters()])).shape[0]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.encode(images.permute(0, 2, 3, 1).to(torch.uint8))
        H, W = images.shape[-2:]
        levels = self.pyramid(resize(maps, (max(H // STRIDE, 1), max(W // STRIDE, 1))))
        named = OrderedDict((str(i), level) for i, level in enumerate(levels))
        if self.proposes:
            named["pool"] = F.max_pool2d(levels[-1], 1, 2)
        return named


def _create(kind: str, backbone: _Backbone, classes: int) -> nn.Module:
    """Return torchvision's detector, which gets images of the frame's size and changes neither them nor its outputs."""
    from torchvision.models.detection import FCOS, MaskRCNN
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    unchanged = GeneralizedRCNNTransform(1, 1, [0.0] * 3, [1.0] * 3, size_divisible=1)
    unchanged.resize = lambda image, target=None: (image, target)
    unchanged.postprocess = lambda result, *sizes: result  # masks are pasted one by one, at the size of the truth
    detector: nn.Module
    if kind == "fcos":
        detector = FCOS(backbone, classes, score_thresh=SCORE)
    else:
        detector = MaskRCNN(backbone, classes + 1, box_score_thresh=SCORE)
    detector.transform = unchanged
    return detector


def _tuned(model: Encoder) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"{type(model).__name__} is not a module of PyTorch, so it cannot be fine-tuned")
    return model.requires_grad_(True)


def _resized(images: Tensor, size: Size) -> Tensor:
    """Resize images uint8 [B,H,W,3]."""
    if images.shape[1:3] == size:
        return images
    resized = resize(images.permute(0, 3, 1, 2).float(), size).round().clamp(0, 255)
    return resized.to(torch.uint8).permute(0, 2, 3, 1)


def _pasted(masks: Tensor, boxes: Tensor, size: Size) -> list[str]:
    """Return the RLEs of masks [N,1,28,28] in their boxes [N,4] of a frame; one mask in memory at a time."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    texts = []
    for mask, box in zip(masks, boxes, strict=True):
        pasted = paste_masks_in_image(mask[None], box[None], size)[0, 0]
        texts.append(rle.encode((pasted >= MASK).numpy()))
    return texts
