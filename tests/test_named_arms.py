"""Arms with a subset of the columns: one recipe, one training of captions alone, one page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo import recipe, runs
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.runs import verbs
from clipzoo.runs.ablation import Ablation, planned
from clipzoo.runs.before.dry_run import preview
from clipzoo.runs.comparing import compare_runs
from clipzoo.training import read_log
from test_ablate import two
from test_pipeline import world

__all__ = ["two", "world"]
OTHER = "python:test_ablate:OtherExpert"
NAMED = {"name": "other-only", "columns": [OTHER]}


def with_arms(two: recipe.Recipe, *arms: object, **changes: object) -> recipe.Recipe:
    return recipe.parse(two.model_dump(mode="json") | {"arms": list(arms)} | changes)


@pytest.fixture(scope="module")
def asked(two: recipe.Recipe) -> recipe.Recipe:
    return with_arms(two, "clip", NAMED, "clip-ft", "clipzoo")


@pytest.fixture(scope="module")
def finished(asked: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("named") / "run"
    verbs.run(runs.Run(asked, out))
    return out


def test_an_arm_with_columns_is_a_variant(asked: recipe.Recipe, two: recipe.Recipe) -> None:
    assert asked.arms == ("clip", "other-only", "clip-ft", "clipzoo")
    assert asked.named_arms == ("other-only",)
    assert asked.variants == {**two.variants, "other-only": (OTHER,)}
    assert recipe.parse(json.loads(asked.model_dump_json())) == asked
    assert with_arms(two, "clipzoo", "everything").named_arms == ("everything",)


def test_captions_alone_are_trained_once_for_all(finished: Path) -> None:
    (folder,) = (finished / "ablations").iterdir()
    assert [one.name for one in (folder / "arms").iterdir()] == ["clipzoo"]
    assert not (folder / "labels").exists()
    assert sorted(one.name for one in (finished / "arms").iterdir()) == ["clip-ft", "clipzoo"]
    assert not (folder / "scores" / "clip-ft").exists()


def test_results_and_page_have_the_row(finished: Path, asked: recipe.Recipe) -> None:
    results = json.loads((finished / "results.json").read_text(), parse_constant=pytest.fail)
    assert list(results["arms"]) == ["clip", "other-only", "clip-ft", "clipzoo"]
    assert results["named_arms"]["other-only"]["columns"] == list(runs.Run(asked, finished).specs)[1:]
    for pair in ("other-only-vs-clip-ft", "clipzoo-vs-other-only", "other-only-vs-clip"):
        values = [results["arms"][arm]["segmentation/miou"]["mean"] for arm in pair.split("-vs-")]
        assert results["differences"][pair]["segmentation/miou"]["mean"] == pytest.approx(values[0] - values[1])
    assert set(results["trainings"]) == set(results["supervision"]) == {"clip-ft", "clipzoo", "other-only"}
    assert len(results["supervision"]["other-only"]["0"]["columns"]) == 1
    page = (finished / "page.html").read_text()
    assert "other-only: trained on captions and pseudo-labels of segmentation" in page
    assert "Four arms of the same pretrained model" in page
    assert ".arm-other-only { --arm: #" in page
    assert "other-only, seed 0" in page


def test_a_second_run_and_an_ablation_reuse_the_training(
    finished: Path, asked: recipe.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "results.json").read_text()
    monkeypatch.setattr("clipzoo.training.objectives.terms", lambda *a: pytest.fail("trained again"))
    verbs.evaluate(runs.Run(asked, finished))
    assert (finished / "results.json").read_text() == before
    done = {name: trained for name, _, trained in planned(runs.Run(asked, finished), Ablation())}
    assert sum(done.values()) == 3


def test_an_arm_may_be_added_to_a_finished_run(
    finished: Path, two: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = runs.Run(with_arms(two, "clip-ft", "clipzoo"), tmp_path / "run")
    verbs.evaluate(plain)
    student = (plain.folder_of("clip-ft", 0) / "student" / "open_clip_model.safetensors").stat()
    more = runs.Run(with_arms(two, "clip-ft", "clipzoo", NAMED), tmp_path / "run")
    verbs.evaluate(more)
    assert (plain.folder_of("clip-ft", 0) / "student" / "open_clip_model.safetensors").stat() == student
    of_two = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]["other-only"]
    of_one = json.loads((finished / "results.json").read_text())["arms"]["other-only"]
    assert of_two == of_one


def test_runs_with_such_arms_are_compared_and_exported(finished: Path, asked: recipe.Recipe, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    compare_runs([finished, tmp_path / "copy"], tmp_path / "out")
    assert "B other-only" in json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]
    folder, _ = verbs.export(runs.Run(asked, finished), arm="other-only")
    assert folder == finished / "export" / "open_clip" / "other-only-0"
    card = (folder / "README.md").read_text()
    assert f"# {asked.name}: other-only, seed 0\n" in card
    assert "| measure | clip | other-only | clip-ft | clipzoo |" in card
    with pytest.raises(CheckpointError, match=f"run `clipzoo train {finished} --arm other-only --seed 5` first"):
        verbs.export(runs.Run(asked, finished), arm="other-only", seed=5)


def test_such_an_arm_may_be_trained_first(asked: recipe.Recipe, tmp_path: Path) -> None:
    """Its learning rate is that of clipzoo, which trials with all columns choose."""
    training = asked.training.model_dump() | {"learning_rates": [1e-3, 2e-3], "steps": 4, "search_steps": 2}
    several = with_arms(asked, *asked.arms, training=training | {"log_every": 1}, seeds=[0])
    run = runs.Run(several, tmp_path)
    student = verbs.train(run, "other-only", 0)
    assert student.is_relative_to(tmp_path / "ablations")
    assert not (tmp_path / "arms" / "clip-ft").exists()
    assert len(run.trainings.trials("clipzoo")) == 2
    for trial in (tmp_path / "arms" / "clipzoo").glob("rate-*"):
        assert {f"loss/{name}" for name in run.specs} <= set(read_log(trial)[0])
    assert {name for name in read_log(student.parent)[0] if "/" in name} == {"loss/contrastive", f"loss/{other(run)}"}
    variant = run.named("other-only")
    assert variant
    with pytest.raises(CheckpointError, match=f"run `clipzoo train {tmp_path} --arm clip-ft --seed 0` first"):
        variant.train("clip-ft", 0)


def other(run: runs.Run) -> str:
    return next(name for name in run.specs if "OtherExpert" in name)


def test_the_dry_run_counts_such_arms(asked: recipe.Recipe, tmp_path: Path) -> None:
    found = preview(asked, tmp_path / "none")
    assert [arm for arm, _ in found.trainings] == ["other-only", "clip-ft", "clipzoo"]
    several = with_arms(asked, *asked.arms, training=asked.training.model_dump() | {"learning_rates": [1e-3, 2e-3]})
    assert preview(several, tmp_path / "none", processes=2).trials == 4
    (tmp_path / "r.yaml").write_text(asked.to_yaml())
    told = CliRunner().invoke(app, ["train", str(tmp_path / "r.yaml"), "--arm", "other", "--trust"])
    assert "did you mean other-only" in str(told.exception)


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        (
            ["clip", "clipzo"],
            "arms.1 is .clipzo.; give one of 'clip', 'clip-ft', 'clipzoo' or 'everything'; did you mean clipzoo",
        ),
        (["clipzoo", {"name": "x"}], r"arms has {name: x}.*with these two fields"),
        (["clipzoo", {"name": "a_b", "columns": ["segmentation"]}], "arms has a_b, which cannot be a row"),
        (["clipzoo", {"name": "none", "columns": []}], "columns is a list of at least one column"),
        (["clipzoo", {"name": "expert", "columns": ["segmentation"]}], "arms has expert, which cannot be a row"),
        (["clipzoo", {"name": "x-best", "columns": ["segmentation"]}], "do not end in -best"),
        (["clip", {"name": "some", "columns": ["segmentation"]}], "add clipzoo to arms"),
        (["clipzoo", {"name": "everything", "columns": ["depth"]}], "give everything different columns"),
        (["clipzoo", NAMED, NAMED], "arms has other-only more than once"),
    ],
)
def test_arms_that_make_no_sense_are_refused(two: recipe.Recipe, arms: list[object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        with_arms(two, *arms)


def test_columns_that_do_not_exist_are_refused_before_work(two: recipe.Recipe, tmp_path: Path) -> None:
    wrong = with_arms(two, "clipzoo", {"name": "depth-only", "columns": ["depth"]})
    with pytest.raises(RecipeError, match=r"variants\.depth-only has 'depth'"):
        runs.Run(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_arm_whose_losses_all_weigh_nothing_is_refused_before_work(two: recipe.Recipe, tmp_path: Path) -> None:
    columns = [column.model_dump() | {"weight": 1.0 - number} for number, column in enumerate(two.columns)]
    training = two.training.model_dump() | {"contrastive_weight": 0}
    wrong = with_arms(two, "clip", "clipzoo", NAMED, columns=columns, training=training)
    with pytest.raises(RecipeError, match=r"weights of all columns of the arm other-only are 0"):
        runs.Run(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
