#!/usr/bin/env bash
#
# Packages: transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, pillow 13.0.0, numpy 2.4.6
# Behavior: With keep_aspect_ratio=True the processor takes the scale that is closer to 1. A 4:3
#   image above the target size gets 518 on its shorter side, the same image below it gets 518 on
#   its longer side: 518 x 686 becomes 392 x 518. A 4:1 panorama of 1024 x 256 is reduced to 126
#   rows. Both backends agree.
# Expected instead: One rule for all images (the shorter side is 518, as a lower bound), so that
#   the same aspect ratio gives the same network input.
# Why it matters: Depth experts of the DPT and Depth Anything family label thumbnails and web
#   images at 0.57 of the pixels of photos, and a set of mixed sizes at mixed detail. Resizing
#   images before labeling changes the labels. Fix the input size instead of the option, or
#   upscale small images first.
# Output seen (CPython 3.11, Linux x86-64):
#   transformers 5.24.0
#   image 1280 x 960: network input (rows, columns) [(518, 686)]
#   image 640 x 480: network input (rows, columns) [(518, 686)]
#   image 600 x 450: network input (rows, columns) [(392, 518)]
#   image 320 x 240: network input (rows, columns) [(392, 518)]
#   image 1024 x 256: network input (rows, columns) [(126, 518)]

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==13.0.0 \
        numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import numpy as np
import transformers
from PIL import Image

print("transformers", transformers.__version__)
options = dict(size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14)
expected = {
    (1280, 960): (518, 686),
    (640, 480): (518, 686),
    (600, 450): (392, 518),
    (320, 240): (392, 518),
    (1024, 256): (126, 518),
}
changed = False
for size, wanted in expected.items():
    shapes = {
        tuple(processor(**options)(Image.new("RGB", size), return_tensors="pt")["pixel_values"].shape[2:])
        for processor in (transformers.DPTImageProcessor, transformers.DPTImageProcessorPil)
    }
    print(f"image {size[0]} x {size[1]}: network input (rows, columns) {sorted(shapes)}")
    changed |= shapes != {wanted}
raise SystemExit(changed)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
