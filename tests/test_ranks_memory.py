"""The estimate of a training step's memory against the peak that was measured on the CPU."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from clipzoo.data import Batch
from clipzoo.recipe import TrainingRecipe
from clipzoo.training.memory import estimate
from clipzoo.training.processes import ranks
from forking import on_ranks
from test_ranks import VIT, Updates, batch, variant

pytestmark = pytest.mark.ranks

FACTOR = (0.8, 1.5)
"""Smallest and largest measured peak, relative to the estimate."""
IMAGES = 96


@pytest.fixture(scope="module")
def model(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ViT with 20 M weights, whose memory is large beside that of the interpreter's own."""
    vision = {**VIT, "layers": 6, "width": 448, "head_width": 64}
    return variant(tiny_clip, tmp_path_factory.mktemp("model") / "vit", vision)


def status(name: str) -> int:
    """Bytes of a field of this process's status."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def repeated(one: Batch, count: int) -> Batch:
    """A batch of ``count`` images."""

    def more(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value] * (count // len(value) + 1))[:count].clone()

    targets = {column: {k: more(v) for k, v in target.items()} for column, target in one.targets.items()}
    captions = [f"picture {i}" for i in range(count)]
    return Batch(more(one.images), more(one.tokens), captions, targets, [], {"": (0, count)})


def peak(small: str, model: str, **settings: object) -> int:
    """Bytes that two updates add to the memory of this process, in which a small student was trained before."""
    warm = Updates(small)
    warm.updater.update(batch(warm.student, slice(0, 12)), 0)
    before = status("VmRSS")
    updates = Updates(model, batch_size=IMAGES, **settings)
    part = repeated(batch(updates.student, slice(0, 12)), IMAGES // ranks.world_size())
    updater = updates.updater
    Path("/proc/self/clear_refs").write_text("5")
    for step in range(2):
        updater.update(part, step)
    return status("VmHWM") - before


def estimated(model: str, processes: int, **settings: object) -> int:
    student = Updates(model).student
    recipe = TrainingRecipe.model_validate({"steps": 4, "batch_size": IMAGES, **settings})
    return estimate(student, dict.fromkeys(student.specs, 2), recipe, processes).total


@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (1, {}),
        pytest.param(1, {"ema": 0.9, "anchors": {"embedding": 1.0}}, marks=pytest.mark.slow),
        pytest.param(1, {"activation_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param(1, {"accumulate": 4}, marks=pytest.mark.slow),
        pytest.param(2, {"sharding": "ddp"}, marks=pytest.mark.slow),
        pytest.param(2, {"sharding": "fsdp2"}, marks=pytest.mark.slow),
    ],
)
def test_the_measured_peak_is_near_the_estimate(
    tiny_clip: str, model: str, processes: int, settings: dict[str, Any]
) -> None:
    measured = on_ranks(processes, partial(peak, tiny_clip, model, **settings))[-1]  # rank 0 of FSDP2 has a copy
    expected = estimated(model, processes, **settings)
    print(f"{processes} {settings}: measured {measured / 1e6:.0f} MB, estimated {expected / 1e6:.0f} MB")
    assert FACTOR[0] < measured / expected < FACTOR[1]
