"""The tiny experts of the embedded demo: one small network per task, trained in minutes on rendered rooms."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clipzoo import plugins, tasks
from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.experts.families.demo import FAMILIES
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import ImageArray

__all__ = ["FAMILIES", "DemoExpert", "create"]

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


STEP = ":step"


class TinyUNet(nn.Module):
    """A U-Net of 0.6 M parameters from pictures to maps at half resolution; `OUTPUT` resizes them to the label size.

    Args:
        channels: of the output, see `CHANNELS`.
        widths: channels at strides 2, 4, 8 and 16.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int] = (32, 56, 96, 128)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.down = nn.ModuleList(
            nn.Sequential(_block(i, o, 2), _block(o, o)) for i, o in ((5, a), (a, b), (b, c), (c, d))
        )
        self.context = nn.Linear(d, d)
        self.lateral = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in ((d, c), (c, b), (b, a)))
        self.up = nn.ModuleList(_block(o, o) for o in (c, b, a))
        self.out = nn.Conv2d(a, channels, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map Bx3xHxW RGB in [0, 1], sides multiples of 16, to BxCxH/2xW/2."""
        batch, _, height, width = images.shape
        y = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
        x = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(batch, -1, -1, -1)
        features = [torch.cat([images * 2 - 1, place], 1)]
        for stage in self.down:
            features.append(stage(features[-1]))
        deep = features[-1]
        deep = deep + self.context(deep.mean((2, 3)))[..., None, None]
        for lateral, stage, skip in zip(self.lateral, self.up, reversed(features[1:-1]), strict=True):
            deep = stage(F.interpolate(lateral(deep), size=skip.shape[-2:], mode="bilinear") + skip)
        raw: Tensor = self.out(deep)
        return raw


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they are stored: 8-bit steps and step size per output channel, the rest in half precision."""
    stored = {}
    for name, value in state.items():
        if value.ndim < 2:
            stored[name] = value.half() if value.is_floating_point() else value
            continue
        step = value.abs().amax(tuple(range(1, value.ndim)), keepdim=True) / 127
        stored[name] = (value / step.clamp(min=1e-12)).round().to(torch.int8).contiguous()
        stored[name + STEP] = step.contiguous()
    return stored


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of `packed` ones, in single precision."""
    state = {}
    for name, value in stored.items():
        if name + STEP in stored:
            state[name] = value.float() * stored[name + STEP]
        elif not name.endswith(STEP):
            state[name] = value.float() if value.is_floating_point() else value
    return state


# The adapter ---------------------------------------------------------------------------------------------

SIDE = 96
"""Side of the networks' input in pixels: images of any size and aspect are squashed to it."""

SURE, POSSIBLE = 0.35, 0.15
"""Boxes with at least the first score are objects, those with at least the second are ignored, others are dropped."""


def _enlarged(raw: Tensor) -> Tensor:
    return F.interpolate(raw, scale_factor=2, mode="bilinear")


CHANNELS: Mapping[str, Callable[[Convention], int]] = {
    "segmentation": lambda convention: len(convention.classes),
    "detection": lambda convention: len(convention.classes) + 5,
    "depth": lambda convention: 1,
    "normals": lambda convention: 3,
    "edges": lambda convention: 4,
}
"""Task -> output channels of its `TinyUNet`."""

OUTPUT: Mapping[str, Callable[[Tensor], Tensor]] = {
    "segmentation": _enlarged,
    "detection": lambda raw: raw,
    "depth": _enlarged,
    "normals": _enlarged,
    "edges": lambda raw: F.pixel_shuffle(raw, 2),
}
"""Task -> function from the output of its `TinyUNet` to the raw output that the task decodes."""


def create(name: str) -> DemoExpert:
    """Return the expert ``demo:<task>``.

    Raises:
        ExpertError: there is no demo expert of this name, or its weights are missing from the package.
    """
    if name not in CHANNELS:
        raise ExpertError(f"there is no demo expert {name!r}; {plugins.hint(name, CHANNELS)}")
    return DemoExpert(name)


def convention_of(task: str) -> Convention:
    """Return the convention of labels of rooms; the first three classes are the room itself, not objects."""
    values = json.loads(_resource("rooms.json").read_text("utf-8"))
    classes = tuple(values["classes"])
    return {
        "segmentation": Convention(classes=classes),
        "detection": Convention(classes=classes[3:]),
        "depth": Convention(kind="metric", along="z"),
    }.get(task, Convention())


class DemoExpert(Expert):
    """A packaged `TinyUNet`, for pictures of rooms; labels are 96×96 (boxes in 48×48) and cover the whole image."""

    batch_size = 64

    def __init__(self, task: str) -> None:
        weights = _resource(f"experts/{task}.safetensors")
        try:
            self._weights = weights.read_bytes()
            convention = convention_of(task)
        except (OSError, KeyError, ValueError) as error:
            raise ExpertError(
                f"the package has no valid {weights.name} or rooms.json ({error}): reinstall clipzoo"
            ) from error
        self.card = ExpertCard(
            uri=f"demo:{task}",
            task=task,
            convention=convention,
            license="Apache-2.0",
            weights_sha256=hashlib.sha256(self._weights).hexdigest(),
            preprocessing={"size": [SIDE, SIDE], "resize": "squash", "resample": "bilinear", "scale": "255"},
        )
        self._model: TinyUNet | None = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        """Build the network on ``device``."""
        model = TinyUNet(CHANNELS[self.card.task](self.card.convention))
        model.load_state_dict(unpacked(safetensors.torch.load(self._weights)))
        self._model, self._device = model.eval().to(device), device

    @property
    def module(self) -> TinyUNet | None:
        """The network, so that labeling can set its precision and memory layout; None before `load`."""
        return self._model

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return one label per image (uint8 H×W×3 RGB); `ExpertError` before `load`."""
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        task, convention = self.card.task, self.card.convention
        batch = torch.from_numpy(np.stack([_squash(image) for image in images])).to(self._device)
        with torch.inference_mode():
            raw = OUTPUT[task](self._model(batch.permute(0, 3, 1, 2).float() / 255))
            labels = tasks.get(task).predict(raw, convention)
            if task == "segmentation":
                sure = raw.softmax(1).amax(1).mean((1, 2)).tolist()
                labels = [replace(label, confidence=value) for label, value in zip(labels, sure, strict=True)]
        return [without_doubtful(label) for label in labels] if task == "detection" else labels


def without_doubtful(boxes: Detection) -> Detection:
    """Return boxes with doubtful ones marked as ignored, so that a student does not learn from them."""
    kept = boxes.take(boxes.scores >= POSSIBLE)
    return replace(kept, ignored=kept.scores < SURE)


def _resource(name: str) -> Traversable:
    return resources.files("clipzoo.demo").joinpath(name)


def _squash(image: ImageArray) -> ImageArray:
    if image.shape[:2] == (SIDE, SIDE):
        return image
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
