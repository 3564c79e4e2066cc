"""Labels as PNG files with metadata: the text chunk ``clipzoo`` contains the task and further facts as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from clipzoo.errors import LabelError
from clipzoo.tasks.base import require
from clipzoo.types import MAX_PIXELS

Codes = NDArray[np.uint8] | NDArray[np.uint16]

KEY = "clipzoo"
_DTYPES = {"L": np.uint8, "RGB": np.uint8, "I;16": np.uint16, "I": np.uint16}  # older Pillow: 16 bits are I


def write(codes: Codes, task: str, facts: Mapping[str, Any], level: int) -> bytes:
    """Encode ``codes`` (uint8 [H,W], uint8 [H,W,3] or uint16 [H,W]) as PNG at compression ``level``."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(KEY, json.dumps({"task": task, **facts}, allow_nan=False))
    buffer = io.BytesIO()
    Image.fromarray(codes).save(buffer, "PNG", pnginfo=chunk, compress_level=level)
    return buffer.getvalue()


def read(data: bytes, task: str, modes: tuple[str, ...]) -> tuple[Codes, dict[str, Any]]:
    """Decode the codes and facts of a file that `write` made for ``task``.

    Raises:
        LabelError: the file is damaged, from another program or task, or has none of the Pillow ``modes``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS}")
            mode, mark, codes = image.mode, image.info.get(KEY), np.array(image)
    except Exception as error:  # Pillow raises almost anything on damaged input
        head = f"{len(data)} bytes, beginning {data[:8]!r}"
        raise LabelError(f"cannot read the {task} label ({head}): {type(error).__name__}: {error}") from error
    require(
        mark is not None,
        f"the PNG of mode {mode} is not a {task} label of a store: it has no text chunk {KEY!r}; if it is a "
        "color-coded or raw label, import it (clipzoo labels import), or encode it with the task's encode()",
    )
    facts = _facts(str(mark))
    require(
        facts.get("task") == task,
        f"the PNG is a label of {facts.get('task')!r}, not of {task}; decode it with that task",
    )
    require(
        mode in modes,
        f"the PNG has mode {mode}, but {task} labels have mode {' or '.join(modes)}: another program has saved it with "
        "changed pixels; label the image again",
    )
    return codes.astype(_DTYPES[mode], copy=False), facts


def _facts(mark: str) -> dict[str, Any]:
    try:
        facts = json.loads(mark)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise LabelError(
            f"the text chunk {KEY!r} contains {mark[:40]!r}, which is not a JSON object; label the image again"
        )
    return facts
