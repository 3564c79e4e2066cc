"""Segmentation probe with torchvision's DeepLabV3 head on PASCAL VOC."""

from dataclasses import replace

from clipzoo.probing.paper_voc_psp import PRESET as PSP

PRESET = replace(
    PSP,
    source="clipzoo's choice: the head of arXiv 1706.05587 on a frozen encoder",
    head="deeplabv3",
    deviations=("group norm replaces batch norm in the head, without dropout",),
)
