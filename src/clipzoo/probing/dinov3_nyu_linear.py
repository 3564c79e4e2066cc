"""Linear depth probe of DINOv3 on NYU Depth v2: 256 bins, SigLoss, 38,400 steps of 16 crops of 416×544."""

from clipzoo.probing.base import Bins, Preset

PRESET = Preset(
    task="depth",
    source="Siméoni et al., DINOv3 (arXiv 2508.10104), depth with a linear head on NYU Depth v2",
    crop=(416, 544),
    batch=16,
    steps=38_400,
    rate=3e-4,
    weight_decay=1e-4,
    warmup=0.1,
    norm=True,
    batch_norm=True,
    short_side=(480, 480),
    loss="silog",
    bins=Bins(),
    test="whole",
    test_size=(480, 640),
    flip_average=True,
    deviations=("pictures are not rotated or distorted in color", "the loss is the root of SigLoss averaged by image"),
)
