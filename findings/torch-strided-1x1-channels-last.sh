#!/usr/bin/env bash
#
# Packages: torch 2.14.1 (CPU)
# Behavior: The backward pass of a 1x1 convolution with stride 2 and few input channels, with input
#   or weights in channels-last order, writes out of bounds: "free(): invalid next size", a
#   segmentation fault, or nothing visible.
# Expected instead: The gradient, as in contiguous order.
# Why it matters: FastViT (MobileCLIP) has such a convolution in its stem; images that are permuted
#   from HxWxC are in channels-last order. Training ends without a traceback. Call contiguous() on
#   the input and keep the weights contiguous.
# Output seen (CPython 3.11, Linux x86-64):
#   torch 2.14.1+cu130
#   contiguous: exit 0
#   channels last: exit -11

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir torch==2.14.1
fi

cat > "$work/backward.py" <<'PY'
import sys

import torch

torch.set_num_threads(1)
order = torch.channels_last if sys.argv[1] == "channels last" else torch.contiguous_format
for _ in range(4):
    conv = torch.nn.Conv2d(3, 64, 1, 2, bias=False).to(memory_format=order)
    x = torch.randn(2, 3, 256, 256).contiguous(memory_format=order)
    conv(x).square().mean().backward()
junk = [torch.randn(1000 + i) for i in range(300)]
PY
cat > "$work/both.py" <<'PY'
import subprocess
import sys

import torch

print("torch", torch.__version__)
for order in ("contiguous", "channels last"):
    run = subprocess.run([sys.executable, sys.argv[1], order], capture_output=True)
    print(f"{order}: exit {run.returncode}")
PY
"$python" "$work/both.py" "$work/backward.py"
