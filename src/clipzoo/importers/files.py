"""Labels that you have as files, by sample key: ``files:labels/?task=depth&kind=metric&…``, a PNG, TIFF or NPY each.

The URI answers what files leave open (see `clipzoo.experts._answers`); the label of the sample ``a/b`` is
``labels/a/b.png``. A missing or unsound file is a failed row with its reason. A label may be smaller or larger than its
image, but must show all of it: its aspect is compared.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray
from PIL import Image

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts._answers import COMMON, SUFFIX, Answers, parse, split
from clipzoo.experts._palettes import hexadecimal
from clipzoo.experts.base import ExpertCard
from clipzoo.importers import base as _keyed
from clipzoo.importers.base import KeyedExpert, inside, same_aspect
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import MAX_PIXELS, BoolArray, Size

Values = NDArray[Any]

SUFFIXES = (".png", ".npy", ".tif", ".tiff")
MODES = ("1", "L", "P", "RGB", "I", "I;16", "I;16B", "F")
"""Pillow's modes that hold numbers or colours as they are; transparency would say something that is not asked."""


def create(name: str) -> FilesExpert:
    """The expert of ``folder?task=…&…``.

    Raises:
        ExpertError: the folder is not there, or the URI leaves open what the files mean.
    """
    folder, _, query = name.partition("?")
    given = split(query)
    answers = parse(given, "files", {}, {"suffix": SUFFIX, **COMMON})
    return FilesExpert(_keyed.folder(folder, f"files:{name}"), answers, card(f"files:{name}", given, answers))


class FilesExpert(KeyedExpert):
    """Looks labels up in a folder."""

    def __init__(self, folder: Path, answers: Answers, card: ExpertCard) -> None:
        self.folder, self.answers, self.card = folder, answers, card

    def place(self, key: str) -> str | None:
        """The file's path."""
        path = self._path(key)
        return None if path is None else str(path)

    def state(self, key: str) -> str:
        """See `KeyedExpert.state`."""
        path = self._path(key)
        return "" if path is None else f"{path.suffix} {files.state(path)}"

    def look_up(self, key: str, size: Size) -> Any:
        """See `KeyedExpert.look_up`."""
        path = self._path(key)
        if path is None:
            raise SampleError(f"no label file: {self.folder} has no {' or '.join(self._names(key))}")
        found = label(read(path, colours=bool(self.answers.colours)), self.answers, path)
        same_aspect(found.valid.shape, size, str(path))
        return found

    def _names(self, key: str) -> list[str]:
        return [key + suffix for suffix in ((self.answers.suffix,) if self.answers.suffix else SUFFIXES)]

    def _path(self, key: str) -> Path | None:
        inside(key)
        return next((path for path in map(self.folder.joinpath, self._names(key)) if path.is_file()), None)


def card(uri: str, given: Mapping[str, str], answers: Answers) -> ExpertCard:
    """The card of labels that ``answers`` explain, ``given`` being how they were written."""
    colours = {"colours": [*map(hexadecimal, answers.colours)]} if answers.colours else {}
    return _keyed.card(uri, answers.task, {**given, **colours}, vars(answers), answers.convention)


# Reading ---------------------------------------------------------------------------------------------------


def read(path: Path, colours: bool = False, data: bytes | None = None) -> Values:
    """A file's numbers, [H,W] or [H,W,3]; with ``colours`` a palette's colours in place of its indices.

    ``data`` are the bytes of what is no file; ``path`` is then for messages alone.

    Raises:
        SampleError: not to be read, too large, or of a kind that has no plain numbers.
    """
    try:
        array = path.suffix == ".npy" if data is None else data.startswith(MAGIC_PREFIX)
        return _array(path, data) if array else _picture(path, colours, data)
    except SampleError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged input
        raise SampleError(f"cannot read the label: {path}: {type(error).__name__}: {error}") from error


def _array(path: Path, data: bytes | None) -> Values:
    source: Any = path if data is None else io.BytesIO(data)
    values = np.load(source, mmap_mode="r" if data is None else None, allow_pickle=False)
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3) or values.size > 3 * MAX_PIXELS:
        raise SampleError(f"no [H,W] or [H,W,3] of numbers: {path} holds {values.dtype} of shape {values.shape}")
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = np.moveaxis(values, 0, -1)
    return np.array(values[..., 0] if values.shape[2:] == (1,) else values)


def _picture(path: Path, colours: bool, data: bytes | None) -> Values:
    with Image.open(path if data is None else io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        if image.width * image.height > MAX_PIXELS or image.mode not in MODES:
            raise SampleError(
                f"too many pixels, or a mode other than {', '.join(MODES)}: {path} is {image.width}×{image.height}, "
                f"{image.mode}; save it without transparency"
            )
        return np.array(image.convert("RGB") if colours else image)


# Labels ----------------------------------------------------------------------------------------------------


def label(values: Values, answers: Answers, path: Path) -> Any:
    """The label that a file's numbers are, by the answers; ``path`` is for messages."""
    coded = answers.task == "normals" or bool(answers.colours)
    if values.ndim != (3 if coded else 2) or values.shape[2:] not in ((), (3,)):
        raise SampleError(
            f"{'three channels' if coded else 'one channel'} expected: {path} holds {list(values.shape)}; colour-coded "
            "classes need a file of colours in classes=@…"
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


def _segmentation(values: Values, answers: Answers, path: Path) -> Segmentation:
    if answers.colours:
        values = values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    valid = _known(values, answers)
    if answers.colours:
        codes = np.array(answers.colours) @ np.array([1 << 16, 1 << 8, 1])
        ids = np.searchsorted(codes, values, sorter=codes.argsort()).clip(max=len(codes) - 1)
        ids = codes.argsort()[ids]
        wrong = valid & (codes[ids] != values)
        if wrong.any():
            raise SampleError(f"a colour that is neither of a class nor void: {values[wrong][0]:06x} in {path}")
    else:
        ids = np.where(valid, values, answers.first).astype(np.int64) - answers.first
        wrong = valid & ((ids < 0) | (ids >= len(answers.classes)) | (ids + answers.first != values))
        if wrong.any():
            binary = len(answers.classes) == 2 and set(np.unique(values[valid])) <= {0, 255}
            fix = "; masks of 0 and 255 alone are read by classes=palette:binary" if binary else ""
            none = f"an id that is neither of the {len(answers.classes)} classes nor void"
            raise SampleError(f"{none}{fix}: {values[wrong][0]} in {path}")
    return Segmentation(np.where(valid, ids, 0).astype(np.uint16), valid)


def _depth(values: Values, answers: Answers, path: Path) -> Depth:
    assert answers.kind is not None, "the answers are complete"
    valid = _known(values, answers)
    scaled = np.where(valid, values, 1).astype(np.float64) * answers.scale
    return Depth(scaled.astype(np.float32), valid, answers.kind, answers.along)


def _normals(values: Values, answers: Answers, path: Path) -> Normals:
    valid = _known(values, answers)
    vectors = 2 * np.moveaxis(_shares(values, valid, answers), -1, 0) - 1
    lengths = np.linalg.norm(vectors, axis=0)
    if valid.any() and abs(float(np.median(lengths[valid])) - 1) > 0.05:
        raise SampleError(
            f"no unit vectors: their median length is {np.median(lengths[valid]):.2f} in {path}; is range="
            f"{answers.given['range']} right, and are unknown pixels named by invalid?"
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
