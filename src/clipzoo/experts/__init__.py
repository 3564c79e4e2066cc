"""Model zoos; one file a zoo, named by the scheme of its URIs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from clipzoo import plugins
from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard, ExpertInput, Family

__all__ = ["Expert", "ExpertCard", "ExpertInput", "Family", "create", "runs_code"]


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
            f"{uri!r} names no expert: a URI is <zoo>:<model>, with a zoo out of {', '.join(plugins.names('experts'))}"
            f"{meant}"
        )
    expert: Expert = plugins.load("experts", scheme).create(rest)
    expert.card = replace(expert.card, uri=_canonical(expert.card.uri))
    return expert


def runs_code(uri: str) -> bool:
    """Whether the expert of this URI runs Python code that the URI names; its zoo's ``runs_code`` tells.

    A zoo without that function runs its own code alone.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in plugins.names("experts"):
        return False
    tells = getattr(plugins.load("experts", scheme), "runs_code", None)
    return tells is not None and bool(tells(rest))


def _canonical(uri: str) -> str:
    """A URI without ``./`` before its path and a slash behind it, its options in the order of their names."""
    zoo, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    scheme, mark, inner = path.rpartition("://")
    options = sorted(query.split("&"), key=lambda one: one.partition("=")[0])
    behind = "?" + "&".join(options) if query else ""
    return f"{zoo}:{scheme}{mark}{PurePosixPath(inner)}{behind}"
