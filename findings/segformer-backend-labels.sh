#!/usr/bin/env bash
#
# Packages: transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, pillow 13.0.0, numpy 2.4.6
# Behavior: SegformerImageProcessorPil(do_reduce_labels=True) returns the right labels but writes
#   255 over every 0 of the array it was given. With resizing, it raises a ValueError for label
#   maps with ids above 255. SegformerImageProcessor (torchvision backend) leaves the input alone
#   and resizes such ids.
# Expected instead: Two backends of one processor take the same input, return the same labels and
#   leave the input as it was.
# Why it matters: Cached label maps lose their class 0 at the first pass, so a metric computed on
#   the same array later ignores the background. Sets with more than 256 classes, and panoptic
#   ids, work with one backend and fail with the other.
# Output seen (CPython 3.11, Linux x86-64):
#   transformers 5.24.0
#   SegformerImageProcessor: result [255, 0, 1, 255], input afterwards [0, 1, 2, 255], ids up to 300 resized: [0, 100, 200, 300]
#   SegformerImageProcessorPil: result [255, 0, 1, 255], input afterwards [255, 1, 2, 255], ids up to 300 resized: ValueError

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
image = Image.new("RGB", (4, 4))
seen = []
for name in ("SegformerImageProcessor", "SegformerImageProcessorPil"):
    processor = getattr(transformers, name)
    labels = np.array([[0, 1, 2, 255]], np.uint8).repeat(4, 0)
    result = processor(do_reduce_labels=True, do_resize=False)(image, labels, return_tensors="pt")["labels"]
    large = np.array([[0, 100, 200, 300]], np.int32).repeat(4, 0)
    try:
        resized = processor(size={"height": 8, "width": 8})(image, large, return_tensors="pt")["labels"]
        ids = resized.unique().tolist()
    except ValueError as error:
        ids = "ValueError"
    print(f"{name}: result {result[0, 0].tolist()}, input afterwards {labels[0].tolist()}, ids up to 300 resized: {ids}")
    seen.append((result[0, 0].tolist(), labels[0].tolist(), ids))
reduced = [255, 0, 1, 255]
expected = [(reduced, [0, 1, 2, 255], [0, 100, 200, 300]), (reduced, [255, 1, 2, 255], "ValueError")]
raise SystemExit(seen != expected)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
