#!/usr/bin/env bash
# transformers 5.24.0: panoptic post-processing gives pixels that no mask claims to a segment.
#
# Behavior: post_process_panoptic_segmentation of MaskFormer, Mask2Former, OneFormer and DETR assigns each pixel to the
# query with the largest score × mask probability, and keeps that assignment for every query that becomes a segment.
# Only the test whether a segment exists looks at mask_threshold; pixels below it stay in the segment. EoMT's
# function of the same name intersects both, as the code of the MaskFormer and Mask2Former papers does
# (mask = (ids == k) & (mask_k >= 0.5)), and leaves such pixels unassigned.
#
# Seen: one sure query whose mask holds a quarter of the picture (probability 0.99995) and has 0.00005 elsewhere. Four of
# the processors give it the whole picture; EoMT gives it the quarter and says -1 elsewhere.
#
# Why it matters: pseudo-labels have classes where the model said nothing, void is never produced, boxes around segments
# grow to the picture, and panoptic quality falls for another reason than the model. mask_threshold reads as if it
# bounded this, and it does not.
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
from transformers.models.detr.modeling_detr import DetrSegmentationOutput
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

t.utils.logging.set_verbosity_error()
logits = torch.full((1, 2, 4), -9.0)  # three classes and "no object"
logits[0, 0, 1], logits[0, 1, 3] = 9.0, 9.0
masks = torch.full((1, 2, 64, 64), -9.9)
masks[0, 0, 32:, 32:] = 9.9
print(f"mask probabilities: {masks[0, 0].sigmoid().min():.5f} and {masks[0, 0].sigmoid().max():.5f}")

universal = Mask2FormerForUniversalSegmentationOutput(class_queries_logits=logits, masks_queries_logits=masks)
detr = DetrSegmentationOutput(logits=logits, pred_masks=masks)
processors = {
    "MaskFormer": (t.MaskFormerImageProcessor(), universal), "Mask2Former": (t.Mask2FormerImageProcessor(), universal),
    "OneFormer": (t.OneFormerImageProcessor(), universal), "DETR": (t.DetrImageProcessor(), detr),
    "EoMT": (t.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True), universal),
}
shares = {}
for name, (processor, output) in processors.items():
    (found,) = processor.post_process_panoptic_segmentation(output, threshold=0.5, mask_threshold=0.5, target_sizes=[(64, 64)])
    (segment,) = found["segments_info"]
    shares[name] = (found["segmentation"] == segment["id"]).float().mean().item()
    print(f"{name}: the segment covers {shares[name]:.0%} of the picture, its mask 25%")
eomt = shares.pop("EoMT")
same = all(share == 1 for share in shares.values()) and abs(eomt - 0.25) < 0.02
sys.exit(0 if same else "the behavior has changed")
PYTHON
