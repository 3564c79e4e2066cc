"""Pixels of training images: the crop of a view, and color jitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from clipzoo.types import ImageArray, Size, View

Resampling = Literal["pillow", "torch"]
"""``pillow`` cuts pixels at the border of a crop, ``torch`` moves the border to whole pixels; bicubic, antialiased."""

SIZES = 1
"""Distinguishes the random numbers of sizes from those of views."""


@dataclass(frozen=True, slots=True)
class Viewing:
    """Parameters of training views: ``size`` (H, W), bounds of area and aspect, flip probability, color jitter."""

    size: Size
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0
    """Largest relative change of brightness and contrast; labels are not affected."""
    resampling: Resampling = "pillow"
    sizes: tuple[Size, ...] = ()
    """Sizes (H, W) of which each batch has one, instead of ``size``."""

    def size_of(self, seed: int, step: int) -> Size:
        """Return the size of a batch, a pure function of seed and step, so that it is equal on all ranks."""
        if not self.sizes:
            return self.size
        return self.sizes[np.random.default_rng([seed, step, SIZES]).integers(len(self.sizes))]


def viewed(image: ImageArray, view: View, resampling: Resampling) -> tuple[View, ImageArray]:
    """Apply a view to an image, uint8 H×W×3 RGB; return the view for its labels, and the pixels."""
    if resampling == "pillow":
        return view, view.image(image)
    view = whole_pixels(view, image.shape[:2])
    return view, _resampled(image, view)


def whole_pixels(view: View, size: tuple[int, int]) -> View:
    """Return the view with the border of its crop moved to whole pixels of an image of ``size`` (H, W)."""
    H, W = size
    x0, y0, x1, y1 = (round(x) for x in view.box(size))
    x0, y0 = min(x0, W - 1), min(y0, H - 1)
    return View((x0 / W, y0 / H, max(x1, x0 + 1) / W, max(y1, y0 + 1) / H), view.size, view.flip)


def _resampled(image: ImageArray, view: View) -> ImageArray:
    """Apply a view of whole pixels by PyTorch.

    Of photos, about 1 % of the values differ by 1 or 2 from those that Pillow makes of the cut-out crop. `View.image`
    differs more at the border of the crop, since it also reads pixels beyond it.
    """
    x0, y0, x1, y1 = (round(x) for x in view.box(image.shape[:2]))
    crop = torch.from_numpy(np.ascontiguousarray(image[y0:y1, x0:x1])).permute(2, 0, 1)[None]
    crop = crop.as_strided(crop.shape, (crop.numel(), *crop.stride()[1:]))  # else torch 2.14 returns 3×H×W in memory
    pixels = F.interpolate(crop, view.size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    return np.ascontiguousarray((pixels.flip(1) if view.flip else pixels).numpy())


def jittered(image: ImageArray, rng: np.random.Generator, strength: float) -> ImageArray:
    """Change brightness and contrast by at most ``strength``, through a table of all 256 values."""
    if strength == 0:
        return image
    brightness, contrast = rng.uniform(1 - strength, 1 + strength, 2)
    mean = image.astype(np.float32).mean()
    values = (np.arange(256, dtype=np.float32) - mean) * contrast + mean * brightness
    table = np.clip(values, 0, 255).astype(np.uint8).tobytes()
    return np.frombuffer(image.tobytes().translate(table), np.uint8).reshape(image.shape)
