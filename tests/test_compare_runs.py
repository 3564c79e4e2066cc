"""Several finished runs on one page: paired rows, rows shown apart with the reason, settings that differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo import recipe, runs
from clipzoo.cli import app
from clipzoo.errors import CheckpointError
from clipzoo.runs import verbs
from clipzoo.runs.comparing import compare_runs
from test_pipeline import world  # noqa: F401


@pytest.fixture(scope="module")
def three(world: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:  # noqa: F811
    """Two runs of other learning rates, and one that was tested on other images."""
    root, folders = tmp_path_factory.mktemp("runs"), []
    for name, rate, split in (("one", 1e-3, "test"), ("two", 5e-3, "test"), ("other", 1e-3, "heldout")):
        values = world.model_dump(mode="json") | {"name": name, "seeds": [0]}
        values["training"] |= {"steps": 4, "learning_rates": [rate]}
        values["evaluation"] |= {"pictures": 0}
        if split == "heldout":
            values["evaluation"] |= {
                "test": values["evaluation"]["validation"],
                "validation": values["evaluation"]["test"],
            }
        verbs.evaluate(runs.Run(recipe.parse(values), root / name))
        folders.append(root / name)
    return folders


def test_rows_of_the_same_images_are_paired_and_others_are_shown_apart(three: list[Path], tmp_path: Path) -> None:
    page = compare_runs(three, tmp_path)
    results = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    difference = results["differences"]["B clipzoo-vs-A clipzoo"]["segmentation/miou"]
    own = [
        json.loads((folder / "results.json").read_text())["arms"]["clipzoo"]["segmentation/miou"]["mean"]
        for folder in three
    ]
    assert difference["mean"] == pytest.approx(own[1] - own[0])
    assert difference["ci"][0] <= difference["mean"] <= difference["ci"][1]
    assert results["differences"]["B clip-vs-A clip"]["zero_shot/top1"]["ci"] == [0, 0]
    assert not any(row.startswith("C ") for row in results["arms"])
    reasons = {one["reason"] for one in results["apart"] if one["row"] == "C clipzoo"}
    assert any("test is another benchmark" in reason for reason in reasons)
    assert results["settings"]["training.learning_rates.0"] == {"A": 1e-3, "B": 5e-3, "C": 1e-3}
    text = page.read_text()
    assert "Rows that cannot be compared" in text
    assert "B clip and A clip have equal scores" in text
    assert 'src="http' not in text


def test_runs_without_a_common_benchmark_are_refused(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to compare"):
        compare_runs([three[0], three[2]], tmp_path)


def test_a_run_that_was_not_measured_is_refused(three: list[Path], tmp_path: Path) -> None:
    shutil.copytree(three[0], tmp_path / "copy")
    (tmp_path / "copy" / "results.json").unlink()
    done = CliRunner().invoke(app, ["report", str(three[0]), str(tmp_path / "copy"), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, CheckpointError)
    assert "has no results.json" in str(done.exception)


def test_one_run_has_no_output_folder(three: list[Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(three[0]), "--out", str(tmp_path)])
    assert done.exit_code == 2


def test_open_vocabulary_is_compared_where_both_runs_have_the_same_variant(three: list[Path], tmp_path: Path) -> None:
    folders = []
    for name, source, variant in (("a", three[0], "maskclip"), ("b", three[1], "maskclip"), ("c", three[0], "value")):
        shutil.copytree(source, tmp_path / name)
        values = recipe.load(tmp_path / name / "recipe.yaml", trust=True).model_dump(mode="json")
        values["evaluation"]["open_vocabulary"] = variant
        verbs.evaluate(runs.Run(recipe.parse(values), tmp_path / name))
        folders.append(tmp_path / name)
    compare_runs(folders, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    own = [json.loads((one / "results.json").read_text())["arms"]["clipzoo"] for one in folders[:2]]
    difference = results["differences"]["B clipzoo-vs-A clipzoo"]["open_vocabulary/miou"]
    means = [cell["open_vocabulary/miou"]["mean"] for cell in own]
    assert difference["mean"] == pytest.approx(means[1] - means[0])
    assert "open_vocabulary/miou" not in results["arms"]["C clipzoo"]
    (reason,) = {
        one["reason"]
        for one in results["apart"]
        if one["row"] == "C clipzoo" and one["measure"] == "open_vocabulary/miou"
    }
    assert "open_vocabulary is value" in reason
