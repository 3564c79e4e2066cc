"""Encoders that clipzoo did not train, one library per file; `clipzoo eval --model` measures them.

A file exports ``create(name, options)``, which returns an `Encoder` for a URI ``<file>:<name>?<option>=<value>``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

from clipzoo import files
from clipzoo.encoders.base import TextlessEncoder
from clipzoo.errors import CheckpointError
from clipzoo.evaluation.base import Encoder
from clipzoo.plugins import Registry, hint

__all__ = ["PLUGINS", "Encoder", "EncoderPlugin", "TextlessEncoder", "check", "create"]


class EncoderPlugin(Protocol):
    """A module of this folder."""

    def create(self, name: str, options: Mapping[str, str]) -> Encoder:
        """Return the encoder of a name; raise `CheckpointError` if there is none or an option is unknown."""


PLUGINS: Registry[EncoderPlugin] = Registry("encoders", ("create",), noun="library of models", option="--model")


def check(uri: str) -> None:
    """Raise `CheckpointError` if a URI names no library, or a model that this library does not have; nothing is loaded.

    A module of this folder may have ``check``, a function of name and options that raises it; others accept all names.
    """
    scheme, name, options = _parse(uri)
    checked: Callable[[str, Mapping[str, str]], None] | None = getattr(PLUGINS.load(scheme), "check", None)
    if checked:
        checked(name, options)


def create(uri: str) -> Encoder:
    """Return the encoder of a URI such as ``timm:vit_base_patch14_dinov2.lvd142m?size=518``.

    Raises:
        CheckpointError: the URI names no library, or the library cannot load the model.
    """
    scheme, name, options = _parse(uri)
    return PLUGINS.load(scheme).create(name, options)


def _parse(uri: str) -> tuple[str, str, dict[str, str]]:
    """Return library, name and options of a URI."""
    scheme, colon, rest = uri.partition(":")
    if not colon and Path(uri).expanduser().is_dir():
        raise CheckpointError(f"{uri!r} is a folder, and a model is <library>:<name>. Write open_clip:{uri}")
    if not colon and "/" in uri:
        raise CheckpointError(
            f"{files.missing(Path(uri))}, and it is no <library>:<name>. Write open_clip:FOLDER for the folder of a "
            "student, or a name such as open_clip:ViT-B-16/openai"
        )
    if not colon or scheme not in PLUGINS.names():
        raise CheckpointError(
            f"{uri!r} is not a model: write <library>:<name>, such as open_clip:ViT-B-16/openai; "
            f"{hint(scheme, PLUGINS.names())}"
        )
    name, _, query = rest.partition("?")
    try:
        options = dict(parse_qsl(query, strict_parsing=bool(query)))
    except ValueError as error:
        raise CheckpointError(f"{uri}: {query!r} is not of the form name=value&name=value ({error})") from error
    return scheme, name, options
