#!/usr/bin/env bash
#
# Packages: torchmetrics 1.9.0, torch 2.14.1
# Behavior: segmentation.MeanIoU averages over images, so a class that covers one pixel of one
#   image weighs as much as a class that fills it. MulticlassJaccardIndex (macro) pools the set
#   and leaves out classes that occur neither in target nor in prediction. With average="none" the
#   same metric reports 0.0 for such a class, the same as for a class that was always missed, so
#   its mean is lower than macro. MeanIoU has no ignore_index and raises on label 255.
# Expected instead: mIoU is one number: intersections and unions pooled over the set, and the mean
#   of the per-class values equals the macro value.
# Why it matters: Papers report the pooled number. On small validation sets with absent classes
#   the three differ by tens of points, and a per-class table contradicts its own mean. State
#   which one is reported.
# Output seen (CPython 3.11, Linux x86-64):
#   torchmetrics 1.9.0 torch 2.14.1+cu130
#   MeanIoU 0.634, MulticlassJaccardIndex 0.837, mean of average='none' 0.628
#   average='none': [0.8, 0.727, 0.984, 0.0]
#   MeanIoU with label 255: Class values must be smaller than num_classes.

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        torchmetrics==1.9.0 torch==2.14.1
fi

cat > "$work/probe.py" <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

print("torchmetrics", version("torchmetrics"), "torch", torch.__version__)
target = torch.zeros(2, 8, 8, dtype=torch.long)
target[0, :, :4] = 1
target[1] = 2
target[1, 0, 0] = 1
prediction = target.clone()
prediction[1, 0, 0] = 2
prediction[0, :2] = 0
# Class 3 occurs in neither.
per_image = MeanIoU(num_classes=4, input_format="index")
pooled = MulticlassJaccardIndex(num_classes=4)
per_class = MulticlassJaccardIndex(num_classes=4, average="none")
for metric in (per_image, pooled, per_class):
    metric.update(prediction, target)
a, b, c = per_image.compute().item(), pooled.compute().item(), per_class.compute()
print(f"MeanIoU {a:.3f}, MulticlassJaccardIndex {b:.3f}, mean of average='none' {c.mean():.3f}")
print("average='none':", [round(v, 3) for v in c.tolist()])
target[0, 0] = 255
try:
    MeanIoU(num_classes=4, input_format="index").update(prediction, target)
    raised = False
except RuntimeError as error:
    raised = True
    print("MeanIoU with label 255:", error)
raise SystemExit(not (abs(a - 0.634) < 0.001 and abs(b - 0.837) < 0.001 and abs(c.mean() - 0.628) < 0.001 and raised))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
