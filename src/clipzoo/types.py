"""Types shared by all packages: samples, images, views and cameras; the image decoder. Letters of shapes:

    B  batch        C  channels      K  classes        N  boxes, tokens, samples
    H, W  height and width of an image or label        h, w  of a feature map

Decoded images are uint8 H×W×3 RGB arrays. Normalized coordinates are 0 to 1 over the image, x right, y down.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from clipzoo import jpeg
from clipzoo.errors import Code, DatasetError, ImageError, SampleError, kind_of

ImageArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Size = tuple[int, int]
"""(height, width) in pixels."""

LIMIT = "CLIPZOO_MAX_PIXELS"
"""Environment variable that sets `MAX_PIXELS`."""


def _limit(value: str, default: int = 100_000_000) -> int:
    """Parse the environment variable."""
    digits = value.replace("_", "")
    if value and not (digits.isascii() and digits.isdigit() and int(digits)):
        raise DatasetError(
            f"the environment variable {LIMIT}={value!r} is not a number of pixels; set it like {LIMIT}={default}, "
            "or unset it"
        )
    return int(digits) if value else default


MAX_PIXELS = _limit(os.environ.get(LIMIT, ""))
"""Maximum number of pixels of pictures and label maps."""
if Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS > 2 * Image.MAX_IMAGE_PIXELS:  # where Pillow itself refuses
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS

IN_FLIGHT = 128_000_000
"""Maximum number of pixels that the threads of a process decode concurrently, at 7 bytes each (3 when decoded)."""

STRIP = 4_000_000
"""Pixels converted to RGB at a time, so that a large picture is in memory at most twice."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "AVIF")
"""Formats that are decoded; Pillow supports more, some of which run other programs (EPS starts Ghostscript)."""


def hash64(data: bytes) -> int:
    """Return 64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its caption, undecoded.

    ``others`` are further captions: training draws one of all captions at random. ``fields`` has the texts of the
    fields that the dataset was opened with.
    """

    key: str
    shard: str
    image: bytes
    caption: str
    others: tuple[str, ...] = ()
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a sample cannot be used, or has no label.

    ``code`` groups it with others (see `Code`), and ``detail`` is a sentence.
    """

    code: Code
    detail: str

    @classmethod
    def of(cls, error: SampleError) -> Failure:
        """Return the failure that an error describes."""
        return cls(error.code, str(error))

    @property
    def counts(self) -> bool:
        """False for an image that was never downloaded, which is not a failure of the expert."""
        return self.code != "not-downloaded"

    @property
    def kind(self) -> str:
        """The text by which failures are grouped: the code, and what experts, importers and plugins say."""
        if self.code == "unusable":
            return f"{self.code}: {kind_of(self.detail)}"
        what = self.detail.partition(": ")[2] if self.code in ("expert-failed", "unsound-label") else ""
        return f"{self.code}: {kind_of(what)}" if what else self.code

    def error(self) -> SampleError:
        """Return the error to raise for it."""
        return SampleError(self.detail, self.code)

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera in normalized units: ``fx``, ``cx`` as fractions of image width, ``fy``, ``cy`` of height."""

    fx: float
    fy: float
    cx: float = 0.5
    cy: float = 0.5


@dataclass(frozen=True, slots=True)
class View:
    """One crop, resize and flip (in this order), drawn once for an image and all its labels.

    ``crop`` is (x0, y0, x1, y1), normalized; ``size`` is (H, W) of the result in pixels.
    """

    crop: tuple[float, float, float, float]
    size: tuple[int, int]
    flip: bool = False

    @classmethod
    def whole(cls, size: tuple[int, int]) -> View:
        """Return the view of the whole image, resized to ``size`` (H, W) without keeping its aspect ratio."""
        return cls((0.0, 0.0, 1.0, 1.0), size)

    @classmethod
    def center(cls, image_size: tuple[int, int], size: tuple[int, int]) -> View:
        """Return the largest centered crop of an image of ``image_size`` (H, W) with the aspect ratio of ``size``."""
        (H, W), (height, width) = image_size, size
        scale = min(H / height, W / width)
        dx, dy = 0.5 * width * scale / W, 0.5 * height * scale / H
        return cls((0.5 - dx, 0.5 - dy, 0.5 + dx, 0.5 + dy), size)

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        image_size: tuple[int, int],
        size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ) -> View:
        """Draw a random resized crop like torchvision's ``RandomResizedCrop``, of an image of ``image_size`` (H, W).

        ``scale`` bounds the crop's share of the area, ``ratio`` its aspect ratio in pixels; ``flip`` is a probability.
        If ten draws do not fit, the crop is that of `center`; torchvision uses the nearest aspect ratio in ``ratio``.
        """
        H, W = image_size
        flipped = bool(rng.random() < flip)
        for _ in range(10):
            area = H * W * rng.uniform(*scale)
            aspect = float(np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]))))
            w, h = float(np.sqrt(area * aspect)) / W, float(np.sqrt(area / aspect)) / H
            if w <= 1 and h <= 1:
                x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
                return cls((x, y, x + w, y + h), size, flipped)
        center = cls.center(image_size, size)
        return cls(center.crop, size, flipped)

    def at(self, size: tuple[int, int]) -> View:
        """Return the same view with another output ``size`` (H, W), for targets at stride resolution."""
        return View(self.crop, size, self.flip)

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the crop in pixels (x0, y0, x1, y1) of a map of ``size`` (H, W) that covers the image."""
        H, W = size
        x0, y0, x1, y1 = self.crop
        return max(x0 * W, 0.0), max(y0 * H, 0.0), min(x1 * W, W), min(y1 * H, H)

    def image(self, image: ImageArray) -> ImageArray:
        """Apply the view to an image, uint8 H×W×3 RGB; bicubic with antialiasing."""
        height, width = self.size
        picture, box = Image.fromarray(image), self.box(image.shape[:2])
        resized = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else resized)

    def camera(self, camera: Camera) -> Camera:
        """Return the camera of the view: a crop moves the principal point, a change of aspect ratio makes fx ≠ fy."""
        x0, y0, x1, y1 = self.crop
        cx, cy = (camera.cx - x0) / (x1 - x0), (camera.cy - y0) / (y1 - y0)
        return Camera(camera.fx / (x1 - x0), camera.fy / (y1 - y0), 1 - cx if self.flip else cx, cy)


class NoRoomError(Exception):
    """The image has more pixels than may be decoded at present."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.pixels = pixels


class Room:
    """A limit on the number of pixels that threads hold together; one thread alone may exceed it."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self._freed = most, 0, threading.Condition()

    def take(self, pixels: int, wait: bool = True) -> None:
        """Acquire pixels, waiting until they are available; without ``wait``, raise `NoRoomError` if they are not."""
        with self._freed:
            while self._held and self._held + pixels > self._most:
                if not wait:
                    raise NoRoomError(pixels)
                self._freed.wait()
            self._held += pixels

    def force(self, pixels: int) -> None:
        """Acquire pixels even beyond the limit."""
        with self._freed:
            self._held += pixels

    def give(self, pixels: int) -> None:
        """Release pixels."""
        with self._freed:
            self._held -= pixels
            self._freed.notify_all()


class _Quiet:
    """A context without Pillow's warnings about image size and EXIF: `decode_image` has its own limits.

    Warning filters are global: the first thread that enters adds one, and the last one that leaves removes it. Filters
    that other threads add or remove meanwhile stay as they are.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                warnings.filterwarnings("ignore", module=r"PIL\.(?#clipzoo)")
                self._filter: tuple[object, ...] = warnings.filters[0]

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            filters = cast(list[tuple[object, ...]], warnings.filters)
            if self._inside == 0 and self._filter in filters:
                filters.remove(self._filter)


_quiet, _decoding = _Quiet(), Room(IN_FLIGHT)


def _after_fork() -> None:
    # Threads of the parent, which do not exist in the child, may hold either lock.
    global _quiet, _decoding
    _quiet, _decoding = _Quiet(), Room(IN_FLIGHT)


os.register_at_fork(after_in_child=_after_fork)


@cache
def _formats() -> tuple[str, ...]:
    """Return the `FORMATS` that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_image(
    data: bytes, max_pixels: int = MAX_PIXELS, admit: Callable[[int], None] = lambda pixels: None
) -> ImageArray:
    """Decode an image file, for labeling, training and evaluation alike.

    Threads wait for each other if together they would decode more than `IN_FLIGHT` pixels.

    Args:
        data: an image file in one of `FORMATS`; of an animation, the first frame is decoded.
        max_pixels: larger pictures are refused before they are decoded.
        admit: called with the number of pixels before they are decoded; may raise `NoRoomError`.

    Returns:
        uint8 H×W×3 RGB with the EXIF orientation applied; transparent pixels are blended with white; 16-bit and float
        gray images are scaled to 8 bits.

    Raises:
        ImageError: not an image, truncated, or too large.
        NoRoomError: raised by ``admit``.
    """
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=_formats()) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ImageError(_too_large(width, height, max_pixels), "too-large")
            admit(width * height)
            return _decoded(opened, data)
    except (ImageError, NoRoomError):
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, at twice PIL.Image.MAX_IMAGE_PIXELS
        raise ImageError(f"the image has too many pixels ({error}); shrink it, or set {LIMIT}", "too-large") from error
    except UnidentifiedImageError as error:  # Pillow's message contains a memory address
        reason = f"its format is not one of {', '.join(_formats())}"
        raise ImageError(f"cannot decode the image ({_head(data)}): {reason}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise ImageError(f"cannot decode the image ({_head(data)}): {type(error).__name__}: {error}") from error


def image_size(data: bytes) -> tuple[tuple[int, int], str]:
    """Return the size (H, W) of the decoded image, read from the file's header, and its format in lower case.

    Raises:
        ImageError: not an image.
    """
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=_formats()) as opened:
            exif, (width, height) = opened.getexif(), opened.size
            if opened.format == "TIFF":  # newer versions of Pillow (11.0 and 13.0, not 10.1) have turned its size
                width, height = exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength]
            turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width), str(opened.format).lower()
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise ImageError(f"cannot read the size of the image ({_head(data)}): {type(error).__name__}") from error


def exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation of an image file, 1 to 8, which `decode_image` applies; 1 if it has none."""
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=_formats()) as opened:
            return int(opened.getexif().get(0x0112, 1))
    except Exception:  # as above; `decode_image` reports images that cannot be decoded
        return 1


def _decoded(opened: Image.Image, data: bytes) -> ImageArray:
    room, pixels = _decoding, opened.width * opened.height
    room.take(pixels)
    try:
        plain = opened.format == "JPEG" and opened.mode in ("L", "RGB")
        upright = plain and opened.getexif().get(ExifTags.Base.Orientation, 1) == 1
        found = jpeg.pixels(data) if upright else None
        if found is None:
            ImageOps.exif_transpose(opened, in_place=True)
        return _rgb(opened) if found is None else found
    finally:
        room.give(pixels)


def _too_large(width: int, height: int, most: int) -> str:
    message = f"the image has {width}×{height} pixels, more than max_pixels={most}; shrink it"
    if most != MAX_PIXELS:
        return message
    return f"{message}, or set the environment variable {LIMIT}={width * height} (decoding takes 7 bytes per pixel)"


def _head(data: bytes) -> str:
    return f"{len(data)} bytes, beginning {data[:8]!r}"


def to_rgb(image: Image.Image) -> ImageArray:
    """Convert a PIL image to uint8 H×W×3 RGB, as `decode_image` does."""
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> ImageArray:
    """Convert an upright image to RGB in strips, because Pillow and NumPy copy the pixels several times."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _gray(image)
    width, height = image.size
    rows = max(1, STRIP // max(width, 1))
    if rows >= height:
        return np.array(_opaque(image))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_opaque(strip))
    return pixels


def _gray(image: Image.Image) -> Image.Image:
    """Convert an image of 16-bit or float values to 8 bits."""
    values = np.array(image, dtype=np.float32)  # changed in place, because it may take 400 MB
    np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I"):
        values /= 257.0  # 16 bits to 8
    elif values.max(initial=0.0) <= 1.0:
        values *= 255.0
    values += 0.5
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, blending transparent pixels with white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")
