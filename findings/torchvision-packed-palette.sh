#!/usr/bin/env bash
#
# Packages: torchvision 0.29.1, torch 2.14.1, pillow 13.0.0, numpy 2.4.6
# Behavior: Pillow stores a P-mode mask with as few bits as its palette needs: 4 colors give 2
#   bits a pixel, 16 colors 4. decode_png in its default mode returns the packed bytes as if they
#   were pixels: the ids 0 1 2 3 read as 27 (0b00011011) at 2 bits and as 1 and 35 (0x01, 0x23) at
#   4. The shape is right and nothing is raised. With a 256-color palette the ids are right. Mode
#   GRAY gives the brightness of the palette color; mode RGB is right.
# Expected instead: Palette indices, one a pixel, at every bit depth (as Pillow gives), or an
#   error.
# Why it matters: Class masks in VOC style are palette PNGs. A reader tested on 8-bit ones returns
#   arbitrary ids for masks with a short palette. Read label PNGs with Pillow, or check the bit
#   depth in byte 24 of the file.
# Output seen (CPython 3.11, Linux x86-64):
#   torchvision 0.29.1+cu130 pillow 13.0.0
#   palette of 4, 2 bits: Pillow [0, 1, 2, 3], decode_png [27, 27, 27, 27], GRAY [0, 10, 20, 30], RGB right True
#   palette of 16, 4 bits: Pillow [0, 1, 2, 3], decode_png [1, 35, 1, 35], GRAY [0, 10, 20, 30], RGB right True
#   palette of 256, 8 bits: Pillow [0, 1, 2, 3], decode_png [0, 1, 2, 3], GRAY [0, 10, 20, 30], RGB right True

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        torchvision==0.29.1 torch==2.14.1 pillow==13.0.0 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import io

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

print("torchvision", torchvision.__version__, "pillow", Image.__version__)
ids = np.tile(np.array([0, 1, 2, 3], np.uint8), (8, 4))
seen = []
for colors in (4, 16, 256):
    mask = Image.fromarray(ids).copy()
    mask.putpalette([value for index in range(colors) for value in (index % 256, index * 7 % 256, index * 50 % 256)])
    file = io.BytesIO()
    mask.save(file, "PNG")
    data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    # Compare only the bytes of the first packed row.
    count = 4
    default = decode_png(data)[0, 0, :count].tolist()
    gray = decode_png(data, ImageReadMode.GRAY)[0, 0, :4].tolist()
    rgb = decode_png(data, ImageReadMode.RGB)[:, 0, :4].T.tolist()
    wanted = np.asarray(Image.open(file).convert("RGB"))[0, :4].tolist()
    pillow = np.asarray(Image.open(file))[0, :4].tolist()
    print(f"palette of {colors}, {data[24]} bits: Pillow {pillow}, decode_png {default}, GRAY {gray}, RGB right {rgb == wanted}")
    seen.append((int(data[24]), pillow, default, rgb == wanted))
expected = [(2, [0, 1, 2, 3], [27] * 4, True), (4, [0, 1, 2, 3], [1, 35, 1, 35], True), (8, [0, 1, 2, 3], [0, 1, 2, 3], True)]
raise SystemExit(seen != expected)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
