"""Depth probe of Probe3D on NYU Depth v2: DPT of width 512 on four layers, 10 epochs of batches of 8 center crops."""

from clipzoo.probing.base import FOUR, Bins, Preset

TRAINING = (
    "the DPT head is that of clipzoo, with bilinear resampling",
    "10 epochs are those of the pictures of --probe: 994 steps of the 795 in NYU's labeled file. The source trains on "
    "the 30,816 of NYU-GeoNet, 38,520 steps: compare with its figures only with --steps 38520",
    "pictures are flipped; the source changes colors and half of the crops instead",
)
"""Differences of both presets of Probe3D."""

PRESET = Preset(
    task="depth",
    source="El Banani et al., Probing the 3D Awareness of Visual Foundation Models (arXiv 2404.08636)",
    crop=(480, 480),
    batch=8,
    epochs=10,
    rate=5e-4,
    weight_decay=0.01,
    warmup=0.15,
    head="dpt",
    head_options={"width": 512},
    layers=FOUR,
    flip=0.5,
    loss="silog",
    loss_weight=10.0,
    gradient=0.5,
    bins=Bins(),
    test="center",
    aligned=True,
    deviations=(
        *TRAINING,
        "the root of SILog is that of each picture, not of the batch",
        "aligned scores fit a scale ≥ 0 and a shift by least squares, clipped to half the smallest and twice the "
        "largest true depth",
        "the source scores the whole center crop: give crop=none to nyu:",
    ),
)
