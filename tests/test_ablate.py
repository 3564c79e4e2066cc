"""Ablations: subsets of the columns share the other work of a run, and the page shows their effects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from clipzoo import recipe, runs
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.evaluation.results import AblationResults
from clipzoo.pages.ablation import write_ablation
from clipzoo.runs.ablation import Ablation, Budget, ablate, advise, planned
from clipzoo.runs.ablation.advise import rank_correlation
from clipzoo.training import ended
from test_pipeline import SquareExpert, world  # noqa: F401


class OtherExpert(SquareExpert):
    """The same labels in another column."""

    card = SquareExpert.card.__class__(
        "python:test_ablate:OtherExpert", "segmentation", SquareExpert.card.convention, license="CC0-1.0"
    )


@pytest.fixture(scope="module")
def two(world: recipe.Recipe) -> recipe.Recipe:  # noqa: F811
    values = world.model_dump(mode="json")
    values["columns"] = [{"expert": "python:test_pipeline:SquareExpert"}, {"expert": "python:test_ablate:OtherExpert"}]
    values["training"] |= {"steps": 4, "learning_rates": [1e-3]}
    return recipe.parse(values | {"seeds": [0], "variants": {"everything": ["segmentation"]}})


@pytest.fixture(scope="module")
def ablated(two: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablated")
    ablate(runs.Run(two, out), Ablation())
    return out


def test_equal_subsets_are_trained_once_and_clip_ft_never_again(ablated: Path, two: recipe.Recipe) -> None:
    folders = [path.name for path in (ablated / "ablations").iterdir()]
    assert len(folders) == 2  # without one of two columns is only the other
    assert all(name.startswith("only-segmentation--") for name in folders)
    assert all(
        [one.name for one in (ablated / "ablations" / name / "arms").iterdir()] == ["clipzoo"] for name in folders
    )
    assert not any((ablated / "ablations" / name / "labels").exists() for name in folders)
    assert all(done for _, _, done in planned(runs.Run(two, ablated), Ablation()))


def test_results_have_paired_effects_and_costs(ablated: Path) -> None:
    results = json.loads((ablated / "ablation.json").read_text(), parse_constant=pytest.fail)
    first, second = results["columns"]
    assert set(results["arms"]) == {
        "clip", "clip-ft", "all", f"without {first}", f"without {second}", f"only {first}", f"only {second}",
        "everything",
    }  # fmt: skip
    effect = results["differences"][f"all-vs-without {first}"]["segmentation/miou"]
    values = {row: results["arms"][row]["segmentation/miou"]["mean"] for row in results["arms"]}
    assert effect["mean"] == pytest.approx(values["all"] - values[f"only {second}"])
    assert effect["ci"][0] <= effect["mean"] <= effect["ci"][1]
    assert values["everything"] == values["all"]
    assert all(one["seconds_per_image"] > 0 for one in results["cost"].values())
    page = (ablated / "ablation.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "python:test" not in page or first in page


def test_the_summary_is_about_tested_experts_only(tmp_path: Path) -> None:
    cell = {"mean": 0.01, "ci": [-0.1, 0.1], "direction": "higher", "unit": "", "values": [0.01]}

    def lead(kinds: dict[str, str]) -> str:
        variants = {f"{kind} {name}": {"kind": kind, "column": name, "columns": [], "folder": ""}
                    for name, kind in kinds.items()}  # fmt: skip
        cells = {"depth/delta1": cell}
        results = {
            "recipe": "r", "seeds": [0], "steps": 1, "columns": ["depth/a", "depth/b", "depth/c"], "cost": {},
            "images": {"depth": 9}, "variants": variants, "arms": dict.fromkeys(["all", *variants], cells),
            "differences": dict.fromkeys([f"all-vs-{name}" for name in variants], cells), "baselines": {},
        }  # fmt: skip
        page = write_ablation(cast(AblationResults, results), tmp_path / "page.html").read_text()
        return "".join(re.findall(r'<p class="lead">(.*?)</p>', page))

    columns = ["depth/a", "depth/b", "depth/c"]
    every = lead(dict.fromkeys(columns, "without"))
    assert every == "No expert clearly changes a main measure next to the others."
    two = lead(dict.fromkeys(columns[:2], "without"))
    assert two == "depth/a and depth/b do not clearly change a main measure next to the others."
    one = lead({"depth/a": "without", "depth/b": "only"})
    assert one == "depth/a does not clearly change a main measure next to the others."
    assert lead(dict.fromkeys(columns, "only")) == ""


def test_a_second_call_trains_nothing(ablated: Path, two: recipe.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (ablated / "ablation.json").read_text()
    monkeypatch.setattr("clipzoo.training.objectives.terms", lambda *a: pytest.fail("trained again"))
    ablate(runs.Run(two, ablated), Ablation(only=["segmentation"]))
    assert set(json.loads(before)["arms"]) == set(json.loads((ablated / "ablation.json").read_text())["arms"])


def test_a_variant_is_a_run_with_the_base_s_clip_ft(ablated: Path) -> None:
    folder = next((ablated / "ablations").iterdir())
    run = runs.Run(recipe.load(folder / "recipe.yaml", trust=True), folder)
    assert run.folder_of("clip-ft", 0) == ablated.absolute() / "arms" / "clip-ft" / "0"
    assert not run.trainings.remaining()
    other = run.recipe.model_dump(mode="json")
    other["training"]["weight_decay"] = 0.5
    with pytest.raises(CheckpointError, match="differs in more than columns"):
        runs.Run(recipe.parse(other), folder)


def test_fewer_steps_have_a_reference_of_their_own(two: recipe.Recipe, tmp_path: Path) -> None:
    ablate(runs.Run(two, tmp_path), Ablation(only=["python:test_ablate:OtherExpert"], steps=2))
    root = tmp_path / "ablations" / "steps-2"
    assert json.loads((root / "ablation.json").read_text())["steps"] == 2
    assert not (tmp_path / "arms").exists()
    assert ended(root / "arms" / "clip-ft" / "0")


def test_mistakes_are_refused_before_work(two: recipe.Recipe, tmp_path: Path) -> None:
    run = runs.Run(two, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"--without has 'depth', which is no column"):
        ablate(run, Ablation(without=["depth"]))
    single = two.model_copy(update={"columns": two.columns[:1], "variants": {}})
    with pytest.raises(RecipeError, match="at least two"):
        ablate(runs.Run(single, tmp_path / "single"), Ablation())
    with pytest.raises(RecipeError, match=r"variants.geometry has 'depth'"):
        runs.Run(two.model_copy(update={"variants": {"geometry": ("depth",)}}), tmp_path / "named")


def test_the_dry_run_lists_trainings(two: recipe.Recipe, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(two.to_yaml())
    done = CliRunner().invoke(
        app, ["ablate", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "x"), "--dry-run", "--trust"]
    )
    assert done.exit_code == 0, done.output
    assert "4 trainings of 4 steps" in done.output
    assert not (tmp_path / "x").exists()


# Advice ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def advised(two: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return advise(runs.Run(two, tmp_path_factory.mktemp("advised")), Budget(64, 2))


def test_advice_compares_each_expert_alone_with_captions_on_validation(advised: Path) -> None:
    results = json.loads(advised.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    first, second = results["columns"]
    assert set(results["arms"]) == {"clip-ft", f"only {first}", f"only {second}"}
    assert set(results["advice"]) == {first, second}
    assert results["steps"] == 2
    one = results["advice"][first]
    assert one["gain"] == pytest.approx(results["advice"][second]["gain"])  # equal labels
    assert one["hours"] > 0
    assert results["rank_correlation"] is None
    page = advised.read_text()
    assert "Measured on validation" in page
    assert "Only this expert minus captions alone" in page


def test_advice_measures_no_test_and_leaves_the_run_to_be_trained(advised: Path, two: recipe.Recipe) -> None:
    root = advised.parents[2]
    assert not (root / "arms").exists()
    assert not list(root.rglob("test"))
    assert not (root / "results.json").exists()
    run = runs.Run(two, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("student/*")}
    assert before
    assert advise(run, Budget(64, 2)) == advised  # everything is reused
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("student/*")}


@pytest.mark.parametrize(("full", "expected"), [((1, 2, 3), 1.0), ((3, 2, 1), -1.0), ((1, 3, 2), 0.5)])
def test_rank_correlation_is_that_of_scipy(tmp_path: Path, full: tuple[float, ...], expected: float) -> None:
    def cells(value: float) -> dict[str, object]:
        return {
            "zero_shot/top1": {"mean": 1 - value / 10, "direction": "higher", "unit": ""},
            "depth/delta1": {"mean": value / 10, "direction": "higher", "unit": ""},
            "normals/mean_angle": {"mean": 90 - 9 * value, "direction": "lower", "unit": "°"},
            "retrieval/r1": {"mean": 0.9, "direction": "higher", "unit": ""},
        }

    arms = {"clip-ft": cells(0.5), **{f"only {name}": cells(value) for name, value in zip("abc", full, strict=True)}}
    (tmp_path / "ablation.json").write_text(json.dumps({"arms": arms}))
    gains = {"a": 0.1, "b": 0.2, "c": 0.3}
    assert rank_correlation(gains, tmp_path / "ablation.json") == pytest.approx(expected)
    assert expected == pytest.approx(spearmanr(list(gains.values()), full).statistic)
    assert rank_correlation(gains, tmp_path / "none.json") is None


def test_advice_without_validation_is_refused(two: recipe.Recipe, tmp_path: Path) -> None:
    values = two.model_dump(mode="json")
    values["evaluation"] |= {"validation": None, "probe": None, "test": None}
    with pytest.raises(RecipeError, match=r"evaluation\.validation is missing"):
        advise(runs.Run(recipe.parse(values), tmp_path))


def test_advice_on_a_single_expert_compares_it_with_captions(two: recipe.Recipe, tmp_path: Path) -> None:
    single = two.model_copy(update={"columns": two.columns[:1], "variants": {}})
    page = advise(runs.Run(single, tmp_path), Budget(64, 2))
    results = json.loads(page.with_suffix(".json").read_text())
    (column,) = results["columns"]
    assert set(results["arms"]) == {"clip-ft", f"only {column}"}
    assert list(results["advice"]) == [column]
    none = two.model_copy(update={"columns": (), "variants": {}, "arms": ("clip-ft",)})
    with pytest.raises(RecipeError, match="columns is empty"):
        advise(runs.Run(none, tmp_path / "none"))


def test_the_advice_command_prints_a_row_per_expert(advised: Path) -> None:
    root = advised.parents[2]
    ended = CliRunner().invoke(
        app, ["advise", str(root), "--samples", "64", "--steps", "2", "--device", "cpu", "--trust"]
    )
    assert ended.exit_code == 0, ended.output
    assert ended.output.count("segmentation/") >= 2
    assert "time of labeling" in " ".join(ended.output.split())
