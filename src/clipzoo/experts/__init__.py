"""Model zoos; one file per zoo, named by the scheme of its URIs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

from clipzoo import plugins
from clipzoo.errors import ExpertError, PluginError
from clipzoo.experts.base import Expert, ExpertCard, ExpertInput, Family, SampleExpert
from clipzoo.plugins import Registry

__all__ = [
    "REGISTRIES",
    "Expert",
    "ExpertCard",
    "ExpertInput",
    "ExpertPlugin",
    "Family",
    "SampleExpert",
    "create",
    "families_of",
    "module_of",
    "runs_code",
    "schemes",
    "with_canonical_uri",
]

E = TypeVar("E", bound=Expert)


class ExpertPlugin(Protocol):
    """A module of ``experts/``, ``importers/`` or ``derived/``; its name is the scheme of its URIs.

    A module may also have ``FAMILIES``, a tuple of `Family` that describes the labels of its models, and ``runs_code``,
    a function of the part of a URI after the scheme that returns true if the expert runs Python code named there.
    """

    create: Callable[[str], Expert]
    """Create the expert of the part of a URI after the scheme; weights are not loaded."""


REGISTRIES: tuple[Registry[ExpertPlugin], ...] = tuple(
    Registry(folder, ("create",)) for folder in ("experts", "importers", "derived")
)
"""The plugins of all schemes: model zoos, existing labels, labels computed from other columns."""


def create(uri: str) -> Expert:
    """Return the expert of a URI, not loaded. The URI in its card is in canonical form.

    Raises:
        ExpertError: not a URI, or the expert does not exist.
        PluginError: no plugin has the scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest:
        advice = f"; did you mean onnx:{uri}?" if uri.partition("?")[0].endswith(".onnx") else ""
        raise ExpertError(
            f"{uri!r} is not the URI of an expert. Write <scheme>:<model> with one of the schemes "
            f"{', '.join(schemes())}{advice}"
        )
    return with_canonical_uri(module_of(scheme).create(rest))


def with_canonical_uri(expert: E) -> E:
    """Write the URI in an expert's card in canonical form, and return the expert.

    The path has no leading ``./`` and no trailing slash, and the options are sorted by name.
    """
    expert.card = replace(expert.card, uri=_canonical(expert.card.uri))
    return expert


def runs_code(uri: str) -> bool:
    """Return true if the expert of this URI runs Python code that the URI names.

    The function ``runs_code`` of the scheme's module decides; a module without it runs only its own code.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in schemes():
        return False
    decide = getattr(module_of(scheme), "runs_code", None)
    return decide is not None and bool(decide(rest))


def families_of(scheme: str) -> tuple[Family, ...]:
    """Return the families of the models of a zoo.

    Built-in zoos have them in ``experts/families``, or else in their own module, which is slow to import.

    Raises:
        PluginError: as of `module_of`.
    """
    registry = next((registry for registry in REGISTRIES if scheme in registry.names()), None)
    if registry is None or scheme in registry.installed():
        return tuple(getattr(module_of(scheme), "FAMILIES", ()))
    light = f"{__name__}.families.{scheme}"
    if registry.folder == "experts" and find_spec(light):
        return tuple(import_module(light).FAMILIES)
    return tuple(getattr(module_of(scheme), "FAMILIES", ())) if registry.mentions(scheme, "FAMILIES") else ()


def _canonical(uri: str) -> str:
    zoo, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    scheme, mark, inner = path.rpartition("://")
    options = sorted(query.split("&"), key=lambda option: option.partition("=")[0])
    suffix = "?" + "&".join(options) if query else ""
    return f"{zoo}:{scheme}{mark}{PurePosixPath(inner)}{suffix}"


def schemes() -> tuple[str, ...]:
    """Return all schemes of expert URIs, sorted."""
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
