"""Frames of surface normals: the directions of an expert's channels, and the conversion to clipzoo's frame.

clipzoo's frame is x right, y up, z toward the viewer.
"""

from __future__ import annotations

import numpy as np

from clipzoo.tasks.normals import Normals
from clipzoo.types import FloatArray

_OURS = {
    "right": (0, 1.0), "left": (0, -1.0),
    "up": (1, 1.0), "down": (1, -1.0),
    "toward": (2, 1.0), "backward": (2, 1.0), "viewer": (2, 1.0), "forward": (2, -1.0), "away": (2, -1.0),
}  # fmt: skip


def parse_frame(frame: str) -> FloatArray:
    """Return the matrix, float32 3×3, from an expert's channels to clipzoo's: ours = matrix @ theirs.

    Args:
        frame: the directions of the three channels, as "x-right,y-down,z-forward"; the letters are
            for the reader. Directions: right, left, up, down, toward (or backward, viewer), forward (or away).

    Raises:
        ValueError: not three different axes.
    """
    words = [part.strip().rpartition("-")[2].lower() for part in frame.split(",")]
    unknown = [word for word in words if word not in _OURS]
    if unknown or len(words) != 3 or len({_OURS[word][0] for word in words}) != 3:
        raise ValueError(
            f"the frame {frame!r} does not name three axes; write where the channels point, such as "
            f"'x-right,y-down,z-forward', with directions out of {', '.join(_OURS)}"
        )
    matrix = np.zeros((3, 3), np.float32)
    for channel, word in enumerate(words):
        row, sign = _OURS[word]
        matrix[row, channel] = sign
    return matrix


def unit_normals(maps: FloatArray, frame: str) -> Normals:
    """Return vectors [3,H,W] of any length, in a frame that `parse_frame` reads, as normals in clipzoo's frame.

    A pixel is unknown if its vector has no length or is not finite.
    """
    vectors = np.tensordot(parse_frame(frame), np.nan_to_num(maps, posinf=0, neginf=0), 1)
    lengths = np.linalg.norm(vectors, axis=0)
    valid = np.isfinite(maps).all(0) & (lengths > 1e-6)
    unit = vectors / np.where(valid, lengths, 1)
    return Normals(np.where(valid, unit, 0).astype(np.float32), valid)
