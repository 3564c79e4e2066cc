#!/usr/bin/env bash
#
# Packages: timm 1.0.31, torch 2.14.1, torchvision 0.29.1
# Behavior: create_model("resnet18", features_only=True, out_indices=(4, 1)) returns the map of
#   layer 1 first and that of layer 4 second. feature_info.channels() and reduction() of the same
#   model list layer 4 first. With ascending indices both agree. forward_intermediates of a ViT
#   ignores the order of its indices as well and returns a repeated index once.
# Expected instead: The maps come in the order of out_indices, or at least in the order that
#   feature_info reports.
# Why it matters: Heads are built from feature_info.channels() and fed with zip(). For an order
#   from coarse to fine (the usual one of decoders) the channels do not fit, and where all widths
#   are equal (ViT) the layers are swapped without an error. Sort indices before the call.
# Output seen (CPython 3.11, Linux x86-64):
#   timm 1.0.31 torch 2.14.1+cu130
#   resnet18, out_indices (1, 4): maps have [64, 512] channels, feature_info says [64, 512]
#   resnet18, out_indices (4, 1): maps have [64, 512] channels, feature_info says [512, 64]
#   ViT, indices [3, 0] and [0, 3]: first map equal True; indices [3, 3]: 1 map

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        timm==1.0.31 torch==2.14.1 torchvision==0.29.1
fi

cat > "$work/probe.py" <<'PY'
import timm
import torch

print("timm", timm.__version__, "torch", torch.__version__)
torch.manual_seed(0)
image = torch.randn(1, 3, 64, 64)
ok = True
for indices in ((1, 4), (4, 1)):
    model = timm.create_model("resnet18", features_only=True, out_indices=indices).eval()
    with torch.no_grad():
        channels = [feature.shape[1] for feature in model(image)]
    print(f"resnet18, out_indices {indices}: maps have {channels} channels, feature_info says {model.feature_info.channels()}")
    ok &= channels == [64, 512] and (model.feature_info.channels() == channels) == (indices == (1, 4))
vit = timm.create_model("vit_tiny_patch16_224", depth=4, num_classes=0, img_size=64).eval()
with torch.no_grad():
    late_first = vit.forward_intermediates(image, indices=[3, 0], intermediates_only=True)
    early_first = vit.forward_intermediates(image, indices=[0, 3], intermediates_only=True)
    repeated = vit.forward_intermediates(image, indices=[3, 3], intermediates_only=True)
same = torch.equal(late_first[0], early_first[0])
print(f"ViT, indices [3, 0] and [0, 3]: first map equal {same}; indices [3, 3]: {len(repeated)} map")
raise SystemExit(not (ok and same and len(repeated) == 1))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
