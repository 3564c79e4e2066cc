"""Labels that you have as files, by sample key: ``files:labels/?task=depth&kind=metric&…``, one array each.

The URI answers what files leave open (see `clipzoo.experts._answers`); the label of the sample ``a/b`` is
``labels/a/b.png`` (a PNG, TIFF, NPY or HDF5), or what ``pattern`` makes of ``a/b``. A missing or unsound file is a
failed row with its reason. A label may be smaller or larger than its image, but must show all of it: its aspect is
compared.
"""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray
from PIL import Image

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts import _encodings, _hdf5
from clipzoo.experts._answers import COMMON, PATTERN, SUFFIX, Answers, parse, split
from clipzoo.experts._palettes import hexadecimal
from clipzoo.experts.base import ExpertCard
from clipzoo.importers import base as _keyed
from clipzoo.importers.base import Importer, Notes, inside, same_aspect
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import MAX_PIXELS, BoolArray, Size

Values = NDArray[Any]

SUFFIXES = (".png", ".npy", ".tif", ".tiff", *_hdf5.SUFFIXES)
MODES = ("1", "L", "P", "RGB", "I", "I;16", "I;16B", "F")
"""Pillow's modes that hold numbers or colors as they are; transparency would say something that is not asked."""

ALPHA = ("LA", "PA", "RGBA")
"""Modes whose alpha channel is the mask where a soft one is asked for."""

OPTIONAL = {"pattern": PATTERN, **COMMON}
"""What may be left out where labels are found by their names."""


def create(name: str) -> FilesExpert:
    """The expert of ``folder?task=…&…``.

    Raises:
        ExpertError: the folder is not there, or the URI leaves open what the files mean.
    """
    folder, _, query = name.partition("?")
    given = split(query)
    answers = parse(given, "files", {}, {"suffix": SUFFIX, **OPTIONAL})
    expert = FilesExpert(_keyed.folder(folder, f"files:{name}"), answers, card(f"files:{name}", given, answers))
    if expert.suffixes[0].endswith(_hdf5.SUFFIXES):
        _hdf5.require()
    return expert


class NamedExpert(Importer):
    """Labels that are arrays or pictures, whose names are made of keys."""

    def __init__(self, answers: Answers, card: ExpertCard) -> None:
        super().__init__()
        self.answers, self.card = answers, card

    def named(self, key: str) -> str | None:
        """What the label of a sample is called; None if its key does not fit the pattern."""
        return key if self.answers.pattern is None else self.answers.pattern(key)


class FilesExpert(NamedExpert):
    """Looks labels up in a folder."""

    def __init__(self, folder: Path, answers: Answers, card: ExpertCard) -> None:
        super().__init__(answers, card)
        self.folder, encoding = folder, answers.encoding
        own = answers.suffix or (encoding.suffix if encoding else "")
        self.suffixes = (own,) if own else SUFFIXES
        self.mask = encoding.mask if encoding else ""

    def place(self, key: str) -> str | None:
        """The file's path."""
        path = self._path(key)
        return None if path is None else str(path)

    def state(self, key: str) -> str:
        """See `Expert.state`."""
        path = self._path(key)
        if path is None:
            return ""
        beside = f" {files.state(self._beside(path))}" if self.mask else ""
        return f"{path.suffix} {files.state(path)}{beside}"

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        found = itertools.islice((one for one in self.folder.rglob("*") if one.is_file()), 3)
        names = ", ".join(repr(str(one.relative_to(self.folder))) for one in found)
        how = "suffix= names what follows the key, pattern= makes other names of keys"
        return f"the folder has {names or 'no file'}; {how}"

    def look_up(self, key: str, size: Size) -> Any:
        """See `Importer.look_up`."""
        path = self._path(key)
        if path is None:
            name = self.named(key)
            if name is None:
                raise SampleError(f"no label file: pattern= does not fit the key {key!r}", "no-label")
            detail = f"no label file: {self.folder} has no {' or '.join(self._names(name))}"
            raise SampleError(detail, "no-label")
        values = read(path, self.answers)
        values = self._masked(values, path) if self.mask else values
        return fitting(values, self.answers, size, path, self.notes)

    def _names(self, name: str) -> list[str]:
        return [name + suffix for suffix in self.suffixes]

    def _path(self, key: str) -> Path | None:
        name = self.named(key)
        if name is None:
            return None
        inside(name)
        return next((path for path in map(self.folder.joinpath, self._names(name)) if path.is_file()), None)

    def _beside(self, path: Path) -> Path:
        return path.with_name(path.stem + self.mask)

    def _masked(self, values: Values, path: Path) -> Values:
        """Depth that is not-a-number where the mask beside it has 0."""
        mask = read(self._beside(path))
        if mask.shape != values.shape:
            raise SampleError(f"the mask of {path} is of another size: {list(mask.shape)} for {list(values.shape)}")
        return np.where(mask > 0, values, np.nan)


def card(uri: str, given: Mapping[str, str], answers: Answers) -> ExpertCard:
    """The card of labels that ``answers`` explain, ``given`` being how they were written."""
    colors = {"colours": [*map(hexadecimal, answers.colors)]} if answers.colors else {}
    settled = answers.encoding.answers if answers.encoding else {}
    return _keyed.card(uri, answers.task, {**given, **settled, **colors}, vars(answers), answers.convention)


# Reading ---------------------------------------------------------------------------------------------------


def read(path: Path, answers: Answers | None = None, data: bytes | None = None, colors: bool = False) -> Values:
    """A file's numbers, [H,W] or [H,W,3].

    ``answers`` may ask for a soft mask (then of a picture with transparency its alpha channel, [H,W]) or for
    ``colors``, which are a palette's in place of its indices. ``data`` are the bytes of what is no file; ``path`` is
    then for messages alone.

    Raises:
        SampleError: not to be read, too large, or of a kind that has no plain numbers.
    """
    suffix = path.suffix.lower() if data is None else ""
    try:
        if suffix in _hdf5.SUFFIXES or (data or b"").startswith(_hdf5.MAGIC):
            return _array(_hdf5.read(path, data), path)
        if suffix == ".npy" or (data or b"").startswith(MAGIC_PREFIX):
            source: Any = path if data is None else io.BytesIO(data)
            return _array(np.load(source, mmap_mode="r" if data is None else None, allow_pickle=False), path)
        soft = answers is not None and answers.threshold is not None
        return _picture(path, data, soft, colors or bool(answers and answers.colors))
    except SampleError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged input
        raise SampleError(f"cannot read the label: {path}: {type(error).__name__}: {error}") from error


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
    """[H,W,3] of a picture of 16 bits a channel, of which Pillow (seen in 13.0) gives the upper bytes alone.

    Read in the other byte order, the lower bytes are the upper ones.
    """
    with Image.open(path if data is None else io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        image.tile = [_swapped_tile(tile) for tile in image.tile]
        image.load()
        return np.array(image)


def _swapped_tile(tile: Any) -> Any:
    """A part of a picture, (decoder, extents, offset, arguments), whose bytes are read in the other order."""
    parts = (*tile[:3], _swapped(tile[3]))
    return tile._make(parts) if hasattr(tile, "_make") else parts  # a plain tuple before Pillow 11


def _swapped(arguments: Any) -> Any:
    """A decoder's arguments, of which the first is the raw mode, with the other byte order."""
    if not isinstance(arguments, str):
        return _swapped(arguments[0]), *arguments[1:]
    little = arguments == "RGB;16L" or (arguments == "RGB;16N" and sys.byteorder == "little")
    return "RGB;16B" if little else "RGB;16L"


def _grays(image: Image.Image, path: Path) -> Values:
    """[H,W] of a soft mask: the alpha channel where there is one, else the gray."""
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


# Labels ----------------------------------------------------------------------------------------------------


def fitting(values: Values, answers: Answers, size: Size, path: Path, notes: Notes) -> Any:
    """The label that a file's numbers are, of an image of ``size``; see `label`. Implausible depth is noted."""
    found = label(values, answers, path)
    same_aspect(found.valid.shape, size, str(path))
    if isinstance(found, Depth) and found.kind == "metric":
        _doubt(found, values, answers, path, notes)
    return found


def _doubt(depth: Depth, values: Values, answers: Answers, path: Path, notes: Notes) -> None:
    """Note depth that is hardly what was answered."""
    encoding = answers.encoding
    low, high = reach = _encodings.METRIC if encoding is None else encoding.reach
    if told := _encodings.outside(depth.values[depth.valid], reach):
        name = "metric depth" if encoding is None else f"depth of encoding={answers.given['encoding']}"
        notes.take(f"implausible {name}, which lies between {low:g} and {high:g} m: check scale=", f"{path}: {told}")
    if encoding is None and _encodings.rotated(values):
        notes.take("implausible depth, all multiples of 8 like SUN RGB-D's rotated bits: try encoding=sunrgbd", path)


def label(values: Values, answers: Answers, path: Path) -> Any:
    """The label that a file's numbers are, by the answers; ``path`` is for messages."""
    coded = answers.task == "normals" or bool(answers.colors)
    if values.ndim != (3 if coded else 2) or values.shape[2:] not in ((), (3,)):
        raise SampleError(
            f"{'three channels' if coded else 'one channel'} expected: {path} holds {list(values.shape)}; color-coded "
            "classes need a file of colors in classes=@…"
        )
    make = {"segmentation": _segmentation, "depth": _depth, "normals": _normals, "edges": _edges}[answers.task]
    return make(values, answers, path)


def _known(values: Values, answers: Answers) -> BoolArray:
    """Where [H,W] or [H,W,C] is finite, and not one of the values of unknown pixels in all channels."""
    channels = values if values.ndim == 3 else values[..., None]
    known = np.isfinite(channels).all(-1)
    for value in answers.unknown:
        known &= ~(channels == value).all(-1)
    return np.asarray(known)


def _soft(values: Values, answers: Answers, path: Path) -> Segmentation:
    """The first class where a mask's share of the largest value is below the threshold, the second one elsewhere."""
    assert answers.threshold is not None, "it was asked for"
    valid = _known(values, answers)
    wide = values.dtype.kind in "iu" and values.dtype not in (np.uint8, np.uint16)
    top = 1.0 if values.dtype.kind in "bf" else float(np.iinfo(values.dtype).max)
    shares = np.where(valid, values, 0) / top
    if wide or not ((shares >= 0) & (shares <= 1)).all():
        raise SampleError(f"a soft mask has 8 or 16 bits, or floats from 0 to 1: {path} holds {values.dtype}")
    return Segmentation((shares >= answers.threshold).astype(np.uint16), valid)


def _segmentation(values: Values, answers: Answers, path: Path) -> Segmentation:
    if answers.threshold is not None:
        return _soft(values, answers, path)
    if answers.colors:
        values = values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    valid = _known(values, answers)
    if answers.colors:
        codes = np.array(answers.colors) @ np.array([1 << 16, 1 << 8, 1])
        ids = np.searchsorted(codes, values, sorter=codes.argsort()).clip(max=len(codes) - 1)
        ids = codes.argsort()[ids]
        wrong = valid & (codes[ids] != values)
        if wrong.any():
            gray = values[wrong][0] % 0x010101 == 0 and len(codes) == 2
            fix = "; grays of a soft mask are read by threshold=0.5" if gray else ""
            raise SampleError(f"a color that is neither of a class nor void{fix}: {values[wrong][0]:06x} in {path}")
    else:
        ids = np.where(valid, values, answers.first).astype(np.int64) - answers.first
        wrong = valid & ((ids < 0) | (ids >= len(answers.classes)) | (ids + answers.first != values))
        if wrong.any():
            binary = len(answers.classes) == 2 and set(np.unique(values[valid])) <= {0, 255}
            fix = "; masks of 0 and 255 alone are read by classes=palette:binary, soft ones by threshold=0.5"
            fix = fix if binary else ""
            none = f"an id that is neither of the {len(answers.classes)} classes nor void"
            raise SampleError(f"{none}{fix}: {values[wrong][0]} in {path}")
    return Segmentation(np.where(valid, ids, 0).astype(np.uint16), valid)


def _depth(values: Values, answers: Answers, path: Path) -> Depth:
    assert answers.kind is not None, "the answers are complete"
    if answers.encoding is not None and answers.encoding.rotated:
        values = _encodings.unrotated(values, path)
    valid = _known(values, answers)
    scaled = np.where(valid, values, 1).astype(np.float64) * answers.scale
    return Depth(scaled.astype(np.float32), valid, answers.kind, answers.along)


def _normals(values: Values, answers: Answers, path: Path) -> Normals:
    valid = _known(values, answers)
    vectors = 2 * np.moveaxis(_shares(values, valid, answers), -1, 0) - 1
    lengths = np.linalg.norm(vectors, axis=0)
    if valid.any() and abs(float(np.median(lengths[valid])) - 1) > 0.05:
        raise SampleError(
            f"no unit vectors: their median length is {np.median(lengths[valid]):.2f} in {path}, which holds "
            f"{values.dtype}; is range={answers.given['range']} right (0,65535 of 16-bit PNGs), and are unknown pixels "
            "named by invalid?"
        )
    valid &= lengths > 0.5  # blends of two directions that cancel out
    assert answers.frame is not None, "the answers are complete"
    turned = np.tensordot(answers.frame, vectors / np.where(valid, lengths, 1), 1)
    return Normals(turned.astype(np.float32), valid)


def _edges(values: Values, answers: Answers, path: Path) -> Edges:
    valid = _known(values, answers)
    return Edges(_shares(values, valid, answers).astype(np.float32), valid)


def _shares(values: Values, valid: BoolArray, answers: Answers) -> NDArray[np.float64]:
    """Where values lie in the answers' range, 0 at its first end and 1 at its second; 0 where unknown."""
    low, high = answers.range
    known = valid if values.ndim == 2 else valid[..., None]
    return (np.where(known, values, low).astype(np.float64) - low) / (high - low)
