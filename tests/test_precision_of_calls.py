"""Precision of experts that call their model by another method than ``forward``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

import hf_newer
from clipzoo import experts
from clipzoo.experts.base import Expert
from clipzoo.labeling import Tuning


def types_inside(module: nn.Module) -> set[torch.dtype]:
    """Types of the outputs of linear layers, filled when they run."""
    seen: set[torch.dtype] = set()

    def note(layer: nn.Module, given: object, output: Tensor) -> None:
        seen.add(output.dtype)

    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(note)
    return seen


def vit(folder: Path) -> Expert:
    torch.manual_seed(0)
    tiny = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, **tiny).eval()
    save_for_hf(model, folder, model_args={"img_size": 32, **tiny}, safe_serialization=True)
    expert = experts.create(f"timm:local-dir:{folder}?size=32")
    expert.load()
    return expert


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_features_of_timm_have_the_precision(tmp_path: Path, precision: str, inside: torch.dtype) -> None:
    expert = vit(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (before,) = expert.predict([pixels])
    seen = types_inside(expert.module)
    Tuning(precision).tune(expert, "cpu")
    (after,) = expert.predict([pixels])
    assert seen == {inside}
    assert after.vectors.dtype == np.float32
    assert np.abs(after.vectors - before.vectors).max() < 0.05


def test_timm_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda call: compiled.append(call.__name__) or call)
    Tuning(compile=True).tune(vit(tmp_path), "cpu")
    assert compiled == ["forward_intermediates"]


def test_sam3_encodes_images_with_the_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for part in hf_newer.sam3():
        part.save_pretrained(tmp_path)
    expert = experts.create(f"hf:{tmp_path}?classes=cat,dog")
    expert.load()
    assert expert.module is not None
    seen = types_inside(expert.module.vision_encoder)
    Tuning("bf16").tune(expert, "cpu")
    assert len(expert.predict([np.zeros((40, 50, 3), np.uint8)])) == 1
    assert seen == {torch.bfloat16}
