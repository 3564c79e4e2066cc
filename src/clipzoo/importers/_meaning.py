"""The meaning of label files: options per task, and arrays as labels.

Files do not state whether 1000 is a meter or a class, so each option without a default must be given.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, field_validator

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import options
from clipzoo.experts.base import ExpertCard
from clipzoo.experts.frames import parse_frame
from clipzoo.experts.options import ClassList, Options
from clipzoo.experts.palettes import Color, hexadecimal
from clipzoo.importers import arrays, base
from clipzoo.importers._reading import encodings
from clipzoo.importers._reading.encodings import ENCODINGS, Encoding
from clipzoo.importers._reading.pattern import Pattern
from clipzoo.importers.arrays import Values
from clipzoo.importers.base import ImportOptions, Notes, same_aspect
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Along, Depth, Kind
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray, FloatArray, Size

MapLabel = Segmentation | Depth | Normals | Edges

PATTERN = "the label's name from the key's, as rgb_{number}:sync_depth_{number}; {name:path} also matches slashes"
INVALID = "the value of unknown pixels (several with commas), as 0, or none; not-a-number is always unknown"
PLACES = np.array([1 << 16, 1 << 8, 1])
"""A color [3] times these is 0xRRGGBB."""


def _values(text: str) -> tuple[float, ...]:
    parts = [] if text == "none" else text.split(",")
    return tuple(float(int(part[1:], 16)) if part.startswith("#") else float(part) for part in parts)


def _range(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(","))
    if low == high or not math.isfinite(high - low):
        raise ValueError("two different values are needed")
    return low, high


def _encoding(text: str) -> str:
    if text not in ENCODINGS:
        raise ValueError(f"must be one of {', '.join(ENCODINGS)}")
    return text


ValueList = Annotated[tuple[float, ...], PlainValidator(_values)]
ValueRange = Annotated[tuple[float, float], PlainValidator(_range)]
PatternOption = Annotated[Pattern | None, PlainValidator(Pattern.parse)]


class NamedOptions(ImportOptions):
    """Options of labels that are found by their names."""

    pattern: PatternOption = Field(None, description=PATTERN)

    def named(self, key: str) -> str | None:
        """Return the name of a sample's label; None if its key does not match the pattern."""
        return key if self.pattern is None else self.pattern(key)


class Meaning(Options):
    """Options of one task that state the meaning of the values in label files."""

    task: str

    @property
    def convention(self) -> Convention:
        """The convention of the labels."""
        return Convention()

    @property
    def colors(self) -> tuple[Color, ...]:
        """The colors of classes in color-coded files; empty for all other files."""
        return ()

    @property
    def recorded(self) -> Mapping[str, object]:
        """Facts for the manifest, in addition to the options as text."""
        return {}

    def read(self, path: Path, data: bytes | None = None) -> Values:
        """Return the numbers of a file; see `arrays.read`."""
        return arrays.read(path, data, colors=bool(self.colors))

    @abstractmethod
    def label(self, values: Values, path: Path) -> MapLabel:
        """Return the numbers [H,W] or [H,W,3] of a file as a label; ``path`` is used only in errors."""

    def notice(self, label: MapLabel, values: Values, path: Path, notes: Notes) -> None:
        """Note suspicious values."""


class SegmentationMeaning(Meaning):
    """Class ids, colors of classes, or a soft mask of two classes."""

    task: Literal["segmentation"]
    classes: ClassList = Field(
        description="names in the order of ids, as floor,wall,chair, or @names.txt with one per line: a name, or, for "
        "color-coded files, 'r g b name'; or palette:voc, palette:cityscapes for files in their colors, or "
        "palette:binary for white on black (0 and 255)"
    )
    void: ValueList = Field(
        description="ids of unknown pixels (of color-coded files colors, as #000000), with commas, or none"
    )
    first: int = Field(0, description="the first class's id in the files, by default 0")
    threshold: Annotated[float, Field(ge=1e-6, le=1)] | None = Field(
        None,
        description="of soft masks and alpha channels, two classes: the second one is where the share of the largest "
        "value is at least this, as 0.5",
    )

    @property
    def convention(self) -> Convention:
        """The class names."""
        return Convention(self.classes.names)

    @property
    def colors(self) -> tuple[Color, ...]:
        """The colors of the classes; a soft mask has none."""
        return () if self.threshold is not None else self.classes.colors

    @property
    def recorded(self) -> Mapping[str, object]:
        """The colors, spelled as in older stores."""
        return {"colours": [*map(hexadecimal, self.colors)]} if self.colors else {}

    def check(self, void: str) -> None:
        """Raise `ExpertError` if options contradict each other; ``void`` is that option as text."""
        if self.threshold is None and self.colors:
            _check_colors(void)
        if self.threshold is None:
            return
        if len(self.classes.names) != 2:
            raise ExpertError(
                f"threshold: a soft mask has two classes, but classes= names {len(self.classes.names)}. Write "
                "classes=background,NAME, or remove threshold="
            )
        if any(value > 65535 for value in self.void):
            raise ExpertError("void: soft masks have no colors. Write the number of unknown pixels, or void=none")

    def read(self, path: Path, data: bytes | None = None) -> Values:
        """Return ids, colors, or a soft mask."""
        return arrays.read(path, data, soft=self.threshold is not None, colors=bool(self.colors))

    def label(self, values: Values, path: Path) -> Segmentation:
        """Return a class map."""
        _check_channels(values, 3 if self.colors else 2, path)
        valid = _known(values, self.void) if not self.colors else _known(values.astype(np.int64) @ PLACES, self.void)
        if self.threshold is not None:
            return _soft(values, valid, self.threshold, path)
        ids = self._of_colors(values, valid, path) if self.colors else self._of_ids(values, valid, path)
        return Segmentation(np.where(valid, ids, 0).astype(np.uint16), valid)

    def _of_colors(self, values: Values, valid: BoolArray, path: Path) -> NDArray[np.integer]:
        pixels = values.astype(np.int64) @ PLACES
        codes = np.array(self.colors) @ PLACES
        order = codes.argsort()
        places = np.searchsorted(codes, pixels, sorter=order).clip(max=len(codes) - 1)
        ids: NDArray[np.integer] = order[places]
        wrong = valid & (codes[ids] != pixels)
        if wrong.any():
            gray = pixels[wrong][0] % 0x010101 == 0 and len(codes) == 2
            fix = "; grays of a soft mask are read by threshold=0.5" if gray else ""
            raise SampleError(f"a color that is neither of a class nor void{fix}: {pixels[wrong][0]:06x} in {path}")
        return ids

    def _of_ids(self, values: Values, valid: BoolArray, path: Path) -> NDArray[np.integer]:
        count = len(self.classes.names)
        ids = np.where(valid, values, self.first).astype(np.int64) - self.first
        wrong = valid & ((ids < 0) | (ids >= count) | (ids + self.first != values))
        if wrong.any():
            binary = count == 2 and set(np.unique(values[valid])) <= {0, 255}
            fix = "; masks of 0 and 255 alone are read by classes=palette:binary, soft ones by threshold=0.5"
            raise SampleError(
                f"an id that is neither of the {count} classes nor void{fix if binary else ''}: {values[wrong][0]} in "
                f"{path}"
            )
        return ids


class DepthMeaning(Meaning):
    """Depth or disparity."""

    task: Literal["depth"]
    kind: Kind = Field(description=f"{', '.join(get_args(Kind))} (nearer is larger)")
    along: Annotated[Along | None, BeforeValidator(lambda text: None if text == "none" else text)] = Field(
        description="z (optical axis) or ray (line of sight); none if unknown, for affine kinds"
    )
    scale: Annotated[float, Field(gt=0, lt=math.inf)] = Field(
        description="the factor from values to meters if metric: 0.001 for millimeters"
    )
    invalid: ValueList = Field(description=INVALID)
    encoding: Annotated[str, PlainValidator(_encoding)] | None = Field(
        None,
        description=f"{', '.join(ENCODINGS)}: the format of a published dataset, which sets kind, scale and invalid",
    )

    @field_validator("along")
    @classmethod
    def _metric_has_an_axis(cls, along: Along | None, info: ValidationInfo) -> Along | None:
        if along is None and info.data.get("kind") == "metric":
            raise ValueError("metric depth is along z or ray")
        return along

    @property
    def convention(self) -> Convention:
        """Kind and axis."""
        return Convention((), self.kind, self.along)

    @property
    def format(self) -> Encoding | None:
        """The format of a published dataset, if one is chosen."""
        return ENCODINGS[self.encoding] if self.encoding else None

    @property
    def recorded(self) -> Mapping[str, object]:
        """The options that the format sets."""
        return self.format.options if self.format else {}

    def label(self, values: Values, path: Path) -> Depth:
        """Return depth in meters, or in any unit for affine kinds."""
        _check_channels(values, 2, path)
        if self.format is not None and self.format.rotated:
            values = encodings.unrotated(values, path)
        valid = _known(values, self.invalid)
        scaled = np.where(valid, values, 1).astype(np.float64) * self.scale
        return Depth(scaled.astype(np.float32), valid, self.kind, self.along)

    def notice(self, label: MapLabel, values: Values, path: Path, notes: Notes) -> None:
        """Note metric depth outside of the usual range, and depth that looks like another format."""
        if self.kind != "metric" or not isinstance(label, Depth):
            return
        low, high = reach = encodings.METRIC if self.format is None else self.format.reach
        if found := encodings.outside(label.values[label.valid], reach):
            name = "metric depth" if self.format is None else f"depth of encoding={self.encoding}"
            notes.take(
                f"implausible {name}, which lies between {low:g} and {high:g} m: check scale=", f"{path}: {found}"
            )
        if self.format is None and encodings.rotated(values):
            notes.take(
                "implausible depth, all multiples of 8 like SUN RGB-D's rotated bits: try encoding=sunrgbd", path
            )


class NormalsMeaning(Meaning):
    """Normals as three channels."""

    task: Literal["normals"]
    frame: Annotated[FloatArray, PlainValidator(parse_frame)] = Field(
        description="the directions of the channels, as x-right,y-down,z-forward"
    )
    range: ValueRange = Field(description="the file's values for -1 and 1, as 0,255")
    invalid: ValueList = Field(description=INVALID)

    def label(self, values: Values, path: Path) -> Normals:
        """Return unit vectors in clipzoo's frame."""
        _check_channels(values, 3, path)
        valid = _known(values, self.invalid)
        vectors = 2 * np.moveaxis(_shares(values, valid, self.range), -1, 0) - 1
        lengths = np.linalg.norm(vectors, axis=0)
        if valid.any() and abs(float(np.median(lengths[valid])) - 1) > 0.05:
            low, high = self.range
            raise SampleError(
                f"no unit vectors: their median length is {np.median(lengths[valid]):.2f} in {path}, which holds "
                f"{values.dtype}; is range={low:.10g},{high:.10g} right (0,65535 of 16-bit PNGs), and does invalid "
                "name all unknown pixels?"
            )
        valid &= lengths > 0.5  # blends of two directions that cancel out
        turned = np.tensordot(self.frame, vectors / np.where(valid, lengths, 1), 1)
        return Normals(turned.astype(np.float32), valid)


class EdgesMeaning(Meaning):
    """Edge maps."""

    task: Literal["edges"]
    range: ValueRange = Field(
        description="the file's values for no edge and an edge, as 0,255, or 255,0 for black on white"
    )
    invalid: ValueList = Field(description=INVALID)

    def label(self, values: Values, path: Path) -> Edges:
        """Return probabilities."""
        _check_channels(values, 2, path)
        valid = _known(values, self.invalid)
        return Edges(_shares(values, valid, self.range).astype(np.float32), valid)


MEANINGS: Mapping[str, type[Meaning]] = {
    "segmentation": SegmentationMeaning,
    "depth": DepthMeaning,
    "normals": NormalsMeaning,
    "edges": EdgesMeaning,
}
"""Task -> the options that state what values mean."""

S = TypeVar("S", bound=ImportOptions)


def parse(source: type[S], given: Mapping[str, str], scheme: str) -> tuple[S, Meaning]:
    """Return the options of a format and those of the task that ``given`` names.

    Raises:
        ExpertError: the task or other options are missing, unknown or invalid; the message lists all of them.
    """
    task = given.get("task", "")
    if task not in MEANINGS:
        raise without_task(source, given, scheme, MEANINGS)
    completed = {**_set_by_encoding(given, scheme), **given} if task == "depth" else given
    chosen, meaning = options.parse_both(source, MEANINGS[task], completed, scheme, f"labels of {task}", base.FIX)
    if isinstance(meaning, SegmentationMeaning):
        meaning.check(given["void"])
    return chosen, meaning


def card(uri: str, given: Mapping[str, str], chosen: ImportOptions, meaning: Meaning) -> ExpertCard:
    """Return the card of labels; ``given`` are all options as text."""
    return base.card(uri, meaning.task, {**given, **meaning.recorded}, chosen, meaning.convention)


def fitting(values: Values, meaning: Meaning, size: Size, path: Path, notes: Notes) -> MapLabel:
    """Return the numbers of a file as the label of an image of ``size`` (H, W), and note suspicious values.

    Raises:
        SampleError: they are not a label of this meaning, or of another aspect.
    """
    label = meaning.label(values, path)
    same_aspect(label.valid.shape, size, str(path))
    meaning.notice(label, values, path, notes)
    return label


def without_task(
    source: type[Options], given: Mapping[str, str], scheme: str, tasks: Mapping[str, type[Options]]
) -> ExpertError:
    """Return the error for a missing or unknown task: the missing options, and those of each task."""
    missing = {name: how for name, how in options.required(source).items() if name not in given}
    lines = [f"{name} is missing: {how}" for name, how in missing.items()]
    task = f"task={given['task']} is unknown" if "task" in given else "task is missing"
    lines.append(f"{task}: {', '.join(tasks)}. Each needs further options:")
    for task, kind in tasks.items():
        further = {name: how for name, how in options.required(kind).items() if name not in {"task", *missing, *given}}
        lines += [f"  {task}: {name} = {how}" for name, how in further.items()]
    fix = base.FIX.format(scheme=scheme, name="task")
    return ExpertError("\n  ".join([f"{scheme}: the labels need more options. {fix}", *lines]))


def _set_by_encoding(given: Mapping[str, str], scheme: str) -> Mapping[str, str]:
    """Return the options that ``encoding`` sets.

    Raises:
        ExpertError: one of them is given as well, or the format cannot be read by this importer.
    """
    name = given.get("encoding", "")
    if name not in ENCODINGS:
        return {}
    if ENCODINGS[name].mask and scheme != "files":
        raise ExpertError(
            f"{scheme}: encoding={name} has its unknown pixels in separate files, which only files: reads. Import from "
            "the folder of both"
        )
    settled = ENCODINGS[name].options
    twice = [f"{option}={given[option]}" for option in settled if option in given]
    if twice:
        known = ", ".join(f"{option}={text}" for option, text in settled.items())
        raise ExpertError(f"{scheme}: encoding={name} sets {known}. Remove {', '.join(twice)}, or remove encoding=")
    return settled


def _check_colors(void: str) -> None:
    """Raise `ExpertError` unless the void of color-coded files is ``none`` or colors."""
    parts = [] if void == "none" else void.split(",")
    if all(part.startswith("#") for part in parts):
        return
    example = f"#{int(parts[0]):02x}{int(parts[1]):02x}{int(parts[2]):02x}" if len(parts) == 3 else "#rrggbb"
    raise ExpertError(
        f"void={void} is a list of numbers, but color-coded files need colors. Write void={example} (several with "
        "commas), or void=none"
    )


def _check_channels(values: Values, dimensions: int, path: Path) -> None:
    if values.ndim != dimensions or values.shape[2:] not in ((), (3,)):
        raise SampleError(
            f"{'three channels' if dimensions == 3 else 'one channel'} expected: {path} holds {list(values.shape)}; "
            "color-coded classes need a file of colors in classes=@…"
        )


def _known(values: Values, unknown: tuple[float, ...]) -> BoolArray:
    """Return where [H,W] or [H,W,C] is finite, and not one of the ``unknown`` values in all channels."""
    channels = values if values.ndim == 3 else values[..., None]
    known = np.isfinite(channels).all(-1)
    for value in unknown:
        known &= ~(channels == value).all(-1)
    return np.asarray(known)


def _soft(values: Values, valid: BoolArray, threshold: float, path: Path) -> Segmentation:
    """Return class 1 where a mask's share of the largest value is at least the threshold, class 0 elsewhere."""
    wide = values.dtype.kind in "iu" and values.dtype not in (np.uint8, np.uint16)
    top = 1.0 if values.dtype.kind in "bf" else float(np.iinfo(values.dtype.name).max)
    shares = np.where(valid, values, 0) / top
    if wide or not ((shares >= 0) & (shares <= 1)).all():
        raise SampleError(f"a soft mask has 8 or 16 bits, or floats from 0 to 1: {path} holds {values.dtype}")
    return Segmentation((shares >= threshold).astype(np.uint16), valid)


def _shares(values: Values, valid: BoolArray, ends: tuple[float, float]) -> NDArray[np.float64]:
    """Return the position of values between two ends: 0 at the first, 1 at the second; 0 where unknown."""
    low, high = ends
    known = valid if values.ndim == 2 else valid[..., None]
    return (np.where(known, values, low).astype(np.float64) - low) / (high - low)
