"""Interpolation between the start and a trained student: weights, the choice on validation, the row and the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from clipzoo import recipe, runs
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.evaluation import retrieval, zero_shot
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.suite import Suite
from clipzoo.evaluation.tradeoff import tradeoff
from clipzoo.models import Student, interpolated
from clipzoo.pages import write_page
from clipzoo.runs import verbs
from clipzoo.runs.before.dry_run import preview
from clipzoo.runs.comparing import compare_runs
from test_pipeline import world  # noqa: F401
from test_report import scored_dense

SWEPT = {"alphas": [0.5, 1.0], "max_loss": 0.5, "arms": ["clip-ft", "clipzoo"]}


# Weights ----------------------------------------------------------------------------------------------------


def moved(model: str) -> tuple[Student, Student]:
    """A student, and the same one with other weights."""
    torch.manual_seed(0)
    start, end = Student.create(model), Student.create(model)
    with torch.no_grad():
        for parameter in end.parameters():
            parameter += torch.randn_like(parameter)
    return start, end


def test_every_weight_lies_between_start_and_end(tiny_clip: str) -> None:
    start, end = moved(tiny_clip)
    middle = interpolated(start, end, 0.25).state_dict()
    first, last = start.state_dict(), end.state_dict()
    assert "clip.logit_scale" in middle
    for name, value in middle.items():
        expected = 0.75 * first[name].double() + 0.25 * last[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    for alpha, student in ((0, start), (1, end)):
        ends = interpolated(start, end, alpha).state_dict()
        assert all(torch.equal(value, student.state_dict()[name]) for name, value in ends.items())
    assert not torch.equal(first["clip.logit_scale"], last["clip.logit_scale"]), "neither student is changed"


def test_statistics_of_batch_norms_are_interpolated_and_their_counters_are_those_of_the_end() -> None:
    start, end = Student.create(_packaged()), Student.create(_packaged())
    with torch.no_grad():
        for name, value in end.clip.state_dict().items():
            value += 3 if name.endswith("num_batches_tracked") else 1.0
    middle, first = interpolated(start, end, 0.5).clip.state_dict(), start.clip.state_dict()
    (mean, *_), (count, *_) = (
        [name for name in middle if name.endswith(ending)] for ending in ("running_mean", "num_batches_tracked")
    )
    torch.testing.assert_close(middle[mean], first[mean] + 0.5)
    assert middle[count] == first[count] + 3


def _packaged() -> str:
    from clipzoo import model_schemes

    return model_schemes.resolve("demo:clip")


def test_other_architectures_are_refused(tiny_clip: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"tensors of their CLIP models differ in shape, such as .* Give the student"
    ):
        interpolated(Student.create(tiny_clip), Student.create(_packaged()), 0.5)


# Choice -----------------------------------------------------------------------------------------------------


def scores(hits: float, miou: float) -> dict[str, Scored]:
    """200 images, of which a share ``hits`` is recognized, and segmentation of about a level."""
    rows = np.ones((200, 3))
    rows[int(200 * hits) :, 1] = 0
    dense = scored_dense(np.random.default_rng(0), np.zeros(200), (miou, 0.4, 24.0))["segmentation"]
    keys = tuple(f"z{i}" for i in range(200))
    return {"zero_shot": Scored("zero_shot", keys, rows, zero_shot.METRIC), "segmentation": dense}


def test_the_highest_dense_mean_is_chosen_whose_interval_of_the_loss_is_within_the_limit() -> None:
    swept = {0.0: scores(0.80, 0.2), 0.5: scores(0.79, 0.3), 0.75: scores(0.75, 0.35), 1.0: scores(0.60, 0.4)}
    found = tradeoff(swept, 0.03)
    assert found
    assert [point.alpha for point in found.points] == [0, 0.5, 0.75, 1]
    assert found.points[1].loss == pytest.approx(0.01)
    low, high = found.points[1].loss_ci or (0, 0)
    assert 0 <= low <= 0.01 < high < 0.03
    assert found.best.alpha == 0.5
    assert 0.4 < (found.kept(found.best) or 0) < 0.6
    assert found.points[0].dense == pytest.approx(scores(0.8, 0.2)["segmentation"].compute()["segmentation/miou"])
    wide = tradeoff(swept, 0.012)
    assert wide
    assert wide.points[1].loss < 0.012 < (wide.points[1].loss_ci or (0, 0))[1]
    assert wide.best.alpha == 0, "the measured loss is within the limit, but its interval is not"
    free = tradeoff(swept, 0.5)
    assert free
    assert free.best.alpha == 1


def test_retrieval_counts_where_there_are_no_classes() -> None:
    def captioned(hits: int) -> dict[str, Scored]:
        rows = np.ones((200, 8))
        rows[hits:, 1] = rows[hits:, 5] = 0
        dense = scores(0.8, 0.2)["segmentation"]
        return {"retrieval": Scored("retrieval", dense.keys, rows, retrieval.METRIC), "segmentation": dense}

    found = tradeoff({0.0: captioned(100), 1.0: captioned(90)}, 0.01)
    assert found
    assert found.measure == "retrieval/r1"
    assert found.points[1].loss == pytest.approx(0.05)
    assert found.best.alpha == 0


def test_without_recognition_or_dense_tasks_there_is_no_tradeoff() -> None:
    both = scores(0.8, 0.2)
    for group in both:
        left = {name: one for name, one in both.items() if name != group}
        assert tradeoff({0.0: left, 1.0: left}, 0.01) is None


def test_angles_count_as_in_the_criterion_of_learning_rates() -> None:
    def with_normals(angle: float) -> dict[str, Scored]:
        dense = scored_dense(np.random.default_rng(0), np.zeros(200), (0.3, 0.4, angle))
        return {"zero_shot": scores(0.8, 0.3)["zero_shot"], "normals": dense["normals"]}

    found = tradeoff({0.0: with_normals(30), 1.0: with_normals(21)}, 0.01)
    assert found
    assert found.points[1].gain == pytest.approx(0.1, abs=0.005)
    low, high = found.points[1].gain_ci or (0, 0)
    assert low < found.points[1].gain < high


# Recipes ----------------------------------------------------------------------------------------------------


def test_a_recipe_that_cannot_choose_is_refused(world: recipe.Recipe) -> None:  # noqa: F811
    values = world.model_dump(mode="json") | {"interpolation": {}}
    without = values | {"evaluation": values["evaluation"] | {"probe": None}}
    with pytest.raises(RecipeError, match=r"interpolation is chosen on validation by dense probes"):
        recipe.parse(without)
    with pytest.raises(RecipeError, match=r"interpolation\.arms has clipzoo, which is not in arms"):
        recipe.parse(values | {"arms": ["clip", "clip-ft"]})
    with pytest.raises(RecipeError, match=r"random weights have no zero-shot recognition to keep"):
        recipe.parse(values | {"student": values["student"] | {"random": True}})
    with pytest.raises(RecipeError, match=r"interpolation\.alphas\.0 is 1\.5"):
        recipe.parse(values | {"interpolation": {"alphas": [1.5]}})
    with pytest.raises(RecipeError, match=r"interpolation\.alpha: no such field; did you mean alphas"):
        recipe.parse(values | {"interpolation": {"alpha": [0.5]}})


# Runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def values(world: recipe.Recipe) -> dict[str, object]:  # noqa: F811
    made = world.model_dump(mode="json") | {"seeds": [0]}
    made["training"] |= {"steps": 12, "learning_rates": [3e-3]}
    made["evaluation"]["pictures"] = 0
    return made


@pytest.fixture(scope="module")
def plain(values: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without interpolation."""
    out = tmp_path_factory.mktemp("plain")
    verbs.run(runs.Run(recipe.parse(values), out))
    return out


@pytest.fixture(scope="module")
def swept(plain: Path, values: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, interpolated afterwards."""
    out = tmp_path_factory.mktemp("swept") / "run"
    shutil.copytree(plain, out)
    verbs.run(runs.Run(recipe.parse(values | {"interpolation": SWEPT}), out))
    return out


def test_interpolation_trains_nothing_again_and_adds_rows(plain: Path, swept: Path) -> None:
    before, after = (json.loads((one / "results.json").read_text()) for one in (plain, swept))
    assert "interpolation" not in before
    assert list(after["arms"]) == ["clip", "clip-ft", "clip-ft-best", "clipzoo", "clipzoo-best"]
    for arm, cells in before["arms"].items():
        assert after["arms"][arm] == cells
    for pair, cells in before["differences"].items():
        assert after["differences"][pair] == cells
    for arm in ("clip-ft", "clipzoo"):
        weights = f"arms/{arm}/0/student/open_clip_model.safetensors"
        assert (plain / weights).stat().st_mtime_ns == (swept / weights).stat().st_mtime_ns
        assert {"segmentation/miou", "zero_shot/top1", "retrieval/r5"} <= set(after["arms"][f"{arm}-best"])
    assert "clipzoo-best-vs-clip" in after["differences"]
    assert "95 % interval" in after["protocol"]["interpolation"]
    for arm in ("clip-ft", "clipzoo"):
        record = after["interpolation"][arm]["0"]
        tested = {point["alpha"]: point for point in record["test"]["points"]}
        assert set(tested) == {0, record["best"], 1}
        assert record["test"]["best"] == record["best"], "test chooses nothing"
        assert tested[record["best"]]["recognition"] == after["arms"][f"{arm}-best"]["zero_shot/top1"]["mean"]


def test_the_best_student_has_the_recorded_weights(swept: Path) -> None:
    folder = swept / "arms" / "clipzoo" / "0"
    record = json.loads((folder / "interpolation.json").read_text())
    assert [point["alpha"] for point in record["points"]] == [0, 0.5, 1]
    assert (record["measure"], record["images"], record["dense_images"]) == ("zero_shot/top1", 32, 32)
    allowed = [point for point in record["points"] if point["within"]]
    assert record["best"] == max(allowed, key=lambda point: point["dense"])["alpha"]
    run = runs.Run(recipe.load(swept / "recipe.yaml", trust=True), swept)
    expected = interpolated(run.start(), Student.load(folder / "student"), record["best"]).clip.state_dict()
    best = Student.load(folder / "best").clip.state_dict()
    assert all(torch.equal(best[name], value) for name, value in expected.items())


def test_only_validation_is_measured_in_a_sweep_and_existing_scores_are_used(
    plain: Path, values: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(plain, tmp_path / "run")
    measured: list[list[str]] = []
    measure = Suite.measure

    def recorded(self: Suite, student: Student, splits: list[str], *rest: object) -> object:
        measured.append(list(splits))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(self, student, splits, *rest)

    monkeypatch.setattr(Suite, "measure", recorded)
    settings = values | {"interpolation": SWEPT | {"arms": ["clipzoo"]}}
    with pytest.raises(KeyboardInterrupt):
        verbs.interpolate(runs.Run(recipe.parse(settings), tmp_path / "run"))
    found = verbs.interpolate(runs.Run(recipe.parse(settings), tmp_path / "run"))
    assert measured == [["validation"]] * 4, "α = 0 and 0.5, then 1 twice: the first time it was stopped"
    assert not (tmp_path / "run" / "scores" / "clipzoo-best").exists()
    again = verbs.interpolate(runs.Run(recipe.parse(settings), tmp_path / "run"))
    assert len(measured) == 4
    assert again == found
    stricter = settings | {"interpolation": {"alphas": [0.25, 0.5], "max_loss": 0.2}}
    verbs.interpolate(runs.Run(recipe.parse(stricter), tmp_path / "run"))
    assert len(measured) == 5, "only α = 0.25 is new"


def test_another_training_is_measured_again(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept, tmp_path / "run")
    folder = tmp_path / "run" / "arms" / "clipzoo" / "0"
    before = json.loads((folder / "interpolation.json").read_text())
    end = Student.load(folder / "student")
    with torch.no_grad():
        end.clip.visual.proj.mul_(-1)
    end.save(folder / "student")
    said: list[str] = []
    run = runs.Run(recipe.load(tmp_path / "run" / "recipe.yaml", trust=True), tmp_path / "run")
    run.progress.stage = said.append  # type: ignore[method-assign]
    verbs.interpolate(run)
    after = json.loads((folder / "interpolation.json").read_text())
    assert after["points"][0] == before["points"][0]
    assert after["points"][2] != before["points"][2]
    assert any("student has changed" in line for line in said)


def test_the_dry_run_lists_the_students(values: dict[str, object], tmp_path: Path) -> None:
    rows = dict(preview(recipe.parse(values | {"interpolation": SWEPT}), tmp_path / "run").rows())
    assert rows["interpolation"] == "clip-ft, clipzoo: α = 0, 0.5, 1 of each seed, measured on validation"
    assert "interpolation" not in dict(preview(recipe.parse(values), tmp_path / "run").rows())


def test_an_arm_that_is_not_trained_is_not_interpolated(world: recipe.Recipe, tmp_path: Path) -> None:  # noqa: F811
    made = world.model_dump(mode="json") | {"interpolation": {}}
    with pytest.raises(CheckpointError, match=r"nothing to interpolate: run `clipzoo train .* --arm clipzoo --seed 0`"):
        verbs.interpolate(runs.Run(recipe.parse(made), tmp_path))
    with pytest.raises(RecipeError, match=r"the recipe has no interpolation: run `clipzoo interpolate`"):
        verbs.interpolate(runs.Run(world, tmp_path / "other"))


def test_a_chosen_end_is_compared_with_other_runs(plain: Path, values: dict[str, object], tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "one")
    only_ends = {"alphas": [1.0], "max_loss": 0.99, "arms": ["clipzoo"]}
    verbs.run(runs.Run(recipe.parse(values | {"interpolation": only_ends}), tmp_path / "one"))
    stale = tmp_path / "one" / "scores" / "clipzoo-best" / "0"  # of an earlier choice
    shutil.copytree(tmp_path / "one" / "scores" / "clip-ft" / "0", stale)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    compare_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    own = json.loads((tmp_path / "one" / "results.json").read_text())["arms"]["clipzoo-best"]
    assert results["arms"]["B clipzoo-best"]["segmentation/miou"]["mean"] == own["segmentation/miou"]["mean"]
    assert "B clipzoo-best-vs-A clipzoo-best" in results["differences"]


def test_the_best_student_is_exported(plain: Path, swept: Path, tmp_path: Path) -> None:
    run = runs.Run(recipe.load(swept / "recipe.yaml", trust=True), swept)
    folder, parity = verbs.export(run, arm="clipzoo-best", out=tmp_path / "export")
    record = json.loads((swept / "arms/clipzoo/0/interpolation.json").read_text())
    card = (folder / "README.md").read_text()
    assert f"{1 - record['best']:g} × the pretrained model + {record['best']:g} × the trained student" in card
    assert "differ from those of the trained student by at most" in parity
    before = runs.Run(recipe.load(plain / "recipe.yaml", trust=True), plain)
    with pytest.raises(CheckpointError, match=r"no interpolated student .* run `clipzoo interpolate"):
        verbs.export(before, arm="clipzoo-best", out=tmp_path / "none")


def test_the_command_interpolates_a_run_and_a_pair(plain: Path, values: dict[str, object], tmp_path: Path) -> None:
    run, evaluation = tmp_path / "run", values["evaluation"]
    shutil.copytree(plain, run)
    assert isinstance(evaluation, dict)
    arguments = ["interpolate", str(run), "--alphas", "0.5", "--max-loss", "0.2", "--device", "cpu", "--trust"]
    told = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert "chosen student: α = " in told.output
    kept = recipe.load(run / "recipe.yaml", trust=True).interpolation
    assert kept
    assert (kept.alphas, kept.max_loss) == ((0.5,), 0.2)
    start = tmp_path / "start"
    runs.Run(recipe.load(run / "recipe.yaml", trust=True), run).start().save(start)
    pair = [
        "interpolate", str(start), str(run / "arms/clipzoo/0/student"), "--out", str(tmp_path / "pair"), "--alphas",
        "0.5", "--max-loss", "0.2", "--probe", evaluation["probe"], "--validation", evaluation["validation"],
        "--device", "cpu",
    ]  # fmt: skip
    for _ in range(2):
        told = CliRunner().invoke(app, pair, catch_exceptions=False)
        assert told.exit_code == 0, told.output
    mine, theirs = (
        json.loads((one / "interpolation.json").read_text()) for one in (tmp_path / "pair", run / "arms/clipzoo/0")
    )
    assert [point["recognition"] for point in mine["points"]] == [point["recognition"] for point in theirs["points"]]
    assert Student.load(tmp_path / "pair" / "best").image_size == (32, 32)
    refused = CliRunner().invoke(app, ["interpolate", str(start), str(start)], env={"COLUMNS": "200"})
    assert "give a run folder, or START END with --out, --probe and --validation" in refused.output


# The page ---------------------------------------------------------------------------------------------------


def test_the_page_draws_both_arms_and_says_what_was_chosen(swept: Path) -> None:
    page = (swept / "page.html").read_text()
    assert 'id="interpolation"' in page
    (part,) = re.findall(r'<section id="interpolation">.*?</section>', page, re.DOTALL)
    (chart,) = re.findall(r"<svg .*?</svg>", part, re.DOTALL)
    assert chart.count('class="line"') == 2
    assert chart.count('<circle class="dot') == 4, "α = 0.5 and 1 of each arm"
    assert chart.count('class="ring"') == 2
    assert "limit of the loss" in chart
    assert ">start</text>" in chart
    for arm in ("clip-ft", "clipzoo"):
        assert re.search(rf"For {arm}, (α = \S+ is chosen on validation|the pretrained model itself)", part)
    assert part.count("<tbody>") == 2
    assert part.count('<th scope="col">segmentation<small>mIoU</small></th>') == 2
    assert "Five arms of the same pretrained model" in page
    assert "clipzoo-best: clipzoo interpolated with clip" in page
    assert "Interpolated with the pretrained model (clipzoo-best): " in page
    assert "None" not in part


def test_the_page_says_if_the_pretrained_model_is_chosen(swept: Path, tmp_path: Path) -> None:
    results = json.loads((swept / "results.json").read_text())
    record = results["interpolation"]["clipzoo"]["0"]
    record["best"] = 0.0
    for point in record["points"][1:]:
        point |= {"within": False}
    page = write_page(results, tmp_path / "page.html").read_text()
    assert "Interpolation chose the pretrained model itself: no other student is within the limit" in page
    assert (
        "For clipzoo, the pretrained model itself (α = 0) is chosen: no α above 0 keeps the interval of the loss "
        "within 50.0 points." in page.replace("\u202f", " ")
    )
