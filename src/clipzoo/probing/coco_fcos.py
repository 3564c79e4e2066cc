"""Detection probe on COCO: torchvision's FCOS on a simple feature pyramid of the frozen encoder."""

from dataclasses import replace

from clipzoo.probing.voc_fcos import PRESET as VOC

PRESET = replace(
    VOC,
    source="clipzoo's choice: FCOS (arXiv 1904.01355) on ViTDet's pyramid (arXiv 2203.16527); COCO's AP",
    crop=(768, 768),
    steps=90_000,
    warmup=1000,
    long_side=(384, 1536),
    metrics=(),
    deviations=("crowds are background in training",),
)
