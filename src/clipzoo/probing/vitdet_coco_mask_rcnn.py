"""Mask R-CNN of ViTDet on COCO, with the encoder fine-tuned: 100 epochs of 64 crops of 1024."""

from dataclasses import replace

from clipzoo.probing.base import Detector
from clipzoo.probing.paper_coco_mask_rcnn import PRESET as FROZEN

PRESET = replace(
    FROZEN,
    source="Li et al., Exploring Plain Vision Transformer Backbones for Object Detection (arXiv 2203.16527)",
    batch=64,
    steps=None,
    epochs=100,
    weight_decay=0.1,
    warmup=250,
    long_side=(102, 2048),
    detector=Detector("mask-rcnn", tuned=True),
    deviations=(
        "attention is global in all blocks",
        "one learning rate for all layers, without stochastic depth; it falls as a cosine",
        "heads of torchvision, without layer norm and with two linear layers for boxes",
        "maps are taken after the encoder's final norm",
        "crowds are background in training",
    ),
)
