"""Linear segmentation probe of DINOv3 on ADE20K: one layer, BN and a 1×1 convolution, 40,000 steps of 16 crops."""

from clipzoo.probing.base import Preset

PRESET = Preset(
    task="segmentation",
    source="Siméoni et al., DINOv3 (arXiv 2508.10104), segmentation with a linear head on ADE20K",
    crop=(512, 512),
    batch=16,
    steps=40_000,
    rate=1e-3,
    weight_decay=1e-3,
    warmup=1500,
    norm=True,
    batch_norm=True,
    short_side=(256, 1024),
    test="slide",
    stride=(341, 341),
    test_short=512,
    deviations=("pictures are not distorted in color", "the rate falls as a cosine after the warm-up"),
)
