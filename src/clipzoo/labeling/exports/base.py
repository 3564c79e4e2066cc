"""The contract of export formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clipzoo.files import Place
from clipzoo.store import Column
from clipzoo.types import Sample

EMPTY = Sample("", "", b"", "")


@dataclass(frozen=True, slots=True)
class Labeled:
    """An image and its labels.

    Attributes:
        key: of the sample.
        name: of the image file: key and extension.
        size: (H, W) of the image with its EXIF orientation applied.
        label: of the first column that has one, of this size.
        labels: all labels of the image by the names of their columns, of this size.
        sample: the image file and its captions.
        format: of the image file, as an extension: jpg, png, webp.
    """

    key: str
    name: str
    size: tuple[int, int]
    label: Any
    labels: Mapping[str, object] = field(default_factory=dict)
    sample: Sample = EMPTY
    format: str = "jpg"


class Labels(Protocol):
    """Labeled images in the dataset's order, which can be iterated over once, and the list of those left out."""

    columns: Sequence[Column]

    def __iter__(self) -> Iterator[Labeled]:
        """Iterate over the images that have a label in one of the columns."""

    def leave_out(self, one: Labeled, column: Column, reason: str) -> None:
        """Record that a label of an image is not written."""

    def note(self, one: Labeled, column: Column, change: str) -> None:
        """Record that a label of an image is written with a change that the format requires."""


class Write(Protocol):
    """Write labels to ``out`` without holding all of them in memory.

    ``out`` is a file, to be written atomically; for a format with ``FOLDER``, an empty folder on a disk, which appears
    under its name when everything is written.
    """

    def __call__(self, labels: Labels, column: Column, out: Place) -> None:
        """Iterate once over ``labels``; ``column`` is the first of their columns."""


class LabelFormatPlugin(Protocol):
    """A module of this folder.

    It may also have ``FOLDER = True`` (the output is a folder), ``SEVERAL = True`` (it holds several columns), and
    ``readme(columns: Sequence[Column], out: str) -> str``, the text of the README next to the labels.
    """

    TASKS: tuple[str, ...]
    """The tasks that the format supports."""

    write: Write
