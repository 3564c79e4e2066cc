#!/usr/bin/env bash
#
# Packages: safetensors 0.8.0, numpy 2.4.6
# Behavior: With two or more metadata keys, save() writes them in an order that changes from call
#   to call, even in one process. Tensors and metadata compare equal; the bytes and every hash of
#   the file differ. Without metadata, or with a single key, repeated saves are byte-identical.
# Expected instead: Byte-identical files for identical input: the format has a fixed layout and no
#   time stamp, and tensors are sorted.
# Why it matters: A manifest that identifies an exported checkpoint by the SHA-256 of its file
#   reports a change where there is none, content-addressed stores keep the same weights several
#   times, and reproducible-export tests fail at random. Put all metadata into one JSON string
#   under one key, or hash the tensors.
# Output seen (CPython 3.11, Linux x86-64):
#   safetensors 0.8.0
#   metadata keys 0: more than one hash in 50 saves: False
#   metadata keys 1: more than one hash in 50 saves: False
#   metadata keys 8: more than one hash in 50 saves: True

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
import hashlib
import numpy as np
from importlib.metadata import version
from safetensors.numpy import save

print("safetensors", version("safetensors"))
tensors = {"a": np.zeros(4, np.float32), "b": np.ones(4, np.float32)}
distinct = {}
for keys in (0, 1, 8):
    metadata = {f"key{i}": "value" for i in range(keys)} or None
    hashes = {hashlib.sha256(save(tensors, metadata=metadata)).hexdigest() for _ in range(50)}
    distinct[keys] = len(hashes)
    print(f"metadata keys {keys}: more than one hash in 50 saves: {len(hashes) > 1}")
raise SystemExit(not (distinct[0] == distinct[1] == 1 and distinct[8] > 1))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
