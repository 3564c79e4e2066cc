#!/usr/bin/env bash
#
# Packages: torchmetrics 1.9.0, pycocotools 2.0.11, faster-coco-eval 1.8.0, torch 2.14.1,
#   torchvision 0.29.1
# Behavior: With thresholds that do not contain 100, the overall "map" is -1 on the pycocotools
#   backend, because pycocotools computes it for 100 detections only. map_50, map_75 and the
#   recalls are right. The faster_coco_eval backend returns the value. With a single custom IoU
#   threshold, both give map and set map_50 and map_75 to -1.
# Expected instead: The same number from both backends, or an error for thresholds that are not
#   supported.
# Why it matters: Dense scenes need more than 100 detections. A best-checkpoint rule or a table
#   that reads "map" gets -1 for every epoch after a change of backend, while all other figures
#   look right.
# Output seen (CPython 3.11, Linux x86-64):
#   torchmetrics 1.9.0 pycocotools 2.0.11 faster-coco-eval 1.8.0
#   [1, 10, 100] pycocotools: map 1.0, map_50 1.0
#   [1, 10, 100] faster_coco_eval: map 1.0, map_50 1.0
#   [1, 10, 300] pycocotools: map -1.0, map_50 1.0
#   [1, 10, 300] faster_coco_eval: map 1.0, map_50 1.0
#   iou_thresholds [0.6] pycocotools: map 1.0, map_50 -1.0
#   iou_thresholds [0.6] faster_coco_eval: map 1.0, map_50 -1.0

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        torchmetrics==1.9.0 pycocotools==2.0.11 faster-coco-eval==1.8.0 torch==2.14.1 \
        torchvision==0.29.1
fi

cat > "$work/probe.py" <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.detection import MeanAveragePrecision

print("torchmetrics", version("torchmetrics"), "pycocotools", version("pycocotools"), "faster-coco-eval", version("faster-coco-eval"))
box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
label = torch.tensor([0])
seen = []
for thresholds in ([1, 10, 100], [1, 10, 300]):
    for backend in ("pycocotools", "faster_coco_eval"):
        metric = MeanAveragePrecision(backend=backend, max_detection_thresholds=thresholds)
        metric.update([dict(boxes=box, scores=torch.tensor([0.9]), labels=label)], [dict(boxes=box, labels=label)])
        result = metric.compute()
        pair = (result["map"].item(), result["map_50"].item())
        print(f"{thresholds} {backend}: map {pair[0]}, map_50 {pair[1]}")
        seen.append(pair)
for backend in ("pycocotools", "faster_coco_eval"):
    metric = MeanAveragePrecision(backend=backend, iou_thresholds=[0.6])
    metric.update([dict(boxes=box, scores=torch.tensor([0.9]), labels=label)], [dict(boxes=box, labels=label)])
    result = metric.compute()
    pair = (result["map"].item(), result["map_50"].item())
    print(f"iou_thresholds [0.6] {backend}: map {pair[0]}, map_50 {pair[1]}")
    seen.append(pair)
raise SystemExit(seen != [(1, 1), (1, 1), (-1, 1), (1, 1), (1, -1), (1, -1)])
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
