"""The exponential moving average of the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipzoo.models import Student
from clipzoo.training import Training, checkpoint, train
from clipzoo.training.updates.average import Average
from test_checkpoints import interrupted
from test_training import job, same_student

DECAY = 0.8


def recorded(made: Training) -> tuple[Training, list[dict[str, Tensor]]]:
    """Return a training that records its weights before and after every step, and this record."""
    states = [{name: value.clone() for name, value in made.student.state_dict().items()}]

    def record(step: int, values: object) -> None:
        states.append({name: value.clone() for name, value in made.student.state_dict().items()})

    return replace(made, on_step=record), states


def averaged(states: list[dict[str, Tensor]], name: str) -> Tensor:
    value = states[0][name].double()
    for state in states[1:]:
        value = DECAY * value + (1 - DECAY) * state[name].double()
    return value


def test_the_saved_student_is_the_average_and_training_is_not_changed(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "plain"))
    made, states = recorded(job(dataset, labels, tiny_clip, tmp_path / "ema", ema=DECAY))
    train(made)
    saved = load_file(tmp_path / "ema" / "student" / "open_clip_model.safetensors")
    for name, value in saved.items():
        assert torch.allclose(value.double(), averaged(states, f"clip.{name}"), atol=1e-6), name
    last = load_file(tmp_path / "plain" / "student" / "open_clip_model.safetensors")
    assert all(torch.equal(states[-1][f"clip.{name}"], value) for name, value in last.items())
    assert not torch.equal(saved["visual.proj"], last["visual.proj"])


@pytest.mark.slow
def test_a_resumed_training_has_the_same_average(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "whole", ema=DECAY))
    interrupted(dataset, labels, tiny_clip, tmp_path / "resumed", ema=DECAY)
    assert checkpoint.load(tmp_path / "resumed" / checkpoint.NAME)["ema"].keys() >= {"clip.visual.proj"}
    train(job(dataset, labels, tiny_clip, tmp_path / "resumed", ema=DECAY))
    assert same_student(tmp_path / "resumed", tmp_path / "whole")


def test_the_average_is_measured(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made, states = recorded(job(dataset, labels, tiny_clip, tmp_path, ema=DECAY, evaluate_every=5))
    measured: list[tuple[int, Tensor]] = []

    def evaluate(student: Student) -> list[tuple[str, float]]:
        measured.append((len(states), student.clip.visual.proj.detach().clone()))
        return []

    train(replace(made, evaluate=evaluate))
    assert [steps for steps, _ in measured] == [6, 11, 13]
    for steps, proj in measured:
        assert torch.allclose(proj.double(), averaged(states[:steps], "clip.visual.proj"), atol=1e-6)


def test_a_training_that_ended_before_its_measurement_saves_the_average(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    def fail(student: Student) -> list[tuple[str, float]]:
        raise ZeroDivisionError

    train(job(dataset, labels, tiny_clip, tmp_path / "whole", ema=DECAY))
    with pytest.raises(ZeroDivisionError):
        train(replace(job(dataset, labels, tiny_clip, tmp_path / "failed", ema=DECAY), evaluate=fail))
    train(job(dataset, labels, tiny_clip, tmp_path / "failed", ema=DECAY))
    assert same_student(tmp_path / "failed", tmp_path / "whole")


def test_statistics_of_batch_norms_are_averaged_and_locked_weights_kept() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    student[0].requires_grad_(False)
    average = Average(student, 0.5)  # type: ignore[arg-type]
    assert set(average.state_dict()) == {"1.weight", "1.bias", "1.running_mean", "1.running_var"}
    student(torch.ones(3, 2) * 4)
    moved = student[1].running_mean.clone()
    average.update()
    with average.applied():
        assert torch.allclose(student[1].running_mean, moved / 2)
    assert torch.equal(student[1].running_mean, moved)
