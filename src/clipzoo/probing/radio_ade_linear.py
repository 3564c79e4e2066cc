"""Linear segmentation probe of RADIO on ADE20K: BN and a 1×1 convolution, crops of 518, 80,000 steps of 16."""

from clipzoo.probing.base import Preset

PRESET = Preset(
    task="segmentation",
    source="Ranzinger et al., AM-RADIO (arXiv 2312.06709) and its successors, linear probe on ADE20K",
    crop=(518, 518),
    batch=16,
    steps=80_000,
    rate=1e-3,
    weight_decay=0.0,
    warmup=1500,
    batch_norm=True,
    short_side=(259, 1036),
    test="slide",
    stride=(345, 345),
    test_short=518,
    deviations=(
        "tests slide windows of 518 over the picture, instead of one input of any aspect at short side 512",
        "pictures are not distorted in color",
    ),
)
