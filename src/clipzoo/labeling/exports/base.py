"""The contract of export formats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from clipzoo.files import Place
from clipzoo.store import Column


@dataclass(frozen=True, slots=True)
class Labeled:
    """An image and its label.

    Attributes:
        key: of the sample.
        name: of the image file: key and extension.
        size: (H, W) of the image with its EXIF orientation applied.
        label: of the column's task, of this size.
    """

    key: str
    name: str
    size: tuple[int, int]
    label: Any


class Write(Protocol):
    """Write the labels of a column to ``out`` atomically, without holding all of them in memory."""

    def __call__(self, labels: Iterable[Labeled], column: Column, out: Place) -> None:
        """Iterate once over ``labels``, which are in the dataset's order."""


class LabelFormatPlugin(Protocol):
    """A module of this folder."""

    TASKS: tuple[str, ...]
    """The tasks that the format supports."""

    write: Write
