#!/usr/bin/env bash
# torch 2.14.1 with onnxscript 0.7.2: exported ONNX graphs of different weights are equal to the byte.
#
# Behavior: torch.onnx.export writes tensors of more than 256 bytes into a second file, <name>.onnx.data, unless it is
# called with external_data=False; the size of the model does not matter. The graph refers to that file by name, offset
# and length, without a checksum. Two models of one architecture, exported under one file name, then have equal .onnx
# files wherever their small tensors agree (zero or equal biases, no biases). The graph of the one with the data file of
# the other beside it loads in ONNX Runtime without a word, and gives the other model's outputs.
#
# Seen: two convolutional networks of about 300,000 random weights; one SHA-256 of m.onnx, two of m.onnx.data, and outputs
# that differ. With external_data=False the files differ.
#
# Why it matters: caches, registries, model cards and label stores that know a model by the hash of its .onnx take
# new weights for old ones, and reuse what was computed with others. The hash has to cover every file that the graph
# names. A good engineer expects one file for a model far below the 2 GB that a protocol buffer may have.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 onnx_ir==1.1.0 onnxruntime==1.32.0 numpy
fi
"$python" - "$folder" <<'PYTHON'
import hashlib
import logging
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
picture = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)


def exported(seed, **options):
    folder = Path(sys.argv[1], f"{seed}{len(options)}")
    folder.mkdir()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(64, 512, 3, bias=False)).eval()
    torch.onnx.export(model, (torch.from_numpy(picture),), folder / "m.onnx", verbose=False, **options)
    return folder / "m.onnx"


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def run(path):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: picture})[0]


first, second = exported(0), exported(1)
datas = [path.with_name("m.onnx.data") for path in (first, second)]
print("files:", sorted(path.name for path in first.parent.iterdir()))
print("graphs:", sha(first), sha(second))
print("weights:", *map(sha, datas))
ours, theirs = run(first), run(second)
print("largest difference of outputs:", float(np.abs(ours - theirs).max()))
shutil.copyfile(datas[1], datas[0])
swapped = run(first)
print("the first graph with the second's data gives the second's outputs:", bool(np.array_equal(swapped, theirs)))
single = [exported(seed, external_data=False) for seed in (0, 1)]
print("as one file:", *map(sha, single))
same = sha(first) == sha(second) and not np.allclose(ours, theirs) and np.array_equal(swapped, theirs)
sys.exit(0 if same and sha(single[0]) != sha(single[1]) else "the behavior has changed")
PYTHON
