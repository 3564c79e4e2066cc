"""Model zoos; one file a zoo, named by the scheme of its URIs."""

from __future__ import annotations

from clipzoo import plugins
from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard, ExpertInput, Family

__all__ = ["Expert", "ExpertCard", "ExpertInput", "Family", "create"]


def create(uri: str) -> Expert:
    """The expert of this URI, not yet loaded.

    Raises:
        ExpertError: not a URI, or the expert does not exist.
        PluginError: no file bears the scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest:
        raise ExpertError(
            f"{uri!r} names no expert: a URI is <zoo>:<model>, with a zoo out of {', '.join(plugins.names('experts'))}"
        )
    expert: Expert = plugins.load("experts", scheme).create(rest)
    return expert
