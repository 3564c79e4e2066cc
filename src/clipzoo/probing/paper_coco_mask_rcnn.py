"""Detection and instance segmentation on COCO with Mask R-CNN, which CLIPTeX reports without its settings."""

from dataclasses import replace

from clipzoo.probing.base import Detector
from clipzoo.probing.coco_fcos import PRESET as FCOS

PRESET = replace(
    FCOS,
    source="clipzoo's choice: arXiv 2310.14108 names Mask R-CNN on COCO without its settings; ViTDet's pyramid",
    crop=(1024, 1024),
    rate=1e-4,
    long_side=(512, 2048),
    detector=Detector("mask-rcnn"),
    metrics=("masks",),
)
