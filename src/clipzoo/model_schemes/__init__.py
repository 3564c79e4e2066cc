"""Schemes of student models beyond OpenCLIP's, such as ``demo:clip``; one file per scheme.

``student.model`` of a recipe may begin with the name of a file here, or of an entry point in the group
``clipzoo.model_schemes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clipzoo.plugins import Registry

__all__ = ["PLUGINS", "SOURCE", "ModelScheme", "learning_rates", "resolve"]

SOURCE = "converted_from"
"""File of a folder that a scheme made, with the name of the model for messages."""


class ModelScheme(Protocol):
    """A module of this folder; its name is the scheme of its models.

    ``LEARNING_RATES``, if a module has it, are those that ``clipzoo new`` proposes for its models.
    """

    def resolve(self, model: str) -> str:
        """Return the model as OpenCLIP names it, such as ``local-dir:PATH``; `CheckpointError` if there is none."""


PLUGINS: Registry[ModelScheme] = Registry("model_schemes", ("resolve",), noun="scheme of models")


def _plugin(model: str) -> ModelScheme | None:
    scheme, colon, _ = model.partition(":")
    return PLUGINS.load(scheme) if colon and scheme in PLUGINS.names() else None


def resolve(model: str) -> str:
    """Return a model as OpenCLIP names it; models without a scheme of this folder are returned as they are.

    Raises:
        CheckpointError: the scheme has no such model.
    """
    plugin = _plugin(model)
    return plugin.resolve(model) if plugin else model


def learning_rates(model: str) -> Sequence[float]:
    """Return the learning rates that ``clipzoo new`` proposes for a model; empty if its scheme proposes none."""
    return getattr(_plugin(model), "LEARNING_RATES", ())
