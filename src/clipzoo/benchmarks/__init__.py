"""Benchmark layouts, one file each. Benchmarks of every layout are streamed as a `Split`.

A file exports ``LAYOUT``, a `Layout`. Recipes name it in ``evaluation.layout``.
"""

from __future__ import annotations

from typing import Protocol

from clipzoo import files
from clipzoo.benchmarks._columns import column_labels, truth_columns
from clipzoo.benchmarks._meaning import check_meaning
from clipzoo.benchmarks._split import BATCH, Crop, Lazy, Split, Truth, read_split, split_of, view_of
from clipzoo.benchmarks.base import Benchmark, Labels, Layout, Loader
from clipzoo.files import AnyPath, Place
from clipzoo.plugins import Registry

__all__ = [
    "BATCH", "PLUGINS", "Benchmark", "Crop", "Labels", "Layout", "LayoutPlugin", "Lazy", "Loader", "Split", "Truth",
    "check_meaning", "column_labels", "open_benchmark", "read_split", "split_of", "truth_columns", "view_of",
]  # fmt: skip


class LayoutPlugin(Protocol):
    """A module of this folder."""

    LAYOUT: Layout


PLUGINS: Registry[LayoutPlugin] = Registry("benchmarks", ("LAYOUT",))


def open_benchmark(folder: AnyPath | Place, layout: str = "webdataset") -> Benchmark:
    """Open the benchmark in a folder.

    Raises:
        PluginError: there is no such layout. `Layout.open` raises other errors.
    """
    return PLUGINS.load(layout).LAYOUT.open(files.place(folder))
