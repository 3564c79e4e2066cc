#!/usr/bin/env bash
#
# Packages: open_clip_torch 3.3.0, transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, pillow
#   13.0.0, numpy 2.4.6
# Behavior: The transform of open_clip.image_transform() is Resize, CenterCrop, conversion to RGB.
#   Pillow resizes the modes P and 1 with nearest neighbor whatever filter is asked for, and says
#   nothing. A palette PNG therefore reaches the model aliased, a 1-bit drawing even more
#   so. CLIPImageProcessor converts first. image.convert("RGB") before the transform fixes it.
# Expected instead: The file mode does not matter: the image is bicubic-resized, as the printed
#   transform says.
# Why it matters: Zero-shot evaluation and labeling of sets with palette PNGs or scanned
#   line art give other embeddings than the same images as JPEG, and other ones than training
#   through webdataset, which decodes to RGB first.
# Output seen (CPython 3.11, Linux x86-64):
#   open_clip 3.3.0 transformers 5.24.0 pillow 13.0.0
#   mode L, against convert('RGB') first: OpenCLIP mean 0.0, largest 0; CLIPImageProcessor mean 0.0, largest 1
#   mode P, against convert('RGB') first: OpenCLIP mean 7.5, largest 73; CLIPImageProcessor mean 0.0, largest 1
#   mode 1, against convert('RGB') first: OpenCLIP mean 112.7, largest 222; CLIPImageProcessor mean 0.0, largest 2

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        open_clip_torch==3.3.0 transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 \
        pillow==13.0.0 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import numpy as np
import open_clip
import torch
import transformers
from PIL import Image

print("open_clip", open_clip.__version__, "transformers", transformers.__version__, "pillow", Image.__version__)
noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
photo = Image.fromarray(noise).resize((640, 480), Image.BICUBIC)
first = open_clip.image_transform(224, is_train=False)
second = transformers.CLIPImageProcessor()
levels = 255 * torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
ok = True
for mode, image in (("L", photo.convert("L")), ("P", photo.quantize(64)), ("1", photo.convert("1"))):
    reference = first(image.convert("RGB"))
    a = ((first(image) - reference) * levels).abs()
    b = ((second(image, return_tensors="pt")["pixel_values"][0] - reference) * levels).abs()
    print(f"mode {mode}, against convert('RGB') first: OpenCLIP mean {a.mean():.1f}, largest {a.max():.0f}; "
          f"CLIPImageProcessor mean {b.mean():.1f}, largest {b.max():.0f}")
    ok &= b.max().item() < 3 and ((a.max().item() == 0) if mode == "L" else (a.max().item() > 30))
raise SystemExit(not ok)
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
