"""The tiny experts of the embedded demo: one small network a task, trained in minutes on rendered rooms."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray, ImageArray

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class TinyUNet(nn.Module):
    """A U-Net of 0.6 M parameters from pictures to maps, at half resolution and enlarged.

    Args:
        channels: of the output: the number of classes (logits), 1 (log metres) or 3 (normals, not
            yet of unit length; x right, y up, z toward the viewer).
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
        """Map Bx3xHxW RGB in [0, 1], sides multiples of 16, to BxCxHxW."""
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
        raw: Tensor = F.interpolate(self.out(deep), size=(height, width), mode="bilinear")
        return raw


# The adapter ---------------------------------------------------------------------------------------------

SIDE = 96
"""The networks' input and output in pixels, whatever the image's size and aspect: images are squashed to it."""


def create(name: str) -> DemoExpert:
    """``demo:segmentation``, ``demo:depth`` or ``demo:normals``.

    Raises:
        ExpertError: no demo expert bears the name, or its weights are not in the package.
    """
    if name not in CONVENTIONS:
        raise ExpertError(f"no demo expert is named {name!r}; there are: {', '.join(CONVENTIONS)}")
    return DemoExpert(name)


def _rooms() -> Convention:
    values = json.loads(_resource("rooms.json").read_text("utf-8"))
    return Convention(classes=tuple(values.get("segmentation_classes") or values["classes"]))


CONVENTIONS: Mapping[str, Callable[[], Convention]] = {
    "segmentation": _rooms,
    "depth": lambda: Convention(kind="metric", along="z"),
    "normals": Convention,
}


class DemoExpert(Expert):
    """A packaged `TinyUNet`, for pictures of rooms; labels are 96×96 and cover the whole image."""

    batch_size = 64

    def __init__(self, task: str) -> None:
        weights = _resource(f"experts/{task}.safetensors")
        try:
            self._weights = weights.read_bytes()
            convention = CONVENTIONS[task]()
        except (OSError, KeyError, ValueError) as error:
            raise ExpertError(f"the package lacks {weights} or rooms.json ({error}); reinstall clipzoo") from error
        self.card = ExpertCard(
            uri=f"demo:{task}",
            task=task,
            convention=convention,
            licence="Apache-2.0",
            weights_sha256=hashlib.sha256(self._weights).hexdigest(),
            preprocessing={"size": [SIDE, SIDE], "resize": "squash", "resample": "bilinear", "scale": "255"},
        )
        self._model: TinyUNet | None = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        """Build the network on ``device``."""
        channels = {"segmentation": len(self.card.convention.classes), "depth": 1, "normals": 3}[self.card.task]
        model = TinyUNet(channels)
        stored = safetensors.torch.load(self._weights)
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in stored.items()})
        self._model, self._device = model.eval().to(device), device

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """One 96×96 label an image."""
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        batch = torch.from_numpy(np.stack([_squash(image) for image in images])).to(self._device)
        with torch.inference_mode():
            raw = self._model(batch.permute(0, 3, 1, 2).float() / 255).cpu()
        return [_LABELS[self.card.task](output) for output in raw]


def _resource(name: str) -> Traversable:
    return resources.files("clipzoo.demo").joinpath(name)


def _squash(image: ImageArray) -> ImageArray:
    if image.shape[:2] == (SIDE, SIDE):
        return image
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _known(values: Tensor) -> BoolArray:
    return np.ones(tuple(values.shape[-2:]), np.bool_)


def _segmentation(raw: Tensor) -> Segmentation:
    best, ids = raw.softmax(0).max(0)
    return Segmentation(ids.numpy().astype(np.uint16), _known(raw), float(best.mean()))


def _depth(raw: Tensor) -> Depth:
    return Depth(raw[0].exp().numpy(), _known(raw), "metric", "z")


def _normals(raw: Tensor) -> Normals:
    return Normals(F.normalize(raw, dim=0).numpy(), _known(raw))


_LABELS: Mapping[str, Callable[[Tensor], Any]] = {
    "segmentation": _segmentation,
    "depth": _depth,
    "normals": _normals,
}
