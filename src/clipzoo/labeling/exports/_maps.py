"""Maps as PNG files that other tools read, and the options of `clipzoo labels import` that read them back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import PurePath
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzoo.store import Column
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray

TASKS = ("segmentation", "depth", "normals", "edges")

VOID = 255
"""Code of unknown pixels in files of 8 bits; files of 16 bits have 65535."""

FRAME = "x-right,y-up,z-toward"
"""The directions of the channels of normals."""

MILLIMETERS, FARTHEST = 1000.0, 65535
"""Codes per meter, and the largest code."""


def encode(label: object, convention: Convention) -> tuple[bytes, str]:
    """Return a map as a PNG file, and the change that its depth required; "" if there is none."""
    if isinstance(label, Segmentation):
        return _png(*_classes(label, len(convention.classes))), ""
    if isinstance(label, Normals):
        codes = 127 + np.rint(127 * np.moveaxis(label.vectors, 0, -1))
        return _png((codes * label.valid[..., None]).astype(np.uint8)), ""
    if isinstance(label, Edges):
        return _png(np.where(label.valid, 1 + np.rint(254 * label.values), 0).astype(np.uint8)), ""
    return _depth(cast(Depth, label))


def options(column: Column) -> Mapping[str, str]:
    """Return the options of `clipzoo labels import` for the files of a column, without classes."""
    task, convention = column.task, column.convention
    if task == "segmentation":
        return {"task": task, "void": str(VOID if _small(len(convention.classes)) else FARTHEST)}
    if task == "normals":
        return {"task": task, "frame": FRAME, "range": "0,254", "invalid": "0"}
    if task == "edges":
        return {"task": task, "range": "1,255", "invalid": "0"}
    kind, along = convention.kind or "", convention.along or "none"
    return {
        "task": task, "kind": kind, "along": along, "scale": "0.001" if kind == "metric" else "1", "invalid": "0",
    }  # fmt: skip


def meaning(column: Column, classes: str) -> str:
    """Return the convention of the files of a column, for its README; ``classes`` is its list of classes."""
    convention = column.convention
    if column.task == "segmentation":
        form = "8-bit palette PNG (the palette of PASCAL VOC)" if _small(len(convention.classes)) else "16-bit gray PNG"
        void, names = options(column)["void"], PurePath(classes).name
        return f"{form}. The value is the number of the class in {names}, counted from 0; {void} is unknown."
    if column.task == "normals":
        return (
            f"8-bit RGB PNG of unit vectors in the frame {FRAME} (toward the viewer): n = value / 127 - 1 per channel. "
            "(0, 0, 0) is unknown. The angular error is at most 0.4° each time a file is written."
        )
    if column.task == "edges":
        return "8-bit gray PNG: probability = (value - 1) / 254; 0 is unknown. Soft edges keep their probabilities."
    if convention.kind == "metric":
        along = "along the optical axis" if convention.along == "z" else "along the line of sight"
        return (
            f"16-bit gray PNG in millimeters {along}; 0 is unknown. Depth is rounded to 1 mm. Depth beyond 65.535 m "
            "cannot be written and is unknown; the images with such pixels are listed in failures.tsv."
        )
    return (
        f"16-bit gray PNG of {convention.kind}: 1 is the smallest and 65535 the largest value of the image, 0 is "
        "unknown. Scale and shift are unknown for such depth, so the stretch keeps its meaning, but not its numbers."
    )


def _small(count: int) -> bool:
    """Return True if the ids of ``count`` classes and void fit in 8 bits."""
    return count <= VOID


def _classes(label: Segmentation, count: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint8] | None]:
    if _small(count):
        return np.where(label.valid, label.ids, VOID).astype(np.uint8), palette()
    return np.where(label.valid, label.ids, FARTHEST).astype(np.uint16), None


def _depth(label: Depth) -> tuple[bytes, str]:
    values, known = label.values.astype(np.float64), label.valid
    if label.kind != "metric":
        return _png(_stretched(values, known)), ""
    codes = np.maximum(np.rint(values * MILLIMETERS), 1)
    far = known & (codes > FARTHEST)
    change = f"{np.count_nonzero(far)} pixels beyond 65.535 m are unknown" if far.any() else ""
    return _png(np.where(known & ~far, codes, 0).astype(np.uint16)), change


def _stretched(values: NDArray[np.float64], known: BoolArray) -> NDArray[np.uint16]:
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    shares = (values - low) / ((high - low) or 1.0)
    return np.where(known, 1 + np.rint((FARTHEST - 1) * shares), 0).astype(np.uint16)


def palette() -> NDArray[np.uint8]:
    """Return the colors of PASCAL VOC's development kit, uint8 [256,3]: bits of the id, spread over the channels."""
    ids, colors = np.arange(256), np.zeros((256, 3), np.int64)
    for shift in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * shift + channel)) & 1) << (7 - shift)
    return colors.astype(np.uint8)


def _png(codes: NDArray[np.unsignedinteger], colors: NDArray[np.uint8] | None = None) -> bytes:
    image, buffer = Image.fromarray(codes), io.BytesIO()
    if colors is not None:
        image.putpalette(colors.tobytes())
    image.save(buffer, "PNG")
    return buffer.getvalue()
