"""``demo:clip``: the packaged start, an OpenCLIP folder."""

from __future__ import annotations

from importlib import resources

from clipzoo.errors import CheckpointError

MODEL = "demo:clip"
LEARNING_RATES = (1e-3,)
"""Proposed by ``clipzoo new``: a model so small learns well at a rate that would ruin a pretrained one."""


def resolve(model: str) -> str:
    """Return the packaged start as OpenCLIP's ``local-dir:PATH``; `CheckpointError` for any other model."""
    if model != MODEL:
        raise CheckpointError(f"there is no packaged model {model!r}; use {MODEL}")
    return f"local-dir:{resources.files('clipzoo.demo') / 'clip'}"
