#!/usr/bin/env bash
# transformers 5.24.0: post-processing of DETR and its kin ignores a fixed pad_size, so boxes and masks are misplaced.
#
# Behavior: a processor saved with do_pad and pad_size resizes a picture and pads it below and to the right to the fixed
# canvas. Boxes that the model gives are shares of that canvas: the same processor scales the boxes of training to it
# (_update_annotation_for_padded_image). post_process_object_detection(target_sizes=[(height, width)]) multiplies them by
# the size of the picture all the same. DETR, YOLOS, Conditional and Deformable DETR, RT-DETR do so; the masks of
# Mask2Former and MaskFormer are stretched from the canvas over the picture in the same way.
#
# Seen: of a picture of 480×640 on a canvas of 640×640, an object annotated at 320 240 640 480 comes back from its own
# training target, the best output there can be, as 320 180 640 360, without a warning.
#
# Why it matters: labels, measurements and drawings of models fine-tuned with pad_size are misplaced, the more the longer
# the picture, and square pictures show nothing of it. A good engineer expects the inverse of the preprocessing, since
# the panoptic function of EoMT's processor cuts padding off. Passing the size of the whole canvas at the picture's scale
# as target_sizes, and clipping, gives the right boxes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet transformers==5.24.0 torch==2.14.1 torchvision pillow numpy scipy
fi
"$python" - <<'PYTHON'
import sys

import torch
import transformers as t
from PIL import Image

picture, true = Image.new("RGB", (640, 480), (120, 90, 60)), [320, 240, 640, 480]
x0, y0, x1, y1 = true
annotation = {"image_id": 0, "annotations": [
    {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "category_id": 1, "iscrowd": 0}]}
canvas = {"height": 640, "width": 640}
names = ("Detr", "ConditionalDetr", "DeformableDetr", "Yolos", "RTDetr")
seen = {}
for name in names:
    kind = getattr(t, f"{name}ImageProcessor")
    processor = kind(size={"shortest_edge": 480, "longest_edge": 640}, do_pad=True, pad_size=canvas)
    inputs = processor(images=picture, annotations=annotation, return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (640, 640), name
    logits = torch.full((1, 1, 3), -9.0)
    logits[0, 0, 1] = 9.0
    perfect = t.models.detr.modeling_detr.DetrObjectDetectionOutput(
        logits=logits, pred_boxes=inputs["labels"][0]["boxes"][None])
    (found,) = processor.post_process_object_detection(perfect, threshold=0.5, target_sizes=[(480, 640)])
    seen[name] = [round(value) for value in found["boxes"][0].tolist()]
    print(f"{name}: annotated {true}, post-processed {seen[name]}")

from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

processor = t.Mask2FormerImageProcessor(size={"shortest_edge": 480, "longest_edge": 640}, pad_size=canvas)
masks = torch.full((1, 2, 160, 160), -9.0)
masks[0, 0, 60:120, 80:160] = 9.0  # the object on the canvas, at a quarter of its size
masks[0, 1] = -masks[0, 0]
logits = torch.full((1, 2, 3), -9.0)
logits[0, 0, 1], logits[0, 1, 0] = 9.0, 8.0
output = Mask2FormerForUniversalSegmentationOutput(class_queries_logits=logits, masks_queries_logits=masks)
(ids,) = processor.post_process_semantic_segmentation(output, target_sizes=[(480, 640)])
rows = (ids == 1).any(1).nonzero()[:, 0]
print(f"Mask2Former: object in the rows 240 to 480, post-processed rows {rows[0].item()} to {rows[-1].item() + 1}")

same = all(box == [320, 180, 640, 360] for box in seen.values())
same = same and abs(rows[0].item() - 180) <= 2 and abs(rows[-1].item() + 1 - 360) <= 2
sys.exit(0 if same else "the behavior has changed")
PYTHON
