"""Pixels of JPEG files by libjpeg-turbo, without the part of Pillow around it that takes a third of the time.

simplejpeg (the extra ``fast``) is used if it is installed, else torchvision's operator if torchvision is loaded, since
importing it takes seconds. torchvision 0.29 deprecates its decoders for TorchCodec; without them, Pillow decodes.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pixels(data: bytes) -> Pixels | None:
    """Decode a gray or color JPEG file to uint8 H×W×3 RGB, with the pixels that Pillow decodes; EXIF is not applied.

    Returns:
        None where Pillow has to decode: the file is damaged, no decoder is available, or it does not decode to the same
        pixels as Pillow on this machine.
    """
    decode = {"simplejpeg": _simplejpeg, "torchvision": _torchvision}.get(name())
    return decode(data) if decode else None


def name() -> str:
    """Return the decoder of JPEG files in this process: simplejpeg, torchvision or Pillow."""
    if _has_simplejpeg() and _agrees(_simplejpeg):
        return "simplejpeg"
    return "torchvision" if "torchvision" in sys.modules and _agrees(_torchvision) else "Pillow"


@cache
def _has_simplejpeg() -> bool:
    return importlib.util.find_spec("simplejpeg") is not None


def _simplejpeg(data: bytes) -> Pixels | None:
    import simplejpeg

    try:  # strict, the default: refuses files with warnings, which Pillow may decode
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"), np.uint8)
    except ValueError:
        return None


def _torchvision(data: bytes) -> Pixels | None:
    import torch

    try:
        planes = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), RGB)
    except (RuntimeError, AttributeError):  # damaged, or a torchvision without libjpeg or without decoders
        return None
    return np.ascontiguousarray(planes.permute(1, 2, 0).numpy(), np.uint8)


RGB = 3
"""torchvision.io.ImageReadMode.RGB."""


@cache
def _agrees(decode: Callable[[bytes], Pixels | None]) -> bool:
    """Return True if a decoder and Pillow decode a picture of noise, with halved chroma, to equal pixels.

    The wheels of all three have libjpeg-turbo (Pillow 13.0.0, torchvision 0.29.1, simplejpeg 1.9.0); builds of
    distributions may have libjpeg, whose chroma differs.
    """
    noise = np.random.default_rng(0).integers(0, 256, (67, 93, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=90, subsampling="4:2:0")
    found = decode(file.getvalue())
    return found is not None and np.array_equal(found, np.asarray(Image.open(file)))
