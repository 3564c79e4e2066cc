"""Dry runs: the numbers match the files, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from clipzoo import files, recipe
from clipzoo.cli import app
from clipzoo.data import TrainingSet, Viewing, loader
from clipzoo.errors import CheckpointError, ClipzooError, PlanError, RecipeError
from clipzoo.experts import ExpertCard
from clipzoo.models import HeadSpec, Student
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.runs import Run
from clipzoo.runs.before.dry_run import preview
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks import Convention
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.training.memory import _forward, estimate, kept_bytes
from test_student import TINY


@pytest.fixture
def values(dataset: Path, labels: Path, tiny_clip: str) -> dict[str, Any]:
    return {
        "name": "squares",
        "data": str(dataset),
        "store": str(labels),
        "columns": [{"column": "segmentation/test-truth"}, {"column": "depth/test-truth"}, {"expert": "demo:normals"}],
        "student": {"model": tiny_clip},
        "training": {"epochs": 2.5, "batch_size": 10},
        "seeds": [0, 3],
    }


def test_samples_steps_and_labels_match_the_files(values: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    found = preview(recipe.parse(values), tmp_path / "run")
    assert found.samples == 48
    assert not found.left_out
    depth = (16 - 3) / 16  # every fifth of each 16 has none
    wanted = {"segmentation/test-truth": 1.0, "depth/test-truth": depth, "normals/demo-normals": None}
    assert found.coverage == pytest.approx(wanted)
    assert found.steps == 10, "2.5 epochs of 4 whole batches"
    assert found.epochs == pytest.approx(10 * 10 / 48)
    assert found.trainings == [("clip-ft", 0), ("clip-ft", 3), ("clipzoo", 0), ("clipzoo", 3)]
    shards = sum(path.stat().st_size for path in dataset.glob("*.tar"))
    assert found.epoch_bytes
    assert 0 < found.epoch_bytes < shards, "tars hold headers, too, and more than these labels"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("data", "samples"), [("rooms:captioned?count=5000", 5000), ("demo:captioned", 3000)])
def test_packaged_data_is_neither_rendered_nor_unpacked_into_the_folder(
    data: str, samples: int, values: dict[str, Any], tmp_path: Path
) -> None:
    packaged = values | {"data": data, "columns": [{"expert": "demo:depth"}], "store": None}
    packaged["evaluation"] = {"test": "demo:test"}
    assert preview(recipe.parse(packaged), tmp_path / "run").samples == samples
    assert not (tmp_path / "run").exists()


def test_labels_below_min_confidence_do_not_count(values: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    reader = open_dataset(str(dataset))
    space, known = Convention(classes=("background", "square")), np.ones((4, 4), np.bool_)
    column = Store(tmp_path / "labels").create(ExpertCard("test:sure", "segmentation", space), fingerprint(reader))
    for shard in reader.shards:
        with ColumnWriter(column, shard) as writer:
            for i, entry in enumerate(reader.index(shard)):
                label = Segmentation(np.zeros((4, 4), np.uint16), known, confidence=0.9 if i % 4 else 0.2)
                writer.add(entry.key, label)
    column.finish()
    columns = [{"column": "segmentation/test-sure", "min_confidence": 0.5}]
    found = preview(recipe.parse(values | {"store": str(tmp_path / "labels"), "columns": columns}), tmp_path / "run")
    assert found.coverage == {"segmentation/test-sure": 0.75}
    columns[0]["min_confidence"] = 0.95
    with pytest.raises(PlanError, match=r"no label of segmentation/test-sure reaches min_confidence 0\.95"):
        preview(recipe.parse(values | {"store": str(tmp_path / "labels"), "columns": columns}), tmp_path / "run")


def test_epochs_are_steps_of_the_plan(values: dict[str, Any], tmp_path: Path) -> None:
    run = Run(recipe.parse(values | {"columns": values["columns"][:2]}), tmp_path)
    dataset = TrainingSet(run.plan, run.reader, {}, Viewing((32, 32)))
    one_epoch = sum(1 for _ in loader(dataset, 10, lambda texts: torch.zeros(len(texts), 1)))
    assert run.steps() == round(2.5 * one_epoch)
    assert run.trainings.trial_steps() == run.steps() // 4


def test_a_dry_run_downloads_no_weights_of_the_student(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"far": {"url": "http://127.0.0.1:9/w.pt"}})
    wanted = recipe.parse(values | {"student": {"model": "tiny", "pretrained": "far"}})
    memory = preview(wanted, tmp_path / "run").memory
    assert memory
    assert memory.parameters > 0
    with pytest.raises(CheckpointError, match="cannot make the model 'tiny'"):
        Run(wanted, tmp_path / "run")


def test_a_dataset_smaller_than_a_batch_is_an_error(values: dict[str, Any], tmp_path: Path) -> None:
    values["training"]["batch_size"] = 64
    with pytest.raises(PlanError, match="48 usable samples, fewer than one batch of 64"):
        preview(recipe.parse(values), tmp_path)


def test_a_folder_of_another_recipe_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    parsed = recipe.parse(values)
    (tmp_path / "recipe.yaml").write_text(parsed.model_copy(update={"max_samples": 40}).to_yaml())
    preview(parsed, tmp_path)  # as long as nothing was trained by it
    files.write(tmp_path / "arms" / "clip-ft" / "0" / "student" / "done", b"")
    with pytest.raises(ClipzooError, match="another recipe"):
        preview(parsed, tmp_path)


def test_kept_bytes_match_a_count_by_hand() -> None:
    chain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.zeros(5, 8)
    by_hand = 4 * 5 * (8 + 16)  # the input and the ReLU's output, which is the second layer's input, too
    assert kept_bytes(lambda: chain(x), chain.parameters()) == by_hand


def test_estimated_memory_matches_a_larger_batch(tiny_clip: str) -> None:
    """Two small passes, extrapolated, match a large one up to the terms that grow with the square of the batch size."""
    spec = HeadSpec("depth", Convention(kind="metric", along="z"))
    student = Student.create(tiny_clip, specs={"depth/x": spec})
    settings = recipe.TrainingRecipe(steps=1)
    few, many = (
        estimate(student, {"depth/x": 4}, recipe.TrainingRecipe(steps=1, batch_size=count)).activations
        for count in (2, 12)
    )
    assert few == kept_bytes(lambda: _forward(student, {"depth/x": 4}, settings, 2), student.parameters())
    measured = kept_bytes(lambda: _forward(student, {"depth/x": 4}, settings, 12), student.parameters())
    assert many == pytest.approx(measured, rel=0.01)
    weights = sum(p.numel() for p in student.parameters())
    assert estimate(student, {"depth/x": 4}, recipe.TrainingRecipe(steps=1)).state == 16 * weights
    frozen = recipe.TrainingRecipe(steps=1, text_factor=0)
    assert estimate(student, {"depth/x": 4}, frozen).state < 16 * weights
    learns = estimate(student, {"depth/x": 4}, recipe.TrainingRecipe(steps=1)).activations
    assert estimate(student, {"depth/x": 4}, frozen).activations < learns, "a frozen tower keeps nothing"
    assert estimate(student, {"depth/x": 4}, recipe.TrainingRecipe(steps=1)).activations == learns


def test_finished_and_remaining_steps_are_shown(values: dict[str, Any], tmp_path: Path) -> None:
    parsed = recipe.parse(values | {"columns": values["columns"][:1], "seeds": [0, 1]})
    run = Run(parsed, tmp_path)
    run.train("clip-ft", 0)
    folder = run.folder_of("clip-ft", 1)
    folder.mkdir()
    torch.save({"step": 4, "student": {"w": torch.zeros(1000)}}, folder / "checkpoint.pt")
    rows = dict(preview(parsed, tmp_path).rows())
    assert rows["done already"] == "trained: clip-ft: seed 0\nclip-ft: seed 1: 4 of 10 steps\n26 steps remaining"
    alone = dict(preview(parsed, tmp_path, arms=["clip-ft"], seeds=[0]).rows())
    assert alone["done already"] == "trained: clip-ft: seed 0\n0 steps remaining"
    assert "done already" not in dict(preview(parsed, tmp_path, arms=["clipzoo"]).rows())


def test_splits_and_compared_experts_are_shown(values: dict[str, Any], tmp_path: Path) -> None:
    splits = {name: f"demo:{name}" for name in ("probe", "validation", "test", "heldout")}
    parsed = recipe.parse(values | {"evaluation": splits})
    rows = dict(preview(parsed, tmp_path / "run").rows())
    for name, place in splits.items():
        run = Run(parsed, tmp_path / "real")
        reader = open_dataset(f"{run.inputs.located(place)}/images")
        assert rows[f"evaluation.{name}"].startswith(
            f"{sum(len(reader.index(s)) for s in reader.shards):,} pictures of"
        )
        assert "true labels: " in rows[f"evaluation.{name}"]
        assert "normals" in rows[f"evaluation.{name}"]
    assert rows["experts asked"] == "demo:normals: they label the pictures of test and heldout, too, for comparison"
    assert not {"evaluation.test", "experts asked"} & set(dict(preview(parsed, tmp_path, arms=["clip-ft"]).rows()))
    alone = dict(preview(recipe.parse(values | {"evaluation": {"test": "demo:test"}}), tmp_path / "run").rows())
    assert "evaluation.test" in alone
    assert "experts asked" not in alone, "no probe can be fitted"
    rooms = recipe.parse(values | {"evaluation": {"test": "rooms:test?count=7000"}})
    assert dict(preview(rooms, tmp_path / "run").rows())["evaluation.test"].startswith("7,000 pictures of rooms:test")


def test_finished_trials_are_not_counted_as_remaining(values: dict[str, Any], tmp_path: Path) -> None:
    values["training"] |= {"learning_rates": [1e-4, 1e-3], "search_steps": 3}
    parsed = recipe.parse(values | {"columns": values["columns"][:1], "evaluation": {"validation": "demo:validation"}})
    Run(parsed, tmp_path)
    (tmp_path / "arms" / "clipzoo").mkdir(parents=True)
    (tmp_path / "arms" / "clipzoo" / "rates.json").write_text('{"0.0001": {"criterion": 1.0}}')
    assert dict(preview(parsed, tmp_path).rows())["done already"] == "1 of 4 trials\n49 steps remaining"


@pytest.mark.parametrize(
    ("verb", "says", "silent"),
    [
        (["run"], "4 × 10 = 40 steps", "nowhere"),
        (["train", "--arm", "clip-ft", "--seed", "3"], "1 × 10 = 10 steps", "clipzoo:"),
    ],
)
def test_dry_runs_by_the_command_line(
    verb: list[str], says: str, silent: str, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "r.yaml"
    path.write_text(recipe.parse(values | {"evaluation": {"test": "demo:test"}}).to_yaml())
    result = CliRunner().invoke(app, [verb[0], str(path), *verb[1:], "--dry-run", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "48 usable" in result.output
    assert "not labeled yet" in result.output
    assert "81.2% of the samples" in result.output
    assert says in result.output
    assert silent not in result.output
    assert not (tmp_path / "run").exists()


def test_train_and_consolidate_take_the_first_seed_of_the_recipe(values: dict[str, Any], tmp_path: Path) -> None:
    path, out = tmp_path / "r.yaml", tmp_path / "run"
    settings = {"training": {"steps": 1, "batch_size": 4}, "columns": values["columns"][:1], "seeds": [5, 0]}
    path.write_text(recipe.parse(values | settings).to_yaml())
    command = ["train", str(path), "--out", str(out), "--arm", "clip-ft"]
    assert "clip-ft: seed 5" in CliRunner().invoke(app, [*command, "--dry-run"]).output
    result = CliRunner().invoke(app, command)
    assert "clip-ft, seed 5: trained for 1 step" in result.output, result.output
    assert [one.name for one in (out / "arms" / "clip-ft").iterdir() if one.is_dir()] == ["5"]
    missing = CliRunner().invoke(app, ["checkpoint", "consolidate", str(out), "--out", str(tmp_path / "whole.pt")])
    assert "arms/clipzoo/5 does not exist" in str(missing.exception)


def test_labels_alone_are_estimated_for_arms_that_have_them(values: dict[str, Any], tmp_path: Path) -> None:
    alone = values | {"training": values["training"] | {"contrastive_weight": 0}}
    wanted = recipe.parse(alone | {"arms": ["clip", "clipzoo"]})
    assert preview(wanted, tmp_path / "run").memory
    with pytest.raises(RecipeError, match="the arm clip-ft has no other loss with a weight"):
        preview(wanted, tmp_path / "run", arms=["clip-ft"])
    untrained = preview(recipe.parse(alone | {"arms": ["clip"]}), tmp_path / "run")
    assert untrained.memory is None
    assert "memory, estimated" not in dict(untrained.rows())


def test_the_loader_counts_the_samples_of_all_processes(values: dict[str, Any], tmp_path: Path) -> None:
    plan = Run(recipe.parse(values | {"columns": values["columns"][:2]}), tmp_path).plan
    dataset = TrainingSet(plan, open_dataset(values["data"]), {}, Viewing((32, 32)))
    with pytest.raises(PlanError, match=r"48 samples, fewer than one batch of 50 .* to at most 48"):
        loader(dataset, 25, lambda texts: torch.zeros(len(texts), 1), rank=1, ranks=2)


def test_rows_of_a_table_have_no_known_size(values: dict[str, Any], tmp_path: Path) -> None:
    lines = []
    for i in range(12):
        Image.fromarray(np.full((32, 32, 3), 9 * i, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,number {i}")
    (tmp_path / "table.csv").write_text("\n".join(["file,caption", *lines]))
    table = values | {"data": str(tmp_path / "table.csv"), "columns": [{"expert": "demo:depth"}], "store": None}
    assert preview(recipe.parse(table), tmp_path / "run").epoch_bytes is None


def test_a_dry_run_reports_the_errors_of_the_run(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(recipe.parse(values | {"evaluation": {}}).to_yaml())
    for arguments, says in (
        (["run"], "evaluation.test is not set: arms cannot be measured without a benchmark"),
        (["train", "--device", "gpu"], "no device 'gpu'"),
        (["train", "--arm", "clipzo"], "no arm 'clipzo' to train; did you mean clipzoo"),
    ):
        result = CliRunner().invoke(app, [arguments[0], str(path), *arguments[1:], "--dry-run"])
        assert says in str(result.exception)
