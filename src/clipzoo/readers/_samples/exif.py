"""Orientation of images that were stored without their EXIF.

img2dataset (1.47) decodes with OpenCV's IMREAD_UNCHANGED, which ignores the EXIF orientation, and encodes without
EXIF. The EXIF is kept in the field ``exif`` of the ``.json``, in the words of exifread (2.1 to 3.5).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

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
"""exifread's names of orientations 2 to 8, in their order -> the operation that makes such an image upright."""


def sideways(image: bytes, note: bytes) -> str:
    """Return the orientation that the ``.json`` of an image gives, in exifread's words; "" if the image is upright.

    An image file with an EXIF orientation was not encoded again, and the decoder applies it.
    """
    turn = _turn(note)
    return turn if turn and exif_orientation(image) == 1 else ""


def upright(image: bytes, note: bytes) -> bytes:
    """Return the image file with the orientation of its ``.json`` applied.

    Raises:
        ImageError: it is not upright and cannot be decoded.
    """
    turn = sideways(image, note)
    if not turn:
        return image
    turned = io.BytesIO()
    Image.fromarray(decode_image(image)).transpose(TURNS[turn]).save(turned, "PNG", compress_level=1)
    return turned.getvalue()


def with_note_applied(members: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return a sample's members, with a ``.json`` without orientation: `upright` has applied it to the image."""
    note = members.get("json", b"")
    if not _turn(note):
        return members
    values = json.loads(note)
    as_text = isinstance(values["exif"], str)
    tags = json.loads(values["exif"]) if as_text else values["exif"]
    del tags[TAG]
    return {**members, "json": json.dumps({**values, "exif": json.dumps(tags) if as_text else tags}).encode()}


def _turn(note: bytes) -> str:
    values: object = note
    try:
        for key in ("exif", TAG):  # the tags are JSON in JSON
            values = json.loads(values) if isinstance(values, (str, bytes)) else values
            values = values.get(key) if isinstance(values, dict) else None
    except (ValueError, RecursionError):
        return ""
    return values if isinstance(values, str) and values in TURNS else ""
