"""Model zoos; one file a zoo, named by the scheme of its URIs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from types import ModuleType

from clipzoo import plugins
from clipzoo.errors import ExpertError, PluginError
from clipzoo.experts.base import Expert, ExpertCard, ExpertInput, Family

FOLDERS = ("experts", "importers", "derived")
"""Where schemes of URIs are registered: model zoos, existing labels, labels made of other columns."""

__all__ = ["Expert", "ExpertCard", "ExpertInput", "Family", "create", "module_of", "schemes"]


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
    expert: Expert = module_of(scheme).create(rest)
    expert.card = replace(expert.card, uri=_canonical(expert.card.uri))
    return expert


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
    return tuple(sorted(name for folder in FOLDERS for name in plugins.names(folder)))


def module_of(scheme: str) -> ModuleType:
    """Return the module that creates the experts of a scheme.

    Raises:
        PluginError: no module is registered for the scheme.
    """
    folder = next((folder for folder in FOLDERS if scheme in plugins.names(folder)), None)
    if folder is None:
        raise PluginError(f"no expert scheme is named {scheme!r}; {plugins.hint(scheme, schemes())}")
    return plugins.load(folder, scheme)
