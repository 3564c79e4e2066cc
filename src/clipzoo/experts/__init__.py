"""Model zoos, one file each, named by the scheme of its URIs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Protocol

from clipzoo import plugins
from clipzoo.errors import ExpertError, PluginError
from clipzoo.experts.base import Expert, ExpertCard, ExpertInput, Family
from clipzoo.plugins import Registry


class ExpertPlugin(Protocol):
    """A module of ``experts/``, ``importers/`` or ``derived/``; its name is the scheme of its URIs.

    A module may also have ``FAMILIES``, a tuple of `Family` that describes the labels of its models, and
    ``runs_code(name) -> bool``, true if the expert of a URI (without its scheme) runs Python code that the URI names.
    """

    create: Callable[[str], Expert]
    """Function from the URI without its scheme to the expert, not loaded."""


REGISTRIES: tuple[Registry[ExpertPlugin], ...] = tuple(
    Registry(folder, ("create",)) for folder in ("experts", "importers", "derived")
)
"""Registries of schemes: model zoos, formats of existing labels, labels made of other columns."""

__all__ = [
    "REGISTRIES",
    "Expert",
    "ExpertCard",
    "ExpertInput",
    "ExpertPlugin",
    "Family",
    "create",
    "module_of",
    "runs_code",
    "schemes",
]


def create(uri: str) -> Expert:
    """Return the expert of a URI, not loaded; its card has the URI in canonical form.

    Raises:
        ExpertError: the text is not a URI, or the expert does not exist.
        PluginError: no module is registered for the scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest:
        hint = f"; did you mean onnx:{uri}?" if uri.partition("?")[0].endswith(".onnx") else ""
        raise ExpertError(f"{uri!r} names no expert: write <zoo>:<model>. Zoos are {', '.join(schemes())}{hint}")
    expert = module_of(scheme).create(rest)
    expert.card = replace(expert.card, uri=_canonical(expert.card.uri))
    return expert


def runs_code(uri: str) -> bool:
    """Return true if the expert of a URI runs Python code that the URI names, according to its zoo's ``runs_code``.

    A zoo without this function runs no third-party code.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in schemes():
        return False
    function = getattr(module_of(scheme), "runs_code", None)
    return function is not None and bool(function(rest))


def _canonical(uri: str) -> str:
    """Return a URI without ``./`` before its path or a slash after it, with its options sorted by name."""
    zoo, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    scheme, separator, path = path.rpartition("://")
    options = sorted(query.split("&"), key=lambda option: option.partition("=")[0])
    suffix = "?" + "&".join(options) if query else ""
    return f"{zoo}:{scheme}{separator}{PurePosixPath(path)}{suffix}"


def schemes() -> tuple[str, ...]:
    """Return all schemes of URIs, sorted."""
    return tuple(sorted(name for registry in REGISTRIES for name in registry.names()))


def module_of(scheme: str) -> ExpertPlugin:
    """Return the module that creates the experts of a scheme.

    Raises:
        PluginError: no module is registered for the scheme.
    """
    registry = next((registry for registry in REGISTRIES if scheme in registry.names()), None)
    if registry is None:
        raise PluginError(f"no expert scheme is named {scheme!r}; {plugins.hint(scheme, schemes())}")
    return registry.load(scheme)
