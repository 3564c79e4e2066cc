"""Online columns on several processes: each labels its own pictures, and the numbers are those of one process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipzoo import experts, recipe
from clipzoo.experts import Expert, ExpertCard
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.training import Training, read_log, train
from clipzoo.training.health import read_supervision
from clipzoo.training.processes import ranks
from clipzoo.types import ImageArray
from forking import ended, on_ranks
from test_features import saved
from test_online import Failing, job, values
from test_ranks_cli import clipzoo, ran

pytestmark = pytest.mark.ranks

STEPS = 8


class Bright(Expert):
    """Metric depth of the bright half of the pixels of each picture, so that pictures count unequally in the loss."""

    card = ExpertCard("python:test:Bright", "depth", Convention(kind="metric", along="z"), name="bright")
    batch_size = 5

    def load(self, device: str = "cpu") -> None:
        torch.randn(1 + ranks.rank())

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        gray = [image.mean(-1) for image in images]
        return [Depth(1 + one.astype(np.float32) / 50, one > one.mean(), "metric", "z") for one in gray]


def trained(make: partial[Training]) -> list[str]:
    """Train; the keys of the samples that this rank's expert labeled."""
    training, keys = make(), list[str]()
    (column,) = training.dataset.online.values()
    label = column._labels
    object.__setattr__(column, "_labels", lambda samples: (keys.extend(one.key for one in samples), label(samples))[1])
    train(training)
    return keys


def logged(out: Path) -> list[dict[str, float]]:
    return [line for line in read_log(out) if "loss" in line]


def assert_equal_trainings(ours: Path, theirs: Path, steps: int = STEPS) -> None:
    """Every logged term agrees."""
    assert len(logged(ours)) == len(logged(theirs)) == steps
    for a, b in zip(logged(ours), logged(theirs), strict=True):
        names = [name for name in b if name.startswith("loss") or name == "gradient_norm"]
        assert len(names) >= 4
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
    assert read_supervision(ours) == read_supervision(theirs)


@pytest.mark.parametrize("settings", [{"sharding": "ddp"}, {"sharding": "fsdp2", "accumulate": 2}])
def test_two_processes_learn_what_one_does(
    settings: dict[str, Any], dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    make = partial(job, dataset, tiny_clip)
    one = trained(partial(make, tmp_path / "one", Bright()))
    parts = on_ranks(2, partial(trained, partial(make, tmp_path / "two", Bright(), **settings)))
    assert_equal_trainings(tmp_path / "two", tmp_path / "one")
    assert len(parts[0]) == len(parts[1]) == len(one) // 2
    for first in range(0, len(one), 16):
        halves = [part[first // 2 : first // 2 + 8] for part in parts]
        assert sorted(halves[0] + halves[1]) == sorted(one[first : first + 16])


def test_features_of_two_processes_are_those_of_one(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    uri = saved("dinov2", tmp_path / "dino")
    train(job(dataset, tiny_clip, tmp_path / "one", experts.create(uri)))
    make = partial(job, dataset, tiny_clip, tmp_path / "two", experts.create(uri))
    on_ranks(2, lambda: train(make()) and None)
    assert_equal_trainings(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_pictures_without_a_label_are_counted_over_all_processes(
    accumulate: int, dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    make = partial(job, dataset, tiny_clip, max_failures=0.9)
    train(make(tmp_path / "one", Failing()))
    on_ranks(2, lambda: train(make(tmp_path / "two", Failing(), accumulate=accumulate)) and None)
    assert_equal_trainings(tmp_path / "two", tmp_path / "one")
    lines = [sorted((tmp_path / name / "skipped.jsonl").read_text().splitlines()) for name in ("one", "two")]
    assert lines[0] == lines[1] != []


def test_a_rank_without_any_label_takes_part(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    class Half(Failing):
        def predict(self, images: Sequence[ImageArray]) -> list[object]:
            labels = Bright.predict(self, images)  # type: ignore[arg-type]
            none = [np.zeros(image.shape[:2], np.bool_) for image in images]
            known = [replace(one, valid=valid) for one, valid in zip(labels, none, strict=True)]
            return known if ranks.rank() else labels

    make = partial(job, dataset, tiny_clip, tmp_path / "two", Half())
    on_ranks(2, lambda: train(make()) and None)
    assert all(np.isfinite(line["loss"]) and line["loss/depth/failing"] > 0 for line in logged(tmp_path / "two"))


def test_a_gpu_that_fails_on_one_rank_ends_all_with_the_cause(
    dataset: Path, tiny_clip: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(device: object = None) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    class Broken(Bright):
        def predict(self, images: Sequence[ImageArray]) -> list[object]:
            if not ranks.rank():
                return super().predict(images)
            monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # in a process of its own
            monkeypatch.setattr(torch.cuda, "synchronize", fails)
            raise RuntimeError("CUDA error: device-side assert triggered")

    codes = ended(2, lambda: train(job(dataset, tiny_clip, tmp_path, Broken())))
    assert all(codes)
    shown = capfd.readouterr().err
    assert "rank 1 failed: the GPU of this process has failed (CUDA error: device-side assert triggered)" in shown


@pytest.mark.slow
def test_the_command_trains_on_two_processes(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    written = values(dataset, tiny_clip, [{"expert": "demo:depth", "online": True}])
    (tmp_path / "recipe.yaml").write_text(recipe.parse(written).to_yaml())
    for count in ("1", "2"):
        options = ("--out", str(tmp_path / count), *(("--gpus", count) if count == "2" else ()))
        done = ran(*clipzoo(sys.executable, "-m", "clipzoo", "train", str(tmp_path / "recipe.yaml"), *options))
        assert done.returncode == 0, done.stderr
    assert_equal_trainings(*(tmp_path / count / "arms" / "clipzoo" / "0" for count in ("2", "1")), steps=3)
