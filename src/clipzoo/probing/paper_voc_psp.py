"""Segmentation probe with pyramid pooling on PASCAL VOC, which CLIPTeX reports without its settings."""

from dataclasses import replace

from clipzoo.probing.paper_voc_linear import PRESET as LINEAR

PRESET = replace(
    LINEAR,
    source="clipzoo's choice: arXiv 2310.14108 names PSPNet on PASCAL VOC without its settings",
    rate=2e-4,
    head="psp",
    batch_norm=False,
)
