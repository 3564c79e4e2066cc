"""Depth probe of Probe3D on NYU Depth v2: DPT of width 512 on four layers, 10 epochs of batches of 8 center crops."""

from clipzoo.probing.base import FOUR, Bins, Preset

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
        "the DPT head is that of clipzoo, with bilinear resampling",
        "aligned scores fit scale and shift by least squares to each picture's depth",
    ),
)
