"""fp16 with a scaled loss, and steps that are skipped because their gradient is not finite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipzoo.data import Batch
from clipzoo.errors import DivergedError
from clipzoo.training import Recognition, Training, checkpoint, objectives, precision, read_log, train
from clipzoo.training.result import hardware
from clipzoo.training.updates import step
from clipzoo.training.updates.nonfinite import Skips
from test_checkpoints import interrupted
from test_training import STEPS, job, same_student


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True, "amx_bf16": False}, "fp32")],
)
def test_auto_is_bf16_where_the_cpu_has_instructions_for_it(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch,
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    train(job(dataset, labels, tiny_clip, tmp_path / "auto", precision="auto"))
    train(job(dataset, labels, tiny_clip, tmp_path / "named", precision=expected))
    assert same_student(tmp_path / "auto", tmp_path / "named")
    assert hardware(tmp_path / "auto").endswith(f", {expected}")
    assert not hardware(tmp_path / "named").endswith(expected)


def test_auto_is_fp32_where_torch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.chosen("auto", "cpu") == "fp32"
    assert precision.chosen("bf16", "cpu") == "bf16"


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from losses by the number of the call to objectives that add such a loss."""

    def spoil(values: dict[int, float]) -> None:
        class Spoiled:
            name, weight, calls = "spoiled", 1.0, 0

            def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
                self.calls += 1
                return outputs["image_features"].float().sum() * values.get(self.calls - 1, 0.0)

        built = objectives.__dict__.get("built", objectives.build)
        monkeypatch.setattr(objectives, "built", built, raising=False)
        monkeypatch.setattr(objectives, "build", lambda *given: [*built(*given), Spoiled()])

    return spoil


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines()]


def test_by_default_the_first_step_that_is_not_finite_ends_training(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, spoiled: Any
) -> None:
    spoiled({3: float("nan")})
    with pytest.raises(DivergedError, match=r"not finite at step 3 .*spoiled=nan; 16 images\)\. Lower"):
        train(job(dataset, labels, tiny_clip, tmp_path))
    (row,) = rows(tmp_path)
    assert (row["step"], row["terms"]["spoiled"], len(row["keys"])) == (3, "nan", 16)


def test_within_the_budget_such_steps_are_skipped_and_counted(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, spoiled: Any
) -> None:
    spoiled({4: float("inf")})
    made = job(dataset, labels, tiny_clip, tmp_path, max_nonfinite=3)
    before: dict[int, Tensor] = {}
    proj = made.student.clip.visual.proj
    train(replace(made, on_step=lambda step, values: before.update({step: proj.detach().clone()})))
    assert [line["nonfinite"] for line in read_log(tmp_path)] == [0] * 4 + [1] * 8
    assert torch.equal(before[3], before[4])
    assert not torch.equal(before[4], before[5])
    assert [row["step"] for row in rows(tmp_path)] == [4]


def test_beyond_the_budget_training_stops(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, spoiled: Any
) -> None:
    """Of 12 steps a tenth may be skipped, however large the budget: a trial that diverges is recognized."""
    spoiled({2: float("nan"), 5: float("nan")})
    with pytest.raises(DivergedError, match=r"at step 5 .*, after 1 other steps, which were skipped"):
        train(job(dataset, labels, tiny_clip, tmp_path, max_nonfinite=1000))


def test_a_resumed_training_skips_and_counts_the_same(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, spoiled: Any
) -> None:
    spoiled({2: float("nan")})
    train(job(dataset, labels, tiny_clip, tmp_path / "whole", max_nonfinite=1))
    interrupted(dataset, labels, tiny_clip, tmp_path / "resumed", max_nonfinite=1)
    spoiled({})
    train(job(dataset, labels, tiny_clip, tmp_path / "resumed", max_nonfinite=1))
    assert same_student(tmp_path / "resumed", tmp_path / "whole")
    assert rows(tmp_path / "resumed") == rows(tmp_path / "whole")
    assert read_log(tmp_path / "resumed")[-1]["nonfinite"] == 1


def test_statistics_of_batch_norms_survive_activations_that_are_not_finite(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path, max_nonfinite=1).job
    student = nn.Sequential(nn.BatchNorm1d(2)).train()
    skips = Skips(made, student, torch.amp.GradScaler("cpu", enabled=False))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    batch = Batch(torch.zeros(1), torch.zeros(1), ["a"], {}, [])
    skips.remember()
    loss = student(torch.full((3, 2), float("inf"))).sum().detach()
    assert student[0].running_mean.isinf().all()
    assert skips.skip(0, loss, {"loss": loss}, batch)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def half(dataset: Path, labels: Path, model: str, out: Path, **settings: object) -> Training:
    return job(dataset, labels, model, out, precision="fp16", batch_size=4, **settings)


def test_fp16_scales_the_loss_and_learns(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    train(half(dataset, labels, tiny_clip, tmp_path / "half"))
    train(job(dataset, labels, tiny_clip, tmp_path / "whole", batch_size=4))
    log = read_log(tmp_path / "half")
    assert log[-1]["loss_scale"] > 1
    assert log[-1]["nonfinite"] == 0
    assert log[-1]["overflows"] < STEPS / 2
    losses = [line["loss"] for line in log]
    expected = [line["loss"] for line in read_log(tmp_path / "whole")]
    assert losses[0] == pytest.approx(expected[0], rel=1e-2)
    assert losses[-1] == pytest.approx(expected[-1], rel=0.15)
    assert losses[-1] < losses[0]


def test_an_overflow_lowers_the_scale_and_is_not_counted_as_not_finite(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, spoiled: Any
) -> None:
    """The loss is finite, but 65,536 times its gradient is not, even in float32."""
    spoiled({6: 1e35})
    train(half(dataset, labels, tiny_clip, tmp_path))
    log = read_log(tmp_path)
    before = log[5]["overflows"]
    assert [line["overflows"] for line in log][5:8] == [before, before + 1, before + 1]
    assert log[7]["loss_scale"] == log[5]["loss_scale"] / 2
    assert log[-1]["nonfinite"] == 0
    assert not (tmp_path / "nonfinite.jsonl").exists()


def test_a_loss_that_is_not_finite_ends_training_in_fp16_too(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, spoiled: Any
) -> None:
    spoiled({3: float("nan")})
    with pytest.raises(DivergedError, match=r"step 3 .*Set training\.precision to bf16"):
        train(half(dataset, labels, tiny_clip, tmp_path))


@pytest.mark.slow
def test_fp16_continues_after_the_guard_returned_from_a_loss_that_is_not_finite(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, spoiled: Any
) -> None:
    spoiled({5: float("nan")})
    made = half(dataset, labels, tiny_clip, tmp_path, guard={"every": 3})
    said: list[str] = []
    train(replace(made, recognition=Recognition("zero_shot/top1", 8, lambda student: 1.0), say=said.append))
    assert any("Returned to step 3;" in line for line in said)
    assert read_log(tmp_path)[-1]["step"] == STEPS - 1


@pytest.mark.slow
def test_fp16_resumes_to_the_same_bits(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(step.torch.amp, "GradScaler", lambda *a, **k: scaler(*a, growth_interval=3, **k))
    train(half(dataset, labels, tiny_clip, tmp_path / "whole"))
    interrupted(dataset, labels, tiny_clip, tmp_path / "resumed", precision="fp16", batch_size=4)
    assert checkpoint.load(tmp_path / "resumed" / checkpoint.NAME)["scaler"]["scale"] != 65536
    train(half(dataset, labels, tiny_clip, tmp_path / "resumed"))
    assert same_student(tmp_path / "resumed", tmp_path / "whole")
    scales = [[line["loss_scale"] for line in read_log(tmp_path / name)] for name in ("whole", "resumed")]
    assert scales[0] == scales[1]


RANK = """
import json, sys
from pathlib import Path
import torch
from torch import distributed
from clipzoo.data import Batch
from clipzoo.recipe import TrainingRecipe
from clipzoo.training import Job
from clipzoo.training.updates.nonfinite import Skips

rank, out = int(sys.argv[1]), Path(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
job = Job(TrainingRecipe(steps=20, max_nonfinite=2, precision="fp16"), 1e-3, 20, out)
skips = Skips(job, torch.nn.Linear(1, 1), torch.amp.GradScaler("cpu"))
batch = Batch(torch.zeros(1), torch.zeros(1), ["a"], {}, [], keys=[f"key-{rank}"])
inf, loss = torch.tensor(float("inf")), torch.tensor(float("nan") if rank else 1.0)
assert skips.skip(0, inf, {"loss": loss}, batch)  # not finite on one rank only
assert skips.skip(1, inf, {"loss": torch.tensor(1.0)}, batch)  # finite on both
print(skips.nonfinite, skips.overflows)
"""


@pytest.mark.slow
def test_ranks_count_alike_and_the_keys_of_all_are_recorded(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    assert [process.communicate(timeout=100)[0].strip() for process in ranks] == ["1 1", "1 1"]
    (row,) = rows(tmp_path)
    assert row["keys"] == ["key-0", "key-1"]
