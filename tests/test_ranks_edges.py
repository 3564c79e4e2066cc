"""Several processes: stopped during a slow write, without labels in one of them, and with the bias of SigLIP."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clipzoo.training import checkpoint, train
from clipzoo.training.pictures import pictures
from clipzoo.training.processes import launch, ranks, watch
from forking import ended, on_ranks
from test_ranks import SIZE, VIT, Updates, assert_same, batch, step, variant
from test_training import job

pytestmark = pytest.mark.ranks


def test_a_signal_ends_all_ranks_after_a_slow_checkpoint_is_written(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank would otherwise end first, and rank 0 then ends after `watch.GRACE`, without the checkpoint."""
    save = checkpoint.save

    def slow(path: Path, state: dict[str, Any]) -> None:
        time.sleep(3)
        save(path, state)

    def stop(number: int, values: object) -> None:
        if number == 4 and ranks.is_main():
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(watch, "GRACE", 0.5)
    monkeypatch.setattr(checkpoint, "save", slow)
    make = partial(job, dataset, labels, tiny_clip, tmp_path, checkpoint_every=100)
    codes = ended(2, lambda: train(replace(make(), on_step=stop)) and None)
    assert all(codes)
    assert checkpoint.step(tmp_path / checkpoint.NAME) == 5


def shown(model: str) -> list[str]:
    """The columns of the pictures; rank 0 has no labels."""
    student = Updates(model, sharding="fsdp2").student
    return sorted(pictures(student, batch(student, [slice(0, 3), slice(3, SIZE)][ranks.rank()])))


def test_pictures_of_sharded_students_do_not_need_labels_on_every_rank(tiny_clip: str) -> None:
    none, all_of_them = on_ranks(2, partial(shown, tiny_clip))
    assert none == []
    assert len(all_of_them) == 5


@pytest.fixture(scope="module")
def siglip(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return variant(tiny_clip, tmp_path_factory.mktemp("siglip") / "model", VIT, init_logit_bias=-4.0)


def test_the_bias_of_siglip_trains_deterministically_on_two_ranks(siglip: str) -> None:
    whole = step(siglip)
    assert whole["gradients"]["clip.logit_bias"].abs() > 0
    assert_same(on_ranks(2, partial(step, siglip, deterministic=True))[0], whole)


def hooks(model: str) -> list[str]:
    """The parameters with hooks after two updates."""
    updates = Updates(model, sharding="fsdp2")
    updater, half = updates.updater, SIZE // 2
    for number in range(2):
        updater.update(batch(updates.student, slice(ranks.rank() * half, (ranks.rank() + 1) * half)), number)
    return [name for name, p in updates.student.named_parameters() if p._backward_hooks]


def test_sharded_updates_leave_no_hooks_at_the_bias_of_siglip(siglip: str) -> None:
    assert on_ranks(2, partial(hooks, siglip)) == [[], []]


def test_a_single_process_returns_its_bias_as_an_output(siglip: str) -> None:
    updates = Updates(siglip)
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    bias = updates.student(images)["logit_bias"]
    assert not isinstance(bias, nn.Parameter)
    assert bias.item() == updates.student.clip.logit_bias.item() == -4


def test_the_launcher_waits_for_a_checkpoint_that_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "")
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    monkeypatch.setattr(launch.logging, "disable", lambda level: None)
    monkeypatch.setattr(launch, "elastic_launch", lambda config, command: seen.append(config) or (lambda *given: None))
    assert launch.launch(2, []) == (0, "")
    assert seen[0].shutdown_timeout == 100
