"""Surface normals in files. Datasets do not state the directions of their axes, so a location names them: ``frame``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzoo.errors import DatasetError, SampleError
from clipzoo.experts.frames import parse_frame, unit_normals
from clipzoo.tasks.normals import Normals

LENGTHS = (0.5, 1.5)
"""Lengths of vectors in 8-bit pictures that are normals; gray borders are shorter, black ones longer."""
MARGIN = 0.1
"""Difference of mean cosines with the normals of the depth above which another frame is the right one."""
FRAMES = tuple(
    ",".join(f"{letter}-{word}" for letter, word in zip("xyz", words, strict=True))
    for axes in permutations((("right", "left"), ("up", "down"), ("toward", "forward")))
    for words in product(*axes)
)
"""All frames, in the form of `parse_frame`."""


def frame_of(layout: str, options: Mapping[str, str]) -> str:
    """Return the frame of a location; `DatasetError` if it is missing or names no three axes."""
    frame = options.get("frame", "")
    if not frame:
        raise DatasetError(
            f"{layout}: say where the channels of the normals point, which the dataset does not state: "
            f"{layout}:PATH?task=normals&frame=x-right,y-up,z-toward, or y-down, or z-forward. With the right frame, "
            "normals of a floor are (0, 1, 0), and those of a wall that faces the camera (0, 0, 1)"
        )
    try:
        parse_frame(frame)
    except ValueError as error:
        raise DatasetError(f"{layout}: {error}") from error
    return frame


def check_frame(layout: str, frame: str, pairs: Iterable[tuple[Normals, Normals]]) -> None:
    """Raise `DatasetError` if another frame agrees better with the depth of the same pictures.

    Args:
        layout: for messages.
        frame: of the location.
        pairs: normals in this frame, and those of the depth.
    """
    products, count = np.zeros((3, 3)), 0
    for label, measured in pairs:
        known = label.valid & measured.valid
        channels = parse_frame(frame).T @ label.vectors[:, known].astype(np.float64)  # as in the file
        products += measured.vectors[:, known] @ channels.T
        count += int(known.sum())
    if not count:
        return
    cosines = {name: float((parse_frame(name) * products).sum()) / count for name in FRAMES}
    given = float((parse_frame(frame) * products).sum()) / count
    best = max(cosines, key=lambda name: cosines[name])
    if cosines[best] - given > MARGIN:
        raise DatasetError(
            f"{layout}: with frame={frame}, the normals disagree with the depth of the same pictures: the mean cosine "
            f"is {given:.2f}, and {cosines[best]:.2f} with another frame. Write frame={best}"
        )


def vectors(path: Path, values: NDArray[np.number], frame: str, known: NDArray[np.bool_] | None = None) -> Normals:
    """Return normals of vectors [H,W,3] of a file; zero vectors, and those outside of ``known`` [H,W], are unknown."""
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype.kind not in "fiu":
        raise SampleError(f"{path} has {values.dtype} values of shape {list(values.shape)}; normals have [H,W,3]")
    if known is not None and known.shape != values.shape[:2]:
        raise SampleError(f"the mask of {path} is {list(known.shape)}, but the normals are {list(values.shape[:2])}")
    maps = values.transpose(2, 0, 1).astype(np.float32)
    return unit_normals(maps if known is None else np.where(known, maps, 0), frame)


def picture_vectors(path: Path) -> NDArray[np.float32]:
    """Return the vectors [H,W,3] of an 8-bit RGB picture, value / 127.5 - 1; borders without a direction are 0."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode != "RGB":
                raise SampleError(f"{path} is a picture of mode {image.mode}; normals are stored as RGB of 8 bits")
            values = np.asarray(image).astype(np.float32) / 127.5 - 1
    except SampleError:
        raise
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise SampleError(f"cannot decode the label {path}: {type(error).__name__}: {error}") from error
    lengths = np.linalg.norm(values, axis=2)
    values[(lengths < LENGTHS[0]) | (lengths > LENGTHS[1])] = 0
    return values
