#!/usr/bin/env bash
# pillow 13.0.0, torchvision 0.29.1, numpy 2.4.6
#
# Surface normals are published as 16-bit RGB PNGs, one channel an axis. Pillow opens such a file without a word as mode RGB
# of 8 bits: the upper byte of each channel, cut off and not rounded. A grey PNG of 16 bits, as depth is published, keeps
# all of them (mode I;16). So a loader that was checked with depth loses half of the bits of normals.
#
# Seen: unit vectors that are read so, with 255 for 1, turn by up to 0.38 degrees, 0.17 in the mean (0.0015 with 16 bits).
# With the raw mode "RGB;16L" in place of "RGB;16B" the same decoder gives the lower bytes, so that two passes give the whole
# value without another package. torchvision.io.decode_image gives uint16, and since 0.29 a DeprecationWarning that names
# torchcodec.
#
# What a good engineer would have guessed: an error, or 16 bits, as for grey.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet pillow==13.0.0 numpy==2.4.6 torch==2.14.1 torchvision==0.29.1
fi

"$python" - "$folder/normals.png" <<'PYTHON'
import struct
import sys
import warnings
import zlib

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_image

path = sys.argv[1]
rng = np.random.default_rng(0)
truth = rng.normal(size=(200, 300, 3))
truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
codes = np.rint((truth + 1) / 2 * 65535).astype(np.uint16)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


header = struct.pack(">IIBBBBB", 300, 200, 16, 2, 0, 0, 0)
rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in codes)
with open(path, "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def angles(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.degrees(2 * np.arcsin(np.linalg.norm(vectors - truth, axis=-1) / 2))


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    upper = np.array(Image.open(path))
print("Pillow:", Image.open(path).mode, upper.dtype, "warnings:", len(said))
assert upper.dtype == np.uint8 and not said and (upper == codes >> 8).all()
lost = angles(upper / 255 * 2 - 1)
print(f"angles with 8 bits: up to {lost.max():.2f}, mean {lost.mean():.2f}; with 16: {angles(codes / 65535 * 2 - 1).max():.4f}")
assert 0.3 < lost.max() < 0.45

image = Image.open(path)
image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
assert ((upper.astype(np.uint16) << 8 | np.array(image)) == codes).all()
print("upper bytes, and in the other byte order lower bytes, are the whole value")

grey = Image.fromarray(codes[..., 0])
grey.save(path)
assert Image.open(path).mode == "I;16" and (np.array(Image.open(path)) == codes[..., 0]).all()
print("grey of 16 bits is kept: I;16")

with open(path, "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    whole = decode_image(torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.uint8))
print("torchvision:", whole.dtype, [str(one.category.__name__) for one in said])
assert whole.dtype == torch.uint16 and (whole.numpy().transpose(1, 2, 0) == codes).all()
assert any(one.category is DeprecationWarning for one in said)
PYTHON
