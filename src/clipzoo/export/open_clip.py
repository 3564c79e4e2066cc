"""Export to a folder that ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor

from clipzoo.export.base import Source, compared, refused
from clipzoo.types import ImageArray

LIBRARY = "open_clip"
LIMIT = 1e-5

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
    return USAGE


def compare(source: Source, folder: Path) -> dict[str, object]:
    """Compare OpenCLIP's model of the folder with the student."""
    student = source.student
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    except RuntimeError as error:
        if "size mismatch for visual.trunk" not in str(error):
            raise
        height, width = student.image_size
        raise refused(
            LIBRARY,
            f"its images have {height}×{width} pixels, and OpenCLIP makes this tower of timm for its own size only",
            "Use the trained folder with clipzoo.load, or train without student.size",
        ) from error
    of_transformers = student.trust_remote_code and hasattr(student.tokenizer, "save_pretrained")
    options = {"trust_remote_code": True} if of_transformers else {}
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **options)
    model = model.eval()

    def transform(images: Sequence[ImageArray]) -> Tensor:
        return torch.stack([preprocess(Image.fromarray(image)) for image in images])

    return compared(source, transform, model.encode_image, tokenizer, model.encode_text, ("open_clip_torch",))
