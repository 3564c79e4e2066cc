#!/usr/bin/env bash
#
# Packages: open_clip_torch 3.3.0, torch 2.14.1, torchvision 0.29.1, numpy 2.4.6
# Behavior: open_clip.model.resize_pos_embed() takes the grid of the checkpoint as square. (a) 12
#   x 12 into 8 x 18 has equal token counts, so nothing is resampled and row-major positions land
#   on other places. (b) 8 x 18 into 8 x 16 is reshaped to 12 x 12 first and then resampled. Both
#   load with strict=True and without a warning. Positions that encode their own row and column
#   show how far each token is off.
# Expected instead: Resampling by grid shape, or an error when the checkpoint was trained on a
#   grid that is not square.
# Why it matters: Fine-tuning a square tower at a wide size of equal area, or resuming a wide
#   tower at another width, starts from scrambled positions. The loss recovers slowly, and nothing
#   points to the cause. Resample with the real source grid.
# Output seen (CPython 3.11, Linux x86-64):
#   open_clip 3.3.0 torch 2.14.1+cu130
#   (12, 12) -> (6, 6): untouched False, mean distance from the true place 0.004 of the image side
#   (12, 12) -> (8, 18): untouched True, mean distance from the true place 0.308 of the image side
#   (8, 18) -> (8, 16): untouched False, mean distance from the true place 0.256 of the image side

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        open_clip_torch==3.3.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import torch
import open_clip
from open_clip.model import CLIP, resize_pos_embed

print("open_clip", open_clip.__version__, "torch", torch.__version__)


def tower(height, width):
    vision = dict(layers=1, width=64, head_width=32, patch_size=8, image_size=(height * 8, width * 8))
    return CLIP(32, vision, dict(context_length=8, vocab_size=16, width=32, heads=2, layers=1))


def coordinates(height, width):
    row = (torch.arange(height) + 0.5) / height
    column = (torch.arange(width) + 0.5) / width
    return torch.stack(torch.meshgrid(row, column, indexing="ij"), -1).reshape(-1, 2)


key = "visual.positional_embedding"
errors = {}
for source, target in (((12, 12), (6, 6)), ((12, 12), (8, 18)), ((8, 18), (8, 16))):
    state = tower(*source).state_dict()
    state[key] = torch.zeros_like(state[key])
    state[key][1:, :2] = coordinates(*source)
    before = state[key].clone()
    model = tower(*target)
    resize_pos_embed(state, model)
    model.load_state_dict(state, strict=True)
    offset = (state[key][1:, :2] - coordinates(*target)).norm(dim=1).mean().item()
    untouched = state[key].shape == before.shape and torch.equal(state[key], before)
    errors[source, target] = offset
    print(f"{source} -> {target}: untouched {untouched}, mean distance from the true place {offset:.3f} of the image side")
good, *bad = errors.values()
raise SystemExit(not (good < 0.02 and min(bad) > 0.1))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
