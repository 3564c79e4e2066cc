"""Export to a folder that ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` loads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import open_clip
import torch
from open_clip.timm_model import TimmModel
from PIL import Image
from torch import Tensor

from clipzoo import files
from clipzoo.errors import CheckpointError
from clipzoo.export.base import Source, compared, refused
from clipzoo.models import Student
from clipzoo.types import ImageArray

LIBRARY = "open_clip"
LIMIT = 1e-5
OTHER_SIZE = re.compile(r"size mismatch for visual\.trunk|^Input .*match")
"""Errors of a tower of another size, by loading its weights or, with as many patches, by its input (timm 1.0.31)."""

USAGE = """```python
import open_clip

{folder}
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
tokenizer = open_clip.get_tokenizer("local-dir:" + folder)
```"""


def check(source: Source) -> None:
    """Accept every student: it is an OpenCLIP model."""


def write(source: Source, folder: Path) -> str:
    """Write weights, configuration and tokenizer, and the heads for ``clipzoo.load(folder).predict``."""
    source.student.save(folder, heads=source.heads)
    if source.hub and not source.inner and (folder / "tokenizer_config.json").is_file():
        _name_tokenizer(folder / "open_clip_config.json", source.place)
    return USAGE


def _name_tokenizer(path: Path, repository: str) -> None:
    """Name a repository as the place of its tokenizer, which OpenCLIP takes from this field for ``hf-hub:``."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = repository
    files.write(path, json.dumps(config, indent=2).encode())


def compare(source: Source, folder: Path) -> dict[str, object]:
    """Compare OpenCLIP's model of the folder with the student."""
    try:
        parity = _compared(source, folder)
    except (AssertionError, RuntimeError) as error:
        if not (_is_resized(source.student) and OTHER_SIZE.search(str(error))):
            raise
        raise _of_other_size(source.student) from error
    if cast(float, parity["image_embeddings"]) > LIMIT and _is_resized(source.student):
        raise _of_other_size(source.student)  # as many patches in another grid: the positions are interpolated
    return parity


def _is_resized(student: Student) -> bool:
    """Return True for a tower of timm whose images have another size than its name."""
    return isinstance(student.clip.visual, TimmModel) and _own_size(student) != student.image_size


def _own_size(student: Student) -> tuple[int, int]:
    _, height, width = student.clip.visual.trunk.pretrained_cfg["input_size"]
    return height, width


def _of_other_size(student: Student) -> CheckpointError:
    (height, width), own = student.image_size, "{}×{}".format(*_own_size(student))
    return refused(
        LIBRARY,
        f"its images have {height}×{width} pixels, and OpenCLIP makes this tower of timm for {own} pixels only",
        f"Use the trained folder with clipzoo.load, or train a student of {own} pixels. If the recipe has "
        "student.size, remove it",
    )


def _compared(source: Source, folder: Path) -> dict[str, object]:
    student = source.student
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    of_transformers = student.trust_remote_code and hasattr(student.tokenizer, "save_pretrained")
    options = {"trust_remote_code": True} if of_transformers else {}
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **options)
    model = model.eval()

    def transform(images: Sequence[ImageArray]) -> Tensor:
        return torch.stack([preprocess(Image.fromarray(image)) for image in images])

    return compared(source, transform, model.encode_image, tokenizer, model.encode_text, ("open_clip_torch",))
