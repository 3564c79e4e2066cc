"""Benchmark layouts, one file each. Benchmarks of every layout are streamed as a `Split`.

A file exports ``LAYOUT``, a `Layout`. Recipes name it in a location (``voc:PATH?split=val``) or for all locations in
``evaluation.layout``.
"""

from __future__ import annotations

import os
from typing import Protocol
from urllib.parse import parse_qsl

from clipzoo import files
from clipzoo.benchmarks._streaming.columns import column_labels, truth_columns
from clipzoo.benchmarks._streaming.meaning import check_meaning
from clipzoo.benchmarks._streaming.split import BATCH, Crop, Lazy, Split, Truth, read_split, seen, split_of, view_of
from clipzoo.benchmarks.base import Benchmark, Labels, Layout, Loader
from clipzoo.errors import ClipzooError, DatasetError
from clipzoo.files import AnyPath, Place
from clipzoo.plugins import Registry

__all__ = [
    "BATCH", "PLUGINS", "Benchmark", "Crop", "Labels", "Layout", "LayoutPlugin", "Lazy", "Loader", "Split", "Truth",
    "check_meaning", "column_labels", "layout_of", "open_benchmark", "read_split", "seen", "split_of",
    "truth_columns", "view_of", "with_layout",
]  # fmt: skip


class LayoutPlugin(Protocol):
    """A module of this folder."""

    LAYOUT: Layout


PLUGINS: Registry[LayoutPlugin] = Registry(
    "benchmarks", ("LAYOUT",), noun="benchmark layout", option="evaluation.layout"
)


DEFAULT = "webdataset"
"""The layout of a location that names none."""


def layout_of(location: str) -> str | None:
    """Return the layout that a location such as ``voc:PATH?split=val`` names; None if it names none."""
    scheme, colon, _ = location.partition(":")
    return scheme if colon and scheme in PLUGINS.names() else None


def with_layout(location: str, layout: str) -> str:
    """Return a location that names its layout, ``layout`` if it names none; that of `open_benchmark` is not added."""
    return location if layout == DEFAULT or layout_of(location) else f"{layout}:{location}"


def open_benchmark(location: AnyPath | Place, layout: str = DEFAULT) -> Benchmark:
    """Open a benchmark.

    Args:
        location: a folder, or ``<layout>:<path>?<option>=<value>&…``.
        layout: of a folder whose location names none.

    Raises:
        PluginError: there is no such layout.
        DatasetError: the options cannot be read. `Layout.open` raises other errors.
    """
    text = os.fspath(location) if isinstance(location, str | os.PathLike) else ""
    named = layout_of(text)
    if named is None:
        try:
            return PLUGINS.load(layout).LAYOUT.open(files.place(location), {})
        except DatasetError as error:
            if known := _layouts(files.place(location), layout):
                raise DatasetError(
                    f"{error}. The folder has the layout {known[0]}: write {known[0]}:{location}"
                ) from error
            raise
    path, _, query = text.partition(":")[2].partition("?")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise DatasetError(f"{text}: {query!r} is not of the form name=value&name=value ({error})") from error
    return PLUGINS.load(named).LAYOUT.open(files.place(path), options)


LAST = "imagefolder"
"""The layout that nearly any folder of folders has."""


def _layouts(folder: Place, other: str) -> list[str]:
    """Return the layouts other than one that a folder has without options, the least specific one last."""
    found = []
    for name in sorted(PLUGINS.names(), key=lambda name: name == LAST):
        try:
            if name != other and PLUGINS.load(name).LAYOUT.open(folder, {}).shards:
                found.append(name)
        except (ClipzooError, OSError):
            continue
    return found
