"""Parts of a training that several processes will share: jobs, objectives, ranks."""

from __future__ import annotations

import ast
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import clipzoo.training
from clipzoo.data import Batch, loader
from clipzoo.errors import RecipeError
from clipzoo.recipe import TrainingRecipe, parse
from clipzoo.runs import Run
from clipzoo.tasks import PLUGINS
from clipzoo.training import Job, checkpoint, objectives, read_log, train
from clipzoo.training.processes import ranks
from test_training import STEPS, job


def test_a_job_is_plain_data(tmp_path: Path) -> None:
    settings = TrainingRecipe(steps=3, learning_rates=(1e-3, 1e-4), scale=(0.4, 0.9))
    made = Job(settings, 1e-3, 3, tmp_path, {"depth/x": 2.0}, seed=7, device="cuda:1")
    assert Job.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_the_loss_is_the_weighted_sum_of_named_terms(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path)
    weights = {"contrastive": 0.5, "depth/test-truth": 3.0}
    train(replace(made, job=replace(made.job, weights=weights)))
    for line in read_log(tmp_path)[:STEPS]:
        terms = {name.removeprefix("loss/"): value for name, value in line.items() if name.startswith("loss/")}
        expected = sum(weights.get(name, 1.0) * value for name, value in terms.items())
        assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_an_objective_is_added_without_a_change_of_the_loop(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small:
        name, weight = "small", 0.25

        def __call__(self, outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
            return outputs["image_features"].float().square().mean()

    built = objectives.build
    monkeypatch.setattr(objectives, "build", lambda *given: [*built(*given), Small()])
    train(job(dataset, labels, tiny_clip, tmp_path))
    assert "loss/small" in read_log(tmp_path)[0]


def test_terms_are_those_of_the_students_columns(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path)
    batch = next(iter(loader(made.dataset, 4, made.student.tokenize)))
    terms = objectives.terms(objectives.build(made.student), made.student(batch.images, batch.tokens), batch)
    assert list(terms) == ["contrastive", *made.student.specs]
    assert all(term.shape == () and term.requires_grad for term in terms.values())


def test_training_names_no_task() -> None:
    files = [*Path(clipzoo.training.__file__).parent.rglob("*.py")]
    assert len(files) > 10
    for path in files:
        strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not strings & (set(PLUGINS.names()) - {"features"})  # image_features, of every CLIP


def test_functions_of_training_are_short() -> None:
    for path in Path(clipzoo.training.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"


def test_without_torch_distributed_a_process_is_the_main_one() -> None:
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)


def test_only_the_main_process_writes(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []
    made = job(dataset, labels, tiny_clip, tmp_path, steps=2, evaluate_every=1)  # less than an epoch
    monkeypatch.setattr(ranks, "is_main", lambda: False)
    monkeypatch.setattr(ranks, "receive", lambda: None)  # the main process has ended its measurement
    train(replace(made, evaluate=lambda student: measured.append(student) or []))
    assert list(tmp_path.iterdir()) == []
    assert measured == []


def test_several_processes_are_refused_before_any_work(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path / "training")
    student = {"model": tiny_clip}
    recipe = parse(
        {"name": "x", "data": str(dataset), "student": student, "training": {"steps": 1}, "arms": ["clip-ft"]}
    )
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RecipeError, match=r"WORLD_SIZE is 4.* have not joined.* unset WORLD_SIZE"):
        train(made)
    with pytest.raises(RecipeError, match="have not joined"):
        Run(recipe, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WORLD_SIZE", "1")
    train(made)


def test_a_checkpoint_keeps_its_fields(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    """Checkpoints of earlier releases have the first five and no others."""

    def stop(step: int, values: object) -> None:
        if step == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(replace(job(dataset, labels, tiny_clip, tmp_path), on_step=stop))
    state = checkpoint.load(tmp_path / checkpoint.NAME)
    added = {"settings", "digest", "versions", "skips"}
    assert set(state) == {"step", "student", "optimizer", "rng", "cuda_rng", *added}
    assert [set(group) >= {"peak", "weight_decay"} for group in state["optimizer"]["param_groups"]]
