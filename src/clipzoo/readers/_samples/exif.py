"""Pictures that were stored sideways, as the notes beside them tell.

img2dataset (1.47) decodes with OpenCV's IMREAD_UNCHANGED, which does not turn a picture as its EXIF says, and encodes
it without EXIF. The EXIF is kept in the field ``exif`` of the ``.json``, in the words of exifread (2.1 to 3.5).
"""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image

from clipzoo.types import decode_image, exif_orientation

TAG = "Image Orientation"
TURNS = {
    "Mirrored horizontal": Image.Transpose.FLIP_LEFT_RIGHT,
    "Rotated 180": Image.Transpose.ROTATE_180,
    "Mirrored vertical": Image.Transpose.FLIP_TOP_BOTTOM,
    "Mirrored horizontal then rotated 90 CCW": Image.Transpose.TRANSPOSE,
    "Rotated 90 CW": Image.Transpose.ROTATE_270,  # Pillow turns against the clock
    "Mirrored horizontal then rotated 90 CW": Image.Transpose.TRANSVERSE,
    "Rotated 90 CCW": Image.Transpose.ROTATE_90,
}
"""What exifread calls orientations 2 to 8, in their order, and what makes such a picture upright."""


def sideways(image: bytes, note: bytes) -> str:
    """How a picture is to be turned by the ``.json`` beside it, in exifread's words; "" if it is upright.

    A picture that has an orientation of its own was not encoded anew, and the decoder turns it.
    """
    turn = _turn(note)
    return turn if turn and exif_orientation(image) == 1 else ""


def upright(image: bytes, note: bytes) -> bytes:
    """The picture as an image file that is upright.

    Raises:
        ImageError: it is to be turned and cannot be decoded.
    """
    turn = sideways(image, note)
    if not turn:
        return image
    turned = io.BytesIO()
    Image.fromarray(decode_image(image)).transpose(TURNS[turn]).save(turned, "PNG", compress_level=1)
    return turned.getvalue()


def _turn(note: bytes) -> str:
    values: Any = note
    try:
        for key in ("exif", TAG):  # the tags are JSON in JSON
            values = json.loads(values) if isinstance(values, (str, bytes)) else values
            values = values.get(key) if isinstance(values, dict) else None
    except (ValueError, RecursionError):
        return ""
    return values if isinstance(values, str) and values in TURNS else ""
