"""Normals probe of Probe3D on NYU Depth v2: DPT of width 512 on four layers, uncertainty-weighted angular loss."""

from clipzoo.probing.base import FOUR, Preset

PRESET = Preset(
    task="normals",
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
    loss="angmf",
    test="center",
    deviations=("the DPT head is that of clipzoo, with bilinear resampling",),
)
