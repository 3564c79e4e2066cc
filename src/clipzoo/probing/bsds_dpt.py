"""Edge probe on BSDS500: DPT on four layers of the frozen encoder, tested by the protocol of BSDS500."""

from clipzoo.probing.base import FOUR, Preset

PRESET = Preset(
    task="edges",
    source="clipzoo's choice: no protocol for frozen encoders is in common use; tested as BSDS500 (PAMI 2011)",
    crop=(320, 320),
    batch=8,
    steps=10_000,
    rate=5e-4,
    weight_decay=0.01,
    warmup=500,
    head="dpt",
    head_options={"width": 256},
    layers=FOUR,
    short_side=(320, 640),
    test="slide",
    stride=(160, 160),
    test_short=320,
    metrics=("bsds",),
    deviations=("the truth of training is the mean of the annotators", "tested at one scale"),
)
