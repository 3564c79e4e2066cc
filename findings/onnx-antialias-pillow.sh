#!/usr/bin/env bash
#
# Packages: onnx 1.23.2, onnxruntime 1.32.0, pillow 13.0.0, numpy 2.4.6
# Behavior: Resize with antialias=1 in ONNX Runtime does not reproduce Pillow. Linear differs at
#   the border (weights outside the image are clamped to the edge pixel, Pillow renormalizes
#   them); cubic differs everywhere, because the default coefficient is -0.75 and Pillow uses
#   -0.5. With exclude_outside=1 and cubic_coeff_a=-0.5 both agree to 0.001 of 255, for down- and
#   upsampling.
# Expected instead: antialias=1 stretches the filter as Pillow does, so the same filter name gives
#   the same pixels up to rounding.
# Why it matters: Whoever exports the preprocessing together with an image tower gets other pixels
#   than in training: on noise the errors are up to 22 gray levels, with no error message. Set the
#   two attributes in the exported graph and compare pixels, not only embeddings.
# Output seen (CPython 3.11, Linux x86-64):
#   onnxruntime 1.32.0 onnx 1.23.2 pillow 13.0.0
#   linear: largest difference at 64 -> 32, 23, 96: 9.505, 10.100, 0.000
#   linear, exclude_outside: largest difference at 64 -> 32, 23, 96: 0.000, 0.000, 0.000
#   cubic: largest difference at 64 -> 32, 23, 96: 9.542, 8.113, 21.808
#   cubic -0.5: largest difference at 64 -> 32, 23, 96: 5.543, 7.520, 7.643
#   cubic -0.5, exclude_outside: largest difference at 64 -> 32, 23, 96: 0.000, 0.000, 0.001

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        onnx==1.23.2 onnxruntime==1.32.0 pillow==13.0.0 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from PIL import Image

print("onnxruntime", ort.__version__, "onnx", onnx.__version__, "pillow", Image.__version__)


def resize(image, side, **attributes):
    node = helper.make_node("Resize", ["x", "", "", "size"], ["y"], antialias=1, **attributes)
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in "xy"]
    size = helper.make_tensor("size", TensorProto.INT64, [4], [1, 1, side, side])
    graph = helper.make_graph([node], "resize", value[:1], value[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image[None, None]})[0][0, 0]


image = (np.random.default_rng(0).random((64, 64)) * 255).astype(np.float32)
cases = (
    ("linear", Image.BILINEAR, dict(mode="linear"), False),
    ("linear, exclude_outside", Image.BILINEAR, dict(mode="linear", exclude_outside=1), True),
    ("cubic", Image.BICUBIC, dict(mode="cubic"), False),
    ("cubic -0.5", Image.BICUBIC, dict(mode="cubic", cubic_coeff_a=-0.5), False),
    ("cubic -0.5, exclude_outside", Image.BICUBIC, dict(mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1), True),
)
changed = False
for name, pillow_filter, attributes, same in cases:
    worst = []
    for side in (32, 23, 96):
        reference = np.asarray(Image.fromarray(image).resize((side, side), pillow_filter))
        worst.append(float(np.abs(resize(image, side, **attributes) - reference).max()))
    print(f"{name}: largest difference at 64 -> 32, 23, 96: " + ", ".join(f"{w:.3f}" for w in worst))
    changed |= max(worst) > 0.01 if same else max(worst) < 1
raise SystemExit(changed)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
