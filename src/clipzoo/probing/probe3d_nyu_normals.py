"""Normals probe of Probe3D on NYU Depth v2: DPT of width 512 on four layers, uncertainty-weighted angular loss."""

from dataclasses import replace

from clipzoo.probing.probe3d_nyu_depth import PRESET as DEPTH
from clipzoo.probing.probe3d_nyu_depth import TRAINING

PRESET = replace(
    DEPTH,
    task="normals",
    loss="angmf",
    loss_weight=1.0,
    gradient=0.0,
    bins=None,
    aligned=False,
    version=2,
    metrics=("images",),
    deviations=TRAINING,
)
