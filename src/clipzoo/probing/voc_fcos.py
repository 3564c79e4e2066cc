"""Detection probe on PASCAL VOC: torchvision's FCOS on a simple feature pyramid of the frozen encoder."""

from clipzoo.probing.base import Detector, Preset

PRESET = Preset(
    task="detection",
    version=2,
    source="clipzoo's choice: FCOS (arXiv 1904.01355) on ViTDet's pyramid (arXiv 2203.16527); VOC's official AP50",
    crop=(512, 512),
    batch=16,
    steps=20_000,
    rate=2e-4,
    weight_decay=0.05,
    warmup=500,
    norm=True,
    long_side=(256, 1024),
    test="pad",
    detector=Detector("fcos"),
    metrics=("voc",),
    deviations=("difficult objects are background in training", "at most 100 boxes per picture, also for VOC's AP50"),
)
