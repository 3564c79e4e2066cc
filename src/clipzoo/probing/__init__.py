"""Trained probes with the settings of published protocols, one preset per file; `clipzoo eval --preset` runs them.

A file exports ``PRESET``, a `Preset`. Its name on the command line has hyphens in place of underscores.
"""

from __future__ import annotations

from typing import Protocol

from clipzoo.errors import PluginError
from clipzoo.plugins import Registry, hint
from clipzoo.probing._engine.testing import score, size_of
from clipzoo.probing._engine.training import ProbeJob, train
from clipzoo.probing.base import Bins, Preset

__all__ = ["PLUGINS", "Bins", "Preset", "PresetPlugin", "ProbeJob", "get", "names", "score", "size_of", "train"]


class PresetPlugin(Protocol):
    """A module of this folder."""

    PRESET: Preset


PLUGINS: Registry[PresetPlugin] = Registry("probing", ("PRESET",), noun="preset", option="--preset")


def names() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(name.replace("_", "-") for name in PLUGINS.names())


def get(name: str) -> Preset:
    """Return the preset of a name; `PluginError` if there is none."""
    if name not in names():
        raise PluginError(f"there is no preset {name!r}; {hint(name, names())}")
    return PLUGINS.load(name.replace("-", "_")).PRESET
