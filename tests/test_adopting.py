"""A command changes the folder of a run only under its lock and after its checks; other files in it are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from clipzoo import files, recipe, runs
from clipzoo.errors import CheckpointError, ClipzooError, DivergedError, StoreError
from clipzoo.files import locked
from clipzoo.progress import Silent
from clipzoo.recipe import Recipe
from clipzoo.runs import Run, verbs
from clipzoo.runs.trainings import WEIGHTS
from test_pipeline import changed, world, write_benchmark  # noqa: F401


@pytest.fixture
def short(world: Recipe) -> Recipe:  # noqa: F811
    """A recipe with one seed, one learning rate and two steps."""
    return changed(
        world, seeds=[0], arms=["clip", "clip-ft", "clipzoo"], evaluation={"pictures": 0},
        training={"steps": 2, "learning_rates": [1e-3]},
    )  # fmt: skip


def state(folder: Path) -> dict[str, bytes]:
    """Return path -> content of all files but the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def measured(short: Recipe, tmp_path: Path) -> Path:
    """The folder of a run with something in the place of plan and scores."""
    Run(short, tmp_path / "run").adopt()
    for name in ("plan.arrow", "scores/clip/0/done"):
        files.write(tmp_path / "run" / name, b"kept")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "verb", [verbs.label, verbs.evaluate, verbs.interpolate, lambda run: verbs.train(run, "clipzoo", 0)]
)
def test_a_command_that_is_refused_changes_nothing(
    verb: Callable[[Run], object], short: Recipe, measured: Path
) -> None:
    before = state(measured)
    with locked(measured, CheckpointError, "of the test"), pytest.raises(CheckpointError, match="is in use by process"):
        verb(Run(changed(short, training={"learning_rates": [3e-3]}), measured))
    assert state(measured) == before


def test_a_complete_store_that_cannot_be_written_is_read_by_its_columns(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreError("cannot write labels/.lock: Permission denied") from PermissionError(13, "Permission denied")

    run = Run(short, tmp_path / "run")
    monkeypatch.setattr(verbs, "label_dataset", refuse)
    monkeypatch.setattr(run.inputs, "unlabeled", list)
    with pytest.raises(StoreError, match=r"denied\. All labels exist: .* \(column: \w+/\S+ instead of expert: \S+\)$"):
        verbs.label(run)
    monkeypatch.setattr(run.inputs, "unlabeled", lambda: ["depth/x"])
    with pytest.raises(StoreError, match=r"Permission denied$"):
        verbs.label(run)


def test_interpolation_without_a_student_changes_nothing(short: Recipe, measured: Path) -> None:
    before = state(measured)
    with pytest.raises(CheckpointError, match="nothing to interpolate"):
        verbs.interpolate(
            Run(changed(short, interpolation={"max_loss": 0.1}, evaluation={"label_stride": 4}), measured)
        )
    assert state(measured) == before


def test_a_benchmark_that_cannot_be_read_removes_no_scores(short: Recipe, measured: Path, tmp_path: Path) -> None:
    write_benchmark(tmp_path / "test", 8, 9)
    (tmp_path / "test" / "images" / "classnames.txt").write_text("one")
    before = state(measured)
    run = Run(changed(short, arms=["clip"], evaluation={"test": str(tmp_path / "test")}), measured)
    with pytest.raises(ClipzooError):
        verbs.evaluate(run)
    assert state(measured) == before


def test_a_recipe_that_another_command_has_changed_meanwhile_is_kept(short: Recipe, measured: Path) -> None:
    waiting = Run(short, measured)
    equal = Run(changed(short, seeds=[1]), measured)
    Run(changed(short, seeds=[1]), measured).adopt()
    before = state(measured)
    with pytest.raises(CheckpointError, match=r"recipe\.yaml was changed by another command .*\n  seeds\.0: 1, not 0"):
        verbs.label(waiting)
    assert state(measured) == before
    equal.adopt()
    assert state(measured) == before


def test_a_run_in_python_saves_its_recipe_before_its_plan(short: Recipe, tmp_path: Path) -> None:
    run = Run(changed(short, columns=[], arms=["clip"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert len(run.plan) == 96
    assert recipe.load(tmp_path / "run" / "recipe.yaml", trust=True) == run.recipe


def test_files_that_no_run_wrote_are_kept(short: Recipe, tmp_path: Path) -> None:
    kept = ("scores/season.csv", "scores/2025/season.csv", "plan.parquet")
    for name in kept:
        files.write(tmp_path / name, b"mine")
    files.write(tmp_path / "scores/clip/0/done", b"of models")
    Run(short, tmp_path).adopt()
    assert [(tmp_path / name).read_bytes() for name in kept] == [b"mine"] * 3
    assert (tmp_path / "scores/clip/0/done").exists(), "the folder had no recipe"
    Run(changed(short, evaluation={"label_stride": 4}), tmp_path).adopt()
    assert [(tmp_path / name).read_bytes() for name in kept[:2]] == [b"mine"] * 2
    assert not (tmp_path / "scores/clip").exists()


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)


def again(wanted: Recipe, folder: Path) -> list[str]:
    """Return which scores an evaluation measured again, with the reason."""
    heard = Listener()
    verbs.evaluate(Run(wanted, folder, heard))
    return [
        text.replace(f"the scores in {folder}/scores/", "").replace(" are measured again", "")
        for text in heard.said
        if "measured again" in text
    ]


def retrained(folder: Path) -> None:
    """Change the weights of the student of a training."""
    weights = load_file(folder / "student" / WEIGHTS)
    save_file({name: value * 1.5 for name, value in weights.items()}, folder / "student" / WEIGHTS)


@pytest.mark.slow
def test_scores_belong_to_a_student(short: Recipe, tmp_path: Path) -> None:
    assert again(short, tmp_path) == []
    assert again(short, tmp_path) == []
    retrained(tmp_path / "arms/clipzoo/0")
    assert again(short, tmp_path) == ["clipzoo/0: student has changed"]
    retrained(tmp_path / "arms/clip-ft/0")
    assert again(short, tmp_path) == ["clip-ft/0: student has changed", "baselines/test: student has changed"]
    assert again(changed(short, seeds=[1]), tmp_path) == ["baselines/test: student has changed"]
    shutil.rmtree(tmp_path / "arms/clip-ft/1")
    assert again(changed(short, seeds=[1]), tmp_path) == [], "the same training has the same student"
    for done in (tmp_path / "scores").rglob("done"):  # as earlier versions wrote it
        record = json.loads(done.read_text())
        record["identity"].pop("student", None)
        done.write_text(json.dumps(record))
    retrained(tmp_path / "arms/clipzoo/1")
    assert again(changed(short, seeds=[1]), tmp_path) == []


def test_the_advice_of_a_training_that_diverged_is_accepted(short: Recipe, tmp_path: Path) -> None:
    columns = short.model_dump(mode="json")["columns"]
    huge = changed(short, columns=[columns[0] | {"weight": 1e39}])
    with pytest.raises(DivergedError, match=r"step 0 .*Lower training\.learning_rates or the weight of a column"):
        verbs.train(Run(huge, tmp_path), "clipzoo", 0)
    labels = state(tmp_path / "labels")
    verbs.train(Run(short, tmp_path), "clipzoo", 0)
    assert labels.items() <= state(tmp_path / "labels").items()
    with pytest.raises(CheckpointError, match=rf"or delete {tmp_path}/arms to .* again .*; labels are kept"):
        Run(huge, tmp_path)
    shutil.rmtree(tmp_path / "arms")
    Run(huge, tmp_path).adopt()
    assert labels.items() <= state(tmp_path / "labels").items()


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("clipzoo/0/log.jsonl", False),
        ("clipzoo/0/nonfinite.jsonl", False),
        ("clipzoo/0/checkpoint.pt", True),
        ("clipzoo/0/student/done", True),
        ("clipzoo/rate-0.001/student/done", True),
        ("clipzoo/rates.json", True),
    ],
)
def test_a_recipe_is_bound_by_results_of_training(name: str, bound: bool, tmp_path: Path) -> None:
    files.write(tmp_path / "arms" / name, b"")
    assert runs.folder.Folder(tmp_path).trained == bound
