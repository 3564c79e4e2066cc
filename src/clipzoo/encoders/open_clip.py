"""OpenCLIP: ``open_clip:ViT-B-16/openai``, ``open_clip:hf-hub:ORG/NAME``, or the folder of a student.

The part after the slash is the pretrained tag; without one, the weights are random. A folder is one that OpenCLIP reads
(``local-dir:``), such as ``RUN/arms/clipzoo/0/student`` or an export.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipzoo.errors import CheckpointError
from clipzoo.evaluation.base import Encoder
from clipzoo.models import Student


def create(name: str, options: Mapping[str, str]) -> Encoder:
    """Return the encoder; see `clipzoo.encoders.create`."""
    if options:
        raise CheckpointError(f"open_clip:{name}: there is no option {next(iter(options))!r}; this library has none")
    if Path(name).expanduser().is_dir():
        return Student.create(f"local-dir:{Path(name).expanduser()}").eval()
    if ":" in name:
        return Student.create(name).eval()
    model, _, tag = name.partition("/")
    return Student.create(model, tag or None, random=not tag).eval()
