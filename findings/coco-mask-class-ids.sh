#!/usr/bin/env bash
#
# Packages: pycocotools 2.0.11, faster-coco-eval 1.8.0, numpy 2.4.6
# Behavior: mask.encode() does not treat every nonzero pixel as foreground. It starts a new run
#   wherever the value differs from the value before it and alternates background and foreground.
#   A mask of 0 and 255 is encoded correctly. A mask in which id 1 touches id 2 below it is not:
#   the run of 2 becomes background, and the background after it becomes foreground. faster-coco-
#   eval, its faster replacement, does the same. No error, no warning.
# Expected instead: Nonzero pixels are foreground (as 0 and 255 suggest), or values above 1 are
#   rejected.
# Why it matters: Anyone who encodes an instance map or a class map to COCO RLE, for example after
#   "keep everything that is not background", writes masks of nearly arbitrary area. mAP and areas
#   computed from them look plausible. Compare with a value first: encode(map == id) or encode(map
#   > 0).
# Output seen (CPython 3.11, Linux x86-64):
#   pycocotools 2.0.11 faster-coco-eval 1.8.0
#   values 0/1: nonzero pixels 4, area 4, decoded pixels 4
#   values 0/255: nonzero pixels 4, area 4, decoded pixels 4
#   values 0/1/2: nonzero pixels 4, area 15, decoded pixels 15

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        pycocotools==2.0.11 faster-coco-eval==1.8.0 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import numpy as np
from importlib.metadata import version
from pycocotools import mask as coco
from faster_coco_eval.core import mask as fast

print("pycocotools", version("pycocotools"), "faster-coco-eval", version("faster-coco-eval"))
ids = np.zeros((6, 4), np.uint8, order="F")
ids[1:3, 1] = 1
ids[3:5, 1] = 2
seen = []
for name, array in (("0/1", ids > 0), ("0/255", (ids > 0) * 255), ("0/1/2", ids)):
    array = np.asfortranarray(array.astype(np.uint8))
    for module in (coco, fast):
        rle = module.encode(array)
        area = int(module.area(rle))
        decoded = int(module.decode(rle).sum())
        seen.append((name, area, decoded))
    print(f"values {name}: nonzero pixels {np.count_nonzero(array)}, area {area}, decoded pixels {decoded}")
expected = [("0/1", 4, 4)] * 2 + [("0/255", 4, 4)] * 2 + [("0/1/2", 15, 15)] * 2
raise SystemExit(seen != expected)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
