"""Guard, anchors, the average of the weights and fp16 on several processes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from clipzoo.models import Student
from clipzoo.training import Training, read_log, train
from clipzoo.training.processes import ranks
from clipzoo.training.processes.sharding import gathered, local
from forking import on_ranks
from test_guard import guarded
from test_ranks import SIZE, Updates, assert_same, batch, recorded
from test_training import job, same_student

pytestmark = pytest.mark.ranks

ANCHORS = {"embedding": 3.0, "gram": 2.0}


def moved_step(model: str, uneven: int = 0, **settings: object) -> dict[str, Any]:
    """The terms and gradients of a batch after the student has moved away from its start."""
    updates = Updates(model, **settings)
    updater = updates.updater
    with torch.no_grad():
        for name, parameter in updates.student.named_parameters():
            if ".visual." in name and "ln" not in name:
                local(parameter).mul_(1.5)
    first, last = ranks.rank() * SIZE // ranks.world_size(), (ranks.rank() + 1) * SIZE // ranks.world_size()
    part = batch(updates.student, slice(first, last - (uneven if ranks.rank() == 0 else 0)))
    update = updater.update(part, 0)
    named = updates.student.named_parameters()
    gradients = gathered({name: p.grad for name, p in named if p.grad is not None})
    terms = {name: value.detach() for name, value in update.terms.items()}
    return {"terms": terms, "gradients": gradients, "norm": update.gradient_norm}


@pytest.fixture(scope="module")
def anchored(tiny_clip: str) -> dict[str, Any]:
    """One process, the whole batch."""
    return moved_step(tiny_clip, anchors=ANCHORS)


@pytest.mark.parametrize(
    "settings", [{"sharding": "ddp"}, {"sharding": "fsdp2"}, {"sharding": "fsdp2", "accumulate": 3}]
)
def test_anchors_have_the_gradients_of_one_process(
    tiny_clip: str, anchored: dict[str, Any], settings: dict[str, object]
) -> None:
    assert {name for name in anchored["terms"] if name.startswith("anchor/")} == {"anchor/embedding", "anchor/gram"}
    assert all(anchored["terms"][f"anchor/{name}"] > 1e-4 for name in ANCHORS)
    free = moved_step(tiny_clip)["gradients"]["clip.visual.proj"]
    assert (free - anchored["gradients"]["clip.visual.proj"]).norm() > 0.01 * free.norm()
    assert_same(on_ranks(2, partial(moved_step, tiny_clip, anchors=ANCHORS, **settings))[0], anchored)


def test_anchors_in_chunks_have_the_gradients_of_the_whole_batch(tiny_clip: str, anchored: dict[str, Any]) -> None:
    assert_same(moved_step(tiny_clip, anchors=ANCHORS, accumulate=5), anchored)


# Guard -----------------------------------------------------------------------------------------------------


def stopping(training: Training, after: int) -> bool:
    """Train; at a step rank 0 gets SIGTERM. Return True if the training has ended."""
    seen: list[int] = []

    def stop(step: int, values: object) -> None:
        seen.append(step)
        if len(seen) == after and ranks.is_main():
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train(replace(training, on_step=stop))
    except KeyboardInterrupt:
        return False
    return True


def lines(out: Path) -> list[dict[str, Any]]:
    times = ("images_per_second", "waiting")
    return [{name: value for name, value in line.items() if name not in times} for line in read_log(out)]


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_rollbacks_of_two_ranks_are_exact(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, mode: str
) -> None:
    """The guard returns to good states; a training that is stopped again and again ends in the same bits."""

    def make(name: str) -> Training:
        torch.manual_seed(0)
        settings = {"sharding": mode, "deterministic": True, "checkpoint_every": 100}
        made = job(dataset, labels, tiny_clip, tmp_path / name, **settings)
        rule = guarded(dataset, labels, tiny_clip, tmp_path / name)
        kept = made.job.settings.model_copy(update={"guard": rule.job.settings.guard})
        return replace(made, job=replace(made.job, settings=kept), recognition=rule.recognition)

    said: list[str] = []
    on_ranks(2, lambda: train(replace(make("whole"), say=said.append)) and None)
    record = json.loads((tmp_path / "whole" / "guard.json").read_text())
    assert [event["event"] for event in record["events"]].count("rollback") == 3
    for _ in range(20):
        if on_ranks(2, lambda: stopping(make("cut"), 6))[0]:
            break
    assert same_student(tmp_path / "whole", tmp_path / "cut")
    assert record == json.loads((tmp_path / "cut" / "guard.json").read_text())
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    left = {path.name for path in (tmp_path / "whole").iterdir()}
    assert not [name for name in left if name.endswith(".pt") or name.startswith("shards-")]


@pytest.mark.slow
def test_a_rollback_of_two_ranks_reads_the_samples_again(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    def read(name: str) -> list[list[tuple[int, int]]]:
        seen: list[list[tuple[int, int]]] = []
        train(recorded(guarded(dataset, labels, tiny_clip, tmp_path / name), seen))
        return seen

    whole, halves = read("one"), on_ranks(2, lambda: read("two"))
    events = [json.loads((tmp_path / name / "guard.json").read_text())["events"] for name in ("one", "two")]
    assert [event["returned_to"] for event in events[0]] == [event["returned_to"] for event in events[1]]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(one) for one in whole]


# Average of the weights, and fp16 --------------------------------------------------------------------------


def sharded(dataset: Path, labels: Path, model: str, out: Path, **settings: object) -> Training:
    return job(dataset, labels, model, out, sharding="fsdp2", checkpoint_every=100, deterministic=True, **settings)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(Student.load(out / "student").state_dict())


def test_the_average_of_sharded_weights_is_that_of_whole_ones(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    make = partial(sharded, dataset, labels, tiny_clip, ema=0.8)
    train(job(dataset, labels, tiny_clip, tmp_path / "one", ema=0.8, deterministic=True))
    on_ranks(2, lambda: train(make(tmp_path / "two")) and None)
    on_ranks(2, lambda: stopping(make(tmp_path / "cut"), 4))
    on_ranks(2, lambda: train(make(tmp_path / "cut")) and None)
    assert same_student(tmp_path / "two", tmp_path / "cut")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    distance = max(float((one[name] - two[name]).abs().max()) for name in one if one[name].is_floating_point())
    assert distance < 2e-4  # of steps of 1e-3, whose direction is rounding where the gradient is 0


@pytest.mark.slow
def test_the_average_of_two_ranks_continues_on_one(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "one", ema=0.8, deterministic=True))
    on_ranks(2, lambda: stopping(sharded(dataset, labels, tiny_clip, tmp_path / "rest", ema=0.8), 4))
    train(sharded(dataset, labels, tiny_clip, tmp_path / "rest", ema=0.8))
    one, rest = weights(tmp_path / "one"), weights(tmp_path / "rest")
    assert all(torch.allclose(rest[name].float(), one[name].float(), atol=2e-4) for name in one)


@pytest.mark.parametrize("mode", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_fp16_lowers_the_scale_on_all_ranks_after_an_overflow_on_one(tiny_clip: str, mode: str) -> None:
    """Rank 1's part of a gradient overflows; both skip the step, and agree on the scale."""

    def overflow() -> tuple[float, float, float, float, bool]:
        updates = Updates(tiny_clip, sharding=mode, precision="fp16")
        updater, rows = updates.updater, slice(ranks.rank() * 6, ranks.rank() * 6 + 6)
        updater.scaler.scale(torch.ones(()))
        updater.scaler.update(64.0)
        first = updater.update(batch(updates.student, rows), 0)
        scale = updater.scaler.get_scale()
        before = local(updates.student.clip.visual.proj.detach()).clone()
        step = updater._gradients

        def spoiled(given: Any, number: int) -> Any:
            terms = step(given, number)
            gradient = updates.student.clip.visual.proj.grad
            assert isinstance(gradient, DTensor) == (mode == "fsdp2")
            if ranks.rank() == 1 or mode == "ddp":
                local(gradient).view(-1)[0] = float("inf")
            return terms

        updater._gradients = spoiled  # type: ignore[method-assign]
        second = updater.update(batch(updates.student, rows), 1)
        same = bool(torch.equal(before, local(updates.student.clip.visual.proj.detach())))
        return first.gradient_norm.item(), scale, updater.scaler.get_scale(), second.skips["overflows"], same

    (one, *of_one), (other, *of_other) = on_ranks(2, overflow)
    assert one == pytest.approx(other)
    assert of_one == of_other == [64.0, 32.0, 1, True]


def test_fp16_in_chunks_has_the_gradient_of_the_whole_batch(tiny_clip: str) -> None:
    norms = []
    for chunks in (1, 2):
        updates = Updates(tiny_clip, precision="fp16", accumulate=chunks)
        updater = updates.updater
        updater.scaler.scale(torch.ones(()))
        updater.scaler.update(64.0)
        norms.append(updater.update(batch(updates.student, slice(0, SIZE)), 0).gradient_norm.item())
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)


def trained(make: partial[Training]) -> None:
    train(make())


@pytest.mark.slow
def test_fp16_of_sharded_weights_trains_as_that_of_replicated_ones(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    for mode in ("ddp", "fsdp2"):
        make = partial(job, dataset, labels, tiny_clip, tmp_path / mode, sharding=mode, precision="fp16", steps=4)
        on_ranks(2, trained, make)
    losses = [[line["loss"] for line in read_log(tmp_path / name) if "loss" in line] for name in ("ddp", "fsdp2")]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
