#!/usr/bin/env bash
#
# Packages: safetensors 0.8.0, numpy 2.4.6
# Behavior: safetensors.numpy.save() and save_file() write the raw memory of an array together
#   with its shape, without a check of its memory order. A transposed or Fortran-ordered array is
#   loaded with the same shape and permuted values. No error, no warning: the docstring asks for
#   contiguous tensors, and the call does not check it. np.ascontiguousarray() before the call
#   fixes it.
# Expected instead: A C-ordered copy is written (as numpy.save or tobytes() do), or a ValueError
#   as in safetensors.torch for non-contiguous tensors.
# Why it matters: Converters of weights transpose linear and convolution kernels (for example JAX
#   to PyTorch, or a readout solved with numpy.linalg and stored as W.T). The file has the right
#   names, shapes and size, and the model is wrong.
# Output seen (CPython 3.11, Linux x86-64):
#   safetensors 0.8.0 numpy 2.4.6
#   C order: wrote [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], read [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], equal: True
#   transposed: wrote [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], read [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], equal: False
#   Fortran order: wrote [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], read [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]], equal: False
#   contiguous copy of the transposed: wrote [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], read [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], equal: True

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        safetensors==0.8.0 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import numpy as np
from importlib.metadata import version
from safetensors.numpy import load, save

print("safetensors", version("safetensors"), "numpy", np.__version__)
weight = np.arange(6, dtype=np.float32).reshape(2, 3)
cases = {
    "C order": weight,
    "transposed": weight.T,
    "Fortran order": np.asfortranarray(weight),
    "contiguous copy of the transposed": np.ascontiguousarray(weight.T),
}
equal = {}
for name, array in cases.items():
    loaded = load(save({"w": array}))["w"]
    equal[name] = loaded.shape == array.shape and bool((loaded == array).all())
    print(f"{name}: wrote {array.tolist()}, read {loaded.tolist()}, equal: {equal[name]}")
raise SystemExit(list(equal.values()) != [True, False, False, True])
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
