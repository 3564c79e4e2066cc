"""Labels as PNG files with metadata: the text chunk ``clipzoo`` contains the task and further facts as JSON."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from clipzoo.errors import LabelError
from clipzoo.tasks.base import require
from clipzoo.types import MAX_PIXELS

Codes = NDArray[np.unsignedinteger]
Chunks = Sequence[tuple[bytes, bytes]]

KEY = "clipzoo"
_DTYPES = {"L": np.uint8, "RGB": np.uint8, "I;16": np.uint16, "I": np.uint16}  # older Pillow: 16 bits are I


PNG, RLE, LEVELS = "png", "png-rle", "png-levels"
CODECS = (PNG, RLE, LEVELS)
"""``png`` is Pillow's encoder; ``png-rle`` the Paeth filter and zlib's run-length strategy; ``png-levels`` adds a
smaller map to a file of ``png-rle`` (`clipzoo.tasks.levels`). `read` reads all."""

DEFAULT = RLE
"""The codec of new columns. Columns whose manifest has no codec are continued with `PNG`."""

STRIP = 1 << 16
"""Bytes that are filtered at a time, so that temporary arrays stay in the processor's cache."""


def write(
    codes: Codes, task: str, facts: Mapping[str, object], level: int, codec: str = PNG, chunks: Chunks = ()
) -> bytes:
    """Encode ``codes`` (uint8 [H,W], uint8 [H,W,3] or uint16 [H,W]) as PNG.

    Equal codes and facts give equal bytes with the same versions of Pillow and zlib. ``level`` is the compression level
    of the codec `PNG`; others have none. ``chunks`` are further chunks of these others, (name, content) each.

    Raises:
        LabelError: the codec is unknown.
    """
    require(
        codec in CODECS,
        f"the codec {codec!r} is unknown; this clipzoo writes {' and '.join(CODECS)}: update clipzoo, or correct "
        '"codec" in the manifest',
    )
    mark = json.dumps({"task": task, **facts}, allow_nan=False)
    if codec != PNG:
        return _write_rle(codes, mark, chunks)
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(KEY, mark)
    buffer = io.BytesIO()
    Image.fromarray(codes).save(buffer, "PNG", pnginfo=chunk, compress_level=level)
    return buffer.getvalue()


def _write_rle(codes: Codes, mark: str, others: Chunks) -> bytes:
    height, width = codes.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * codes.itemsize, 2 if codes.ndim == 3 else 0, 0, 0, 0)
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)
    pixels = b"".join([deflate.compress(strip) for strip in _filtered(codes)] + [deflate.flush()])
    text = KEY.encode() + b"\0" + mark.encode()  # ASCII: json.dumps escapes other characters
    chunks = [(b"IHDR", header), (b"tEXt", text), *others, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _filtered(codes: Codes) -> Iterator[bytes]:
    """Yield strips of rows under the Paeth filter (PNG specification, section 9.4), each with the filter's number."""
    step = codes.itemsize * (codes.shape[2] if codes.ndim == 3 else 1)
    rows = np.ascontiguousarray(codes.astype(">u2") if codes.itemsize == 2 else codes).view(np.uint8)
    rows = rows.reshape(len(codes), -1)
    size = max(1, STRIP // rows.shape[1])
    above = np.zeros((1, rows.shape[1]), np.uint8)
    for top in range(0, len(rows), size):
        strip = rows[top : top + size]
        padded = np.pad(np.concatenate([above, strip]), ((0, 0), (step, 0)))
        out = np.empty((len(strip), rows.shape[1] + 1), np.uint8)
        out[:, 0] = 4
        np.subtract(strip, _paeth(padded[1:, :-step], padded[:-1, step:], padded[:-1, :-step]), out=out[:, 1:])
        above = strip[-1:]
        yield out.tobytes()


def _paeth(left: Codes, up: Codes, corner: Codes) -> Codes:
    """Return the neighbor that is closest to left + up − corner; the first of equally close ones."""
    a, b, c = (values.astype(np.int16) for values in (left, up, corner))
    across, down = b - c, a - c
    far, near, both = np.abs(down), np.abs(across), np.abs(across + down)
    return np.where((near <= far) & (near <= both), left, np.where(far <= both, up, corner))


def read(data: bytes, task: str, modes: tuple[str, ...]) -> tuple[Codes, dict[str, object]]:
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
    facts = facts_of(str(mark), task)
    require(
        mode in modes,
        f"the PNG has mode {mode}, but {task} labels have mode {' or '.join(modes)}: another program has saved it with "
        "changed pixels; label the image again",
    )
    return codes.astype(_DTYPES[mode], copy=False), facts


def facts_of(mark: str, task: str) -> dict[str, object]:
    """Return the facts in the text chunk of a label of ``task``; raise `LabelError` if there are none."""
    try:
        facts = json.loads(mark)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise LabelError(
            f"the text chunk {KEY!r} contains {mark[:40]!r}, which is not a JSON object; label the image again"
        )
    require(
        facts.get("task") == task,
        f"the PNG is a label of {facts.get('task')!r}, not of {task}; decode it with that task",
    )
    return facts
