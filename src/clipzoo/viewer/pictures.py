"""Pictures of the viewer, made on demand: JPEG files of images and of labels over them, in a bounded cache."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypedDict

from PIL import Image

from clipzoo import tasks
from clipzoo.readers.decode import read_image
from clipzoo.tasks.base import Task
from clipzoo.types import Failure, ImageArray
from clipzoo.viewer.scan import Entries
from clipzoo.viewer.table import Table

SIDES = 224, 800
"""Longer sides of pictures, in pixels: in the list, and in the detail view."""

MEMORY = 64 * 2**20
"""Bytes of pictures that are kept."""


class LegendEntry(TypedDict):
    """An entry of a legend; ``color`` is ``#rrggbb``."""

    text: str
    color: str


class Cache:
    """The most recently used byte strings, up to ``most`` bytes in all."""

    def __init__(self, most: int = MEMORY) -> None:
        self.most, self.bytes = most, 0
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...], make: Callable[[], bytes]) -> bytes:
        """Return what is kept for a key, or make it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = data
                self.bytes += len(data)
            while self.bytes > self.most:
                self.bytes -= len(self._kept.popitem(last=False)[1])
        return data


class Pictures:
    """Images and labels of the rows of a table."""

    def __init__(self, table: Table, entries: Entries) -> None:
        self.table, self.entries, self.cache = table, entries, Cache()

    def image(self, row: int, side: int) -> bytes:
        """Return a sample's image.

        Raises:
            ClipzooError: it cannot be read.
        """
        return self.cache.get((row, side), lambda: _jpeg(self._pixels(row), side))

    def label(self, column: int, row: int, side: int, plain: bool) -> bytes:
        """Return a label over its image, or the ``plain`` label.

        Raises:
            ClipzooError: the label or the image cannot be read.
        """
        return self.cache.get((row, side, column, plain), lambda: self._label(column, row, side, plain))

    def legend(self, column: int, row: int) -> list[LegendEntry]:
        """Return the legend of a label.

        Raises:
            ClipzooError: the label cannot be read.
        """
        opened = self.table.columns[column]
        task: Task[object] = tasks.get(opened.task)
        marks = task.legend(self.table.label(column, row), opened.convention)
        return [{"text": mark.text, "color": "#{:02x}{:02x}{:02x}".format(*mark.color)} for mark in marks]

    def _label(self, column: int, row: int, side: int, plain: bool) -> bytes:
        from clipzoo.pages.pictures import overlay  # its room imports PyTorch

        opened = self.table.columns[column]
        task: Task[object] = tasks.get(opened.task)
        rendered = task.render(self.table.label(column, row), opened.convention)
        image = self._pixels(row)
        if plain:
            small = Image.fromarray(image)
            small.thumbnail((side, side))
            return _encoded(Image.fromarray(rendered).resize(small.size, Image.Resampling.NEAREST))
        return _jpeg(overlay(image, rendered, side=side, clear=opened.task == "detection"), side)

    def _pixels(self, row: int) -> ImageArray:
        entry = self.entries.of(row)
        found = read_image(self.entries.reader, entry)
        if isinstance(found, Failure):
            raise found.error()
        return found[1]


def _jpeg(image: ImageArray, side: int) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encoded(picture)


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
