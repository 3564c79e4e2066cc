#!/usr/bin/env bash
#
# Packages: opencv-python-headless 5.0.0.93, pillow 13.0.0, scipy 1.17.1, onnx 1.23.2, onnxruntime
#   1.32.0, numpy 2.4.6
# Behavior: Nearest-neighbor downsampling of the row 0..7 takes other source pixels in each
#   library: at 8 to 4, OpenCV and ONNX Runtime take 0 2 4 6, Pillow and INTER_NEAREST_EXACT 1 3 5
#   7, SciPy 0 2 5 7; at 8 to 3 there are four answers. At 2:1 the target center falls on the edge
#   of two pixels, so flip-then-resize differs from resize-then-flip in all of them but SciPy,
#   which aligns corners and so shifts the scale instead.
# Expected instead: One definition of the nearest pixel, the same in all libraries, and symmetric
#   under a flip.
# Why it matters: Label maps resized by one library in training and by another in evaluation or in
#   the exported graph are shifted by one or two source pixels, which costs thin classes their
#   IoU. A stored label map that is flipped after resizing is not the label of the flipped image.
#   Resample one-hot maps with an antialiased filter, or use one library on both sides.
# Output seen (CPython 3.11, Linux x86-64):
#   opencv 5.0.0 pillow 13.0.0 scipy 1.17.1 onnxruntime 1.32.0
#   cv2.INTER_NEAREST: 8 -> 4 [0, 2, 4, 6], 8 -> 3 [0, 2, 5], flip commutes at 8 -> 4: False
#   cv2.INTER_NEAREST_EXACT: 8 -> 4 [1, 3, 5, 7], 8 -> 3 [1, 4, 6], flip commutes at 8 -> 4: False
#   Pillow NEAREST: 8 -> 4 [1, 3, 5, 7], 8 -> 3 [1, 4, 6], flip commutes at 8 -> 4: False
#   scipy zoom order 0: 8 -> 4 [0, 2, 5, 7], 8 -> 3 [0, 4, 7], flip commutes at 8 -> 4: True
#   ONNX Runtime nearest: 8 -> 4 [0, 2, 4, 6], 8 -> 3 [1, 3, 6], flip commutes at 8 -> 4: False

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        opencv-python-headless==5.0.0.93 pillow==13.0.0 scipy==1.17.1 onnx==1.23.2 \
        onnxruntime==1.32.0 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import cv2
import numpy as np
import onnxruntime as ort
import scipy
from onnx import TensorProto, helper
from PIL import Image
from scipy import ndimage

print("opencv", cv2.__version__, "pillow", Image.__version__, "scipy", scipy.__version__, "onnxruntime", ort.__version__)


def onnx_nearest(row, width):
    node = helper.make_node("Resize", ["x", "", "", "size"], ["y"], mode="nearest")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in "xy"]
    size = helper.make_tensor("size", TensorProto.INT64, [4], [1, 1, 1, width])
    graph = helper.make_graph([node], "resize", value[:1], value[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": row[None, None].astype(np.float32)})[0][0, 0]


methods = {
    "cv2.INTER_NEAREST": lambda r, w: cv2.resize(r, (w, 1), interpolation=cv2.INTER_NEAREST),
    "cv2.INTER_NEAREST_EXACT": lambda r, w: cv2.resize(r, (w, 1), interpolation=cv2.INTER_NEAREST_EXACT),
    "Pillow NEAREST": lambda r, w: np.asarray(Image.fromarray(r).resize((w, 1), Image.NEAREST)),
    "scipy zoom order 0": lambda r, w: ndimage.zoom(r, (1, w / r.shape[1]), order=0),
    "ONNX Runtime nearest": onnx_nearest,
}
row = np.arange(8, dtype=np.uint8)[None]
seen = {}
for name, method in methods.items():
    picked = {w: method(row, w)[0].astype(int).tolist() for w in (4, 3)}
    commutes = np.array_equal(method(row[:, ::-1].copy(), 4), method(row, 4)[:, ::-1])
    seen[name] = (picked[4], picked[3], commutes)
    print(f"{name}: 8 -> 4 {picked[4]}, 8 -> 3 {picked[3]}, flip commutes at 8 -> 4: {commutes}")
expected = {
    "cv2.INTER_NEAREST": ([0, 2, 4, 6], [0, 2, 5], False),
    "cv2.INTER_NEAREST_EXACT": ([1, 3, 5, 7], [1, 4, 6], False),
    "Pillow NEAREST": ([1, 3, 5, 7], [1, 4, 6], False),
    "scipy zoom order 0": ([0, 2, 5, 7], [0, 4, 7], True),
    "ONNX Runtime nearest": ([0, 2, 4, 6], [1, 3, 6], False),
}
raise SystemExit(seen != expected)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
