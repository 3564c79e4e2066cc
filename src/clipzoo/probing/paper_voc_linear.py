"""Linear segmentation probe on PASCAL VOC, of the kind that CLIPTeX reports; its settings are not published."""

from dataclasses import replace

from clipzoo.probing.dinov3_ade_linear import PRESET as DINOV3

PRESET = replace(
    DINOV3,
    source="clipzoo's choice: arXiv 2310.14108 names linear probes on PASCAL VOC without their settings",
    steps=20_000,
    warmup=1000,
    deviations=(),
)
