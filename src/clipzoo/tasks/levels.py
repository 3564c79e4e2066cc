"""Levels: a label map in half or a quarter of its size, stored in its PNG file in front of the pixels.

Training needs few pixels of a map: 56×56 of 512×512. A level is the map resampled as its task does, by 4 where that
takes means of pixels and by 2 elsewhere. It is read where a view has at least one pixel of it per pixel of the result;
then only the beginning of the file is read.

The level is the chunk `NAME`, which other programs ignore: height and width (4 bytes each), 1 if rows are differences
from the row above (1 byte), and the codes, the high bytes of a row after its low ones, compressed by Zstandard.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from clipzoo.errors import LabelError
from clipzoo.tasks import png
from clipzoo.tasks.base import require
from clipzoo.tasks.png import Codes
from clipzoo.types import MAX_PIXELS, Size, View

NAME = b"czLV"
"""Ancillary, private, not to be copied by programs that change pixels (PNG specification, section 5.4)."""

HEADER = ">IIB"
"""Height, width, and 1 for differences: the beginning of the chunk."""

SHORTEST = 96
"""Shortest side of a level: enough for a target of 56×56 of a crop of half the area."""

HEAD = 3 << 14
"""Bytes at the beginning of a file that nearly always contain its level."""

if TYPE_CHECKING:
    import pyarrow

Level = tuple[Codes, dict[str, object]]


class ShortError(Exception):
    """The beginning of a file is not enough for a view."""


def factor(size: Size, most: int) -> int:
    """Return the factor by which the level of a map of ``size`` (H, W) is smaller: 4 or 2, or 1 for no level."""
    return next((f for f in (4, 2) if f <= most and min(size) >= f * SHORTEST), 1)


def write(
    codes: Codes,
    task: str,
    facts: Mapping[str, object],
    level: int,
    codec: str,
    most: int,
    smaller: Callable[[View], Codes],
) -> bytes:
    """Encode codes as `png.write` does, for the codec `png.LEVELS` with the codes that ``smaller`` makes of a view.

    ``most`` is the largest factor by which the level is smaller.
    """
    H, W = codes.shape[:2]
    f = factor((H, W), most) if codec == png.LEVELS else 1
    chunks = _chunks_of(smaller(View.whole((round(H / f), round(W / f))))) if f > 1 else ()
    return png.write(codes, task, facts, level, codec, chunks)


def _chunks_of(codes: Codes) -> png.Chunks:
    rows = codes.reshape(len(codes), -1)
    plain, differences = _packed(rows), _packed(np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1])))
    different = len(differences) < 0.8 * len(plain)  # plain rows are read faster
    header = struct.pack(HEADER, *codes.shape[:2], different)
    return [(NAME, header + (differences if different else plain))]


def _packed(rows: Codes) -> bytes:
    if rows.itemsize == 2:
        rows = np.stack([(rows & 255).astype(np.uint8), (rows >> 8).astype(np.uint8)], 1)
    return bytes(_zstd().compress(rows.tobytes(), asbytes=True))


def read(data: bytes, task: str, modes: tuple[str, ...], view: View) -> tuple[Codes, dict[str, object], bool]:
    """Return codes, facts and True of a file's level if the view needs no more, else those of `png.read` and False.

    Raises:
        ShortError: ``data`` is only the beginning of a file with or without a level, and not enough.
        LabelError: the level is damaged; see `png.read`.
    """
    found = read_level(data, task, view)
    if found:
        return *found, True
    if len(data) == HEAD and data[-8:-4] != b"IEND":
        raise ShortError
    return *png.read(data, task, modes), False


def read_level(data: bytes, task: str, view: View) -> Level | None:
    """Return codes and facts of the level in a file or its beginning; None if it has none, or the view needs more."""
    chunks = dict(_chunks(data))
    content, header, mark = chunks.get(NAME), chunks.get(b"IHDR", b""), chunks.get(b"tEXt", b"")
    if content is None or len(header) < 10:
        return None
    if len(content) < struct.calcsize(HEADER):
        raise _damaged(f"it has {len(content)} bytes")
    if not _fits(view, content):
        return None
    facts = png.facts_of(mark.partition(b"\0")[2].decode("latin-1"), task)
    return _codes(content, header[8], 3 if header[9] == 2 else 1), facts


def _fits(view: View, content: bytes) -> bool:
    """Return True if the level has a pixel per pixel of the view."""
    (height, width), (x0, y0, x1, y1) = view.size, view.box(struct.unpack(">II", content[:8]))
    return x1 - x0 >= width and y1 - y0 >= height


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the complete chunks in front of the pixels."""
    at = 8
    while at + 12 <= len(data):
        (size,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        end = at + 8 + size
        if name == b"IDAT" or end + 4 > len(data):
            return
        require(
            zlib.crc32(data[at + 4 : end]) == struct.unpack_from(">I", data, end)[0],
            f"the label is damaged: the checksum of its chunk {name!r} is wrong; label the image again",
        )
        yield name, data[at + 8 : end]
        at = end + 4


def _codes(content: bytes, bits: int, channels: int) -> Codes:
    try:
        height, width, different = struct.unpack_from(HEADER, content)
        size = height * width * channels * bits // 8
        require(0 < size <= 6 * MAX_PIXELS, f"it has {height}×{width} pixels")
        require(bits in (8, 16), f"it has {bits} bits")
        data = np.frombuffer(_zstd().decompress(content[9:], size, asbytes=True), np.uint8)
        rows: Codes = data.reshape(height, -1)
        if bits == 16:
            low, high = data.reshape(height, 2, width).swapaxes(0, 1)
            rows = low.astype(np.uint16) | (high.astype(np.uint16) << np.uint16(8))
    except (OSError, ValueError, LabelError) as error:
        raise _damaged(error) from error
    if different:
        rows = np.add.accumulate(rows, axis=0, dtype=rows.dtype)
    return rows if channels == 1 else rows.reshape(height, width, channels)


def _damaged(why: object) -> LabelError:
    return LabelError(f"the level of the label is damaged: {why}; label the image again")


@cache
def _zstd() -> pyarrow.Codec:
    import pyarrow

    return pyarrow.Codec("zstd", 3)
