"""Model zoos; one file a zoo, named by the scheme of its URIs."""

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

    ``FAMILIES``, where a module has it, is a tuple of `Family`: what the labels of its models are. ``runs_code``, where
    it has it, tells of a URI's part behind the scheme whether the expert runs Python code that this names.
    """

    create: Callable[[str], Expert]
    """What follows the scheme -> the expert, not loaded."""


REGISTRIES: tuple[Registry[ExpertPlugin], ...] = tuple(
    Registry(folder, ("create",)) for folder in ("experts", "importers", "derived")
)
"""Where schemes are found: model zoos, existing labels, labels made of other columns."""

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
    """The expert of this URI, not yet loaded; however the URI is written, its card has it in one form.

    Raises:
        ExpertError: not a URI, or the expert does not exist.
        PluginError: no file bears the scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest:
        meant = f"; did you mean onnx:{uri}?" if uri.partition("?")[0].endswith(".onnx") else ""
        raise ExpertError(
            f"{uri!r} names no expert: a URI is <zoo>:<model>, with a zoo out of {', '.join(schemes())}{meant}"
        )
    expert = module_of(scheme).create(rest)
    expert.card = replace(expert.card, uri=_canonical(expert.card.uri))
    return expert


def runs_code(uri: str) -> bool:
    """Whether the expert of this URI runs Python code that the URI names; its zoo's ``runs_code`` tells.

    A zoo without that function runs its own code alone.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in schemes():
        return False
    tells = getattr(module_of(scheme), "runs_code", None)
    return tells is not None and bool(tells(rest))


def _canonical(uri: str) -> str:
    """A URI without ``./`` before its path and a slash behind it, its options in the order of their names."""
    zoo, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    scheme, mark, inner = path.rpartition("://")
    options = sorted(query.split("&"), key=lambda one: one.partition("=")[0])
    behind = "?" + "&".join(options) if query else ""
    return f"{zoo}:{scheme}{mark}{PurePosixPath(inner)}{behind}"


def schemes() -> tuple[str, ...]:
    """Every scheme that a URI may begin with, sorted."""
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
