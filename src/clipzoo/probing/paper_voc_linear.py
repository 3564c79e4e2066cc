"""Linear segmentation probe on PASCAL VOC, of the kind that CLIPTeX reports; its settings are not published."""

from clipzoo.probing.base import Preset

PRESET = Preset(
    task="segmentation",
    source="clipzoo's choice: arXiv 2310.14108 names linear probes on PASCAL VOC without their settings",
    crop=(512, 512),
    batch=16,
    steps=20_000,
    rate=1e-3,
    weight_decay=1e-3,
    warmup=1000,
    norm=True,
    batch_norm=True,
    short_side=(256, 1024),
    test="slide",
    stride=(341, 341),
    test_short=512,
)
