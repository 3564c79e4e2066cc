"""Label files as arrays: PNG, TIFF, NPY and HDF5."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray
from PIL import Image

from clipzoo.errors import SampleError
from clipzoo.importers._reading import hdf5
from clipzoo.types import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.ImageFile import _Tile

Values = NDArray[np.number]

SUFFIXES = (".png", ".npy", ".tif", ".tiff", *hdf5.SUFFIXES)
MODES = ("1", "L", "P", "RGB", "I", "I;16", "I;16B", "F")
"""Pillow's modes of numbers or colors without transparency, whose meaning no option states."""

ALPHA = ("LA", "PA", "RGBA")
"""Modes whose alpha channel is read as a soft mask."""


def read(path: Path, data: bytes | None = None, *, soft: bool = False, colors: bool = False) -> Values:
    """Return the numbers of a file, [H,W] or [H,W,3].

    Args:
        path: the file.
        data: its bytes, if it is not a file of its own; ``path`` is then used only in errors.
        soft: read a soft mask [H,W]: of a picture with transparency the alpha channel.
        colors: read the colors of a palette, not its indices.

    Raises:
        SampleError: the file cannot be read, is too large, or does not contain plain numbers.
    """
    suffix = path.suffix.lower() if data is None else ""
    try:
        if suffix in hdf5.SUFFIXES or (data or b"").startswith(hdf5.MAGIC):
            return _array(hdf5.read(path, data), path)
        if suffix == ".npy" or (data or b"").startswith(MAGIC_PREFIX):
            return _array(_numpy(path, data), path)
        return _picture(path, data, soft, colors)
    except SampleError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged input
        raise SampleError(f"cannot read the label: {path}: {type(error).__name__}: {error}") from error


def _numpy(path: Path, data: bytes | None) -> Values:
    if data is None:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _array(values: Values, path: Path) -> Values:
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3) or values.size > 3 * MAX_PIXELS:
        raise SampleError(f"no [H,W] or [H,W,3] of numbers: {path} holds {values.dtype} of shape {values.shape}")
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = np.moveaxis(values, 0, -1)
    return np.array(values[..., 0] if values.shape[2:] == (1,) else values)


def _picture(path: Path, data: bytes | None, soft: bool, colors: bool) -> Values:
    with Image.open(path if data is None else io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        modes = (*MODES, *ALPHA) if soft else MODES
        if image.width * image.height > MAX_PIXELS or image.mode not in modes:
            raise SampleError(
                f"too many pixels, or a mode other than {', '.join(modes)}: {path} is {image.width}×{image.height}, "
                f"{image.mode}; save it without transparency"
            )
        if soft:
            return _grays(image, path)
        deep = image.mode == "RGB" and not colors and all("RGB;16" in str(tile[3]) for tile in image.tile)
        upper = np.array(image.convert("RGB") if colors else image)
        return (upper.astype(np.uint16) << 8) | _lower_bytes(path, data) if deep else upper


def _lower_bytes(path: Path, data: bytes | None) -> NDArray[np.uint8]:
    """Return the lower bytes [H,W,3] of a picture of 16 bits per channel; Pillow 13.0 returns only the upper bytes.

    Read in the other byte order, the lower bytes are the upper ones.
    """
    with Image.open(path if data is None else io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        image.tile = [_swapped_tile(tile) for tile in image.tile]
        image.load()
        return np.array(image)


def _swapped_tile(tile: _Tile) -> _Tile:
    """Return a part of a picture, (decoder, extents, offset, arguments), with the other byte order."""
    parts = (*tile[:3], _swapped(tile[3] or ""))
    make = getattr(type(tile), "_make", tuple)  # a plain tuple before Pillow 11
    return cast("_Tile", make(parts))


def _swapped(arguments: str | tuple[object, ...]) -> str | tuple[object, ...]:
    """Return a decoder's arguments, of which the first is the raw mode, with the other byte order."""
    if not isinstance(arguments, str):
        return _swapped(str(arguments[0])), *arguments[1:]
    little = arguments == "RGB;16L" or (arguments == "RGB;16N" and sys.byteorder == "little")
    return "RGB;16B" if little else "RGB;16L"


def _grays(image: Image.Image, path: Path) -> Values:
    """Return a soft mask [H,W]: the alpha channel if there is one, otherwise the gray values."""
    if image.mode not in ("RGB", "P", *ALPHA):
        return np.array(image)
    pixels = np.array(image.convert("RGB"))
    gray = bool((pixels == pixels[..., :1]).all())
    if image.mode in ALPHA:
        alpha = np.array(image.getchannel("A"))
        if gray and (alpha == 255).all():
            raise SampleError(f"the mask may be the gray or the alpha channel, which is opaque: {path}; save one alone")
        return alpha
    if not gray:
        raise SampleError(f"a soft mask is gray, or an alpha channel: {path} has colors; threshold= does not read it")
    return np.ascontiguousarray(pixels[..., 0])
