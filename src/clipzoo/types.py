"""What passes between the rooms: samples, images, views, cameras.

Letters of shapes, here and everywhere:

    B  batch        C  channels      K  classes        N  boxes, tokens, samples
    H, W  height and width of an image or label        h, w  of a feature map

Images are uint8 H×W×3 RGB arrays once decoded. Coordinates named *normalized* run from 0 to 1
over the decoded image, x to the right, y down, whatever its size in pixels.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from clipzoo.errors import Code, DatasetError, ImageError, SampleError, kind_of

ImageArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Size = tuple[int, int]
"""(height, width) in pixels."""

LIMIT = "CLIPZOO_MAX_PIXELS"
"""The environment variable that raises or lowers `MAX_PIXELS`."""


def _limit(told: str, default: int = 100_000_000) -> int:
    """What the variable says."""
    digits = told.replace("_", "")
    if told and not (digits.isascii() and digits.isdigit() and int(digits)):
        raise DatasetError(f"{LIMIT}={told!r} is no number of pixels: set it as {LIMIT}={default}, or unset it")
    return int(digits) if told else default


MAX_PIXELS = _limit(os.environ.get(LIMIT, ""))
"""Larger pictures and label maps are refused."""
if Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS > 2 * Image.MAX_IMAGE_PIXELS:  # where Pillow itself refuses
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS

IN_FLIGHT = 128_000_000
"""Pixels that all threads of a process decode at once; one takes 7 bytes meanwhile, and 3 once it is decoded."""

STRIP = 4_000_000
"""Pixels that are turned into RGB at once, so that a large picture is held but twice."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "AVIF")
"""What is decoded; Pillow knows more, and some of them run other programs (EPS starts Ghostscript)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its caption, undecoded.

    ``others`` are captions that stand beside ``caption``: training draws among all of them.
    """

    key: str
    shard: str
    image: bytes
    caption: str
    others: tuple[str, ...] = ()


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
        """False for a sample whose image was never downloaded, which is nobody's failure."""
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
    """A pinhole camera in normalized units: ``fx`` and ``cx`` per image width, ``fy`` and ``cy`` per height."""

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
        """The whole image, squashed to ``size`` (H, W)."""
        return cls((0.0, 0.0, 1.0, 1.0), size)

    @classmethod
    def center(cls, image_size: tuple[int, int], size: tuple[int, int]) -> View:
        """The largest centered crop of an image of ``image_size`` (H, W) with the aspect of ``size`` (H, W)."""
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
        """A random resized crop, as torchvision draws it, of an image of ``image_size`` (H, W).

        ``scale`` bounds the crop's share of the area, ``ratio`` its aspect in pixels; ``flip`` is a probability. Where
        ten draws do not fit it is `center`'s, of the aspect of ``size``; torchvision's is of the nearest in ``ratio``.
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
        """The same view with another output ``size`` (H, W): for targets at stride resolution."""
        return View(self.crop, size, self.flip)

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The crop in pixels (x0, y0, x1, y1) of a map of ``size`` (H, W) that covers the image."""
        H, W = size
        x0, y0, x1, y1 = self.crop
        return max(x0 * W, 0.0), max(y0 * H, 0.0), min(x1 * W, W), min(y1 * H, H)

    def image(self, image: ImageArray) -> ImageArray:
        """Apply to uint8 H×W×3 RGB; bicubic with antialiasing."""
        height, width = self.size
        resized = Image.fromarray(image).resize(
            (width, height), Image.Resampling.BICUBIC, box=self.box(image.shape[:2])
        )
        out = np.asarray(resized)
        return np.ascontiguousarray(out[:, ::-1]) if self.flip else out

    def camera(self, camera: Camera) -> Camera:
        """The camera of the view: a crop moves the principal point, a change of aspect makes fx ≠ fy."""
        x0, y0, x1, y1 = self.crop
        cx, cy = (camera.cx - x0) / (x1 - x0), (camera.cy - y0) / (y1 - y0)
        return Camera(camera.fx / (x1 - x0), camera.fy / (y1 - y0), 1 - cx if self.flip else cx, cy)


class NoRoomError(Exception):
    """There is no room for so many pixels."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.pixels = pixels


class Room:
    """So many pixels may be held at once. Who needs more than there are in all is let in alone."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self._freed = most, 0, threading.Condition()

    def take(self, pixels: int, wait: bool = True) -> None:
        """Hold pixels as soon as there is room; `NoRoomError` if there is none now and nobody is to ``wait``."""
        with self._freed:
            while self._held and self._held + pixels > self._most:
                if not wait:
                    raise NoRoomError(pixels)
                self._freed.wait()
            self._held += pixels

    def force(self, pixels: int) -> None:
        """Hold pixels though there may be no room."""
        with self._freed:
            self._held += pixels

    def give(self, pixels: int) -> None:
        """Hold them no longer."""
        with self._freed:
            self._held -= pixels
            self._freed.notify_all()


class _Quiet:
    """Silences Pillow, which warns of bombs and odd EXIF: `decode_image` has its own limits.

    Warning filters belong to the process, and decoding runs in threads: the first thread in sets them and the last
    one out restores them. With a ``catch_warnings`` each, threads would restore each other's filters for good.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_quiet, _decoding = _Quiet(), Room(IN_FLIGHT)


def _after_fork() -> None:
    # Threads of the parent, which are not in the child, may have been inside of either.
    global _quiet, _decoding
    _quiet, _decoding = _Quiet(), Room(IN_FLIGHT)


os.register_at_fork(after_in_child=_after_fork)


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_image(
    data: bytes, max_pixels: int = MAX_PIXELS, admit: Callable[[int], None] = lambda pixels: None
) -> ImageArray:
    """Decode an image file: the one decoder of labeling, training and evaluation.

    Threads wait for each other where they would decode more than `IN_FLIGHT` pixels at once.

    Args:
        data: an image file of any format that Pillow reads; of an animation, the first frame.
        max_pixels: refuse larger pictures before their pixels are decoded.
        admit: told the number of pixels before they are decoded; may raise `NoRoomError`.

    Returns:
        uint8 H×W×3 RGB with the EXIF orientation applied; transparency is laid over white; 16-bit and float
        gray images are scaled to 8 bits.

    Raises:
        ImageError: not an image, truncated, or too large.
        NoRoomError: it was not admitted.
    """
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=_formats()) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ImageError(_too_large(width, height, max_pixels), "too-large")
            admit(width * height)
            return _decoded(opened)
    except (ImageError, NoRoomError):
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, at twice PIL.Image.MAX_IMAGE_PIXELS
        raise ImageError(f"the image has too many pixels ({error}); shrink it, or set {LIMIT}", "too-large") from error
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        raise ImageError(f"cannot decode the image ({_head(data)}): it is none of {', '.join(_formats())}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise ImageError(f"cannot decode the image ({_head(data)}): {type(error).__name__}: {error}") from error


def image_size(data: bytes) -> tuple[tuple[int, int], str]:
    """(H, W) of what `decode_image` gives for an image file, by its header alone, and its format in lower case.

    Raises:
        ImageError: not an image.
    """
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=_formats()) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            size = opened.size if turned else opened.size[::-1]
            return (size[0], size[1]), str(opened.format).lower()
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise ImageError(f"cannot read the size of the image ({_head(data)}): {type(error).__name__}") from error


def own_orientation(data: bytes) -> int:
    """The orientation in an image file's EXIF, 1 to 8, which `decode_image` applies; 1 if it has none."""
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=_formats()) as opened:
            return int(opened.getexif().get(0x0112, 1))
    except Exception:  # as above; what cannot be decoded is told where it is decoded
        return 1


def _decoded(opened: Image.Image) -> ImageArray:
    room, pixels = _decoding, opened.width * opened.height
    room.take(pixels)
    try:
        ImageOps.exif_transpose(opened, in_place=True)
        return _rgb(opened)
    finally:
        room.give(pixels)


def _too_large(width: int, height: int, most: int) -> str:
    told = f"the image has {width}×{height} pixels, more than max_pixels={most}; shrink it"
    if most != MAX_PIXELS:
        return told
    return f"{told}, or set the environment variable {LIMIT}={width * height}: decoding one takes 7 bytes a pixel"


def _head(data: bytes) -> str:
    return f"{len(data)} bytes, beginning {data[:8]!r}"


def to_rgb(image: Image.Image) -> ImageArray:
    """Pixels of a PIL image, uint8 H×W×3 RGB, as `decode_image` gives them."""
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> ImageArray:
    """Pixels of an upright image, strip by strip: Pillow and NumPy copy what they convert, several times."""
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
    """Of 16 bits or of floats, in 8 bits."""
    values = np.array(image, dtype=np.float32)  # in place from here on: it may be of 400 MB
    np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I"):
        values /= 257.0  # 16 bits to 8
    elif values.max(initial=0.0) <= 1.0:
        values *= 255.0
    values += 0.5
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """In RGB, laid over white where it is transparent."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")
