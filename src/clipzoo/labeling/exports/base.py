"""What every format of export is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from clipzoo.files import Place
from clipzoo.store import Column


@dataclass(frozen=True, slots=True)
class Labeled:
    """A picture and its label.

    Attributes:
        key: the sample's.
        name: of the picture's file: its key and ending.
        size: (H, W) of the picture as it is displayed.
        label: of the column's task, in a frame of this size.
    """

    key: str
    name: str
    size: tuple[int, int]
    label: Any


class Write(Protocol):
    """Write the labels of a column to ``out``, whole or not at all, without holding them all in memory."""

    def __call__(self, labels: Iterable[Labeled], column: Column, out: Place) -> None:
        """``labels`` are iterated over once, in the dataset's order."""


class LabelFormatPlugin(Protocol):
    """A module of this folder."""

    TASKS: tuple[str, ...]
    """The tasks whose labels the format holds."""

    write: Write
