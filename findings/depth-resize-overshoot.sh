#!/usr/bin/env bash
#
# Packages: transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, pillow 13.0.0, numpy 2.4.6
# Behavior: The post-processing, and with it the depth-estimation pipeline, upsamples the
#   prediction by bicubic interpolation and does not clamp it. DPT-style models end in a ReLU, so
#   their output is never negative; after the resize, a step from 0 to 10 reads from -1.1 to 11.1,
#   on both sides of every depth edge.
# Expected instead: A depth map keeps its range, by a bilinear resize or a clamp.
# Why it matters: 1/disparity of a negative value is negative or huge depth, log depth is NaN, and
#   min-max scaling to 8 bits is set by the halo instead of the scene. Mask values at or below
#   zero, or resize bilinearly yourself from the raw output.
# Output seen (CPython 3.11, Linux x86-64):
#   transformers 5.24.0 torch 2.14.1+cu130
#   before: 0.00 to 10.00
#   after: -1.10 to 11.10, negative 12.5 % of pixels
#   NaN in log(depth): True

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
from types import SimpleNamespace

import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)
raw = torch.cat([torch.zeros(1, 8, 4), torch.full((1, 8, 4), 10.0)], -1)
processor = transformers.DPTImageProcessor()
depth = processor.post_process_depth_estimation(SimpleNamespace(predicted_depth=raw), [(32, 32)])[0]["predicted_depth"]
print(f"before: {raw.min():.2f} to {raw.max():.2f}")
print(f"after: {depth.min():.2f} to {depth.max():.2f}, negative {100 * (depth < 0).float().mean():.1f} % of pixels")
print(f"NaN in log(depth): {bool(torch.log(depth).isnan().any())}")
raise SystemExit(not (raw.min() >= 0 and depth.min() < -1 and depth.max() > 11))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
