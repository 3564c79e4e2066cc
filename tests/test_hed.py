"""The example of a real edge expert: its network and conversion always, its weights where they were fetched."""

from __future__ import annotations

import importlib
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clipzoo import experts, tasks
from clipzoo.errors import ExpertError
from clipzoo.labeling import label
from clipzoo.tasks import Convention
from clipzoo.tasks.edges import Edges
from making import image, make_dataset

FOLDER = Path(__file__).parents[1] / "examples" / "hed"


@pytest.fixture
def hed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("hed")


@pytest.fixture
def random_weights(hed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    monkeypatch.setattr(hed, "WEIGHTS", tmp_path / "hed.safetensors")
    save_file(hed.Network().state_dict(), tmp_path / "hed.safetensors")
    return tmp_path


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (1, 1)])
def test_side_outputs_have_the_pictures_size_and_are_fused(hed: ModuleType, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = hed.Network().eval()
    with torch.no_grad():
        *sides, fused = network(50 * torch.randn(2, 3, *size))
    assert [tuple(side.shape) for side in sides] == [(2, 1, *size)] * 5
    weight, bias = network.fuse.weight[0, :, 0, 0].tolist(), network.fuse.bias.item()
    torch.testing.assert_close(fused, sum(w * side for w, side in zip(weight, sides, strict=True)) + bias)
    assert sum(p.numel() for p in network.parameters()) == 14_714_688 + 1_477 + 6  # VGG-16, sides, fusion


def test_it_labels_a_dataset_by_its_uri(hed: ModuleType, random_weights: Path, tmp_path: Path) -> None:
    (report,) = label(
        str(make_dataset(tmp_path / "data", shards=1)), ["python:hed:HED"], tmp_path / "out", progress=False
    )
    assert (report.task, report.slug, report.labels, report.failures) == ("edges", "python-hed-HED", 6, 0)


def test_a_label_is_the_sigmoid_of_the_fusion_of_a_picture_less_the_mean(
    hed: ModuleType, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = hed.HED()
    with pytest.raises(ExpertError, match="not loaded"):
        expert.predict([image(0)])
    expert.load()
    pictures = [image(i, (20, 33)) for i in range(2)]
    bgr = torch.tensor(pictures[1][..., ::-1] - np.array([104.00699, 116.66877, 122.67892]), dtype=torch.float32)
    with torch.inference_mode():
        by_hand = expert.network(bgr.permute(2, 0, 1)[None])[-1].sigmoid()[0, 0].numpy()
    found = expert.predict(pictures)[1]
    np.testing.assert_allclose(found.values, by_hand, atol=1e-5)
    tasks.get("edges").check(found, expert.card.convention)
    monkeypatch.setattr(hed, "LONGEST", 11)
    assert expert.predict(pictures)[0].values.shape == (7, 11)


def test_without_weights_it_says_how_to_get_them(hed: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hed, "WEIGHTS", tmp_path / "none")
    with pytest.raises(ExpertError, match=r"fetch\.py hed` once"):
        experts.create("python:hed:HED")


def test_kernels_of_keras_become_those_of_torch(hed: ModuleType, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    layers = [(f"dsn{i + 1}", (1, 1, block[-1], 1)) for i, block in enumerate(hed.BLOCKS)] + [("fuse", (1, 1, 5, 1))]
    for i, block in enumerate(hed.BLOCKS):
        names = ["conv2d", "conv2d_1", "conv2d_2"]
        shapes = [(3, 3, a, b) for a, b in pairwise(block)]
        layers += [(f"block{i + 1}/layers/{name}", shape) for name, shape in zip(names, shapes, strict=False)]
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        for name, shape in layers:
            file[f"{name}/vars/0"] = rng.normal(size=shape).astype(np.float32)
            file[f"{name}/vars/1"] = rng.normal(size=shape[-1:]).astype(np.float32)
        network = hed.Network()
        network.load_state_dict(hed.converted(file))
        kernel, bias = (file[f"block1/layers/conv2d/vars/{k}"][()] for k in (0, 1))
    patch = rng.normal(size=(3, 3, 3)).astype(np.float32)  # [h,w,in]
    with torch.inference_mode():
        middle = network.blocks[0][0](torch.from_numpy(patch).permute(2, 0, 1)[None])[0, :, 1, 1]
    np.testing.assert_allclose(middle, np.einsum("hwi,hwio->o", patch, kernel) + bias, rtol=1e-4, atol=1e-4)


def test_the_real_weights_find_the_outline_of_a_shape(hed: ModuleType) -> None:
    if not hed.WEIGHTS.is_file():
        pytest.skip("no weights here: make experts")
    expert = hed.HED()
    expert.load()
    y, x = np.mgrid[:96, :128]
    shape = torch.from_numpy((np.hypot(y - 50, x - 60) < 30).astype(np.float32))
    picture = np.random.default_rng(0).normal(np.where(shape[..., None] > 0, (200, 60, 40), (60, 110, 160)), 6)
    outline = (F.max_pool2d(shape[None, None], 3, 1, 1)[0, 0] - shape).numpy()
    metric = tasks.get("edges").metric(Convention())
    (found,) = expert.predict([np.clip(picture, 0, 255).astype(np.uint8)])
    truth = Edges(outline, np.ones(outline.shape, bool))
    assert metric.compute(metric.statistics(found, truth))["ap"] > 0.75, "a pixel off in places"
    assert found.values[outline > 0].mean() > 0.6
    assert found.values[45:55, 55:65].max() < 0.2
