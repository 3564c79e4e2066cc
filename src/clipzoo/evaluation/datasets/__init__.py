"""Benchmark layouts; one file a layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from clipzoo.evaluation.datasets.base import Benchmark
from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "Benchmark", "LayoutPlugin"]


class LayoutPlugin(Protocol):
    """A module of this folder."""

    read: Callable[[str], Benchmark]


PLUGINS: Registry[LayoutPlugin] = Registry("evaluation.datasets", ("read",))
