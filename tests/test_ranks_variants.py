"""Arms with a subset of the columns, ablations and advice on several processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from clipzoo.recipe import Recipe
from clipzoo.training import read_log
from test_ablate import two
from test_named_arms import asked
from test_pipeline import world
from test_ranks_cli import clipzoo, ran

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

__all__ = ["asked", "two", "world"]


@pytest.fixture(scope="module")
def recipe(asked: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One seed, one rate, few steps."""
    training = asked.training.model_copy(update={"learning_rates": (1e-3,), "steps": 6, "log_every": 1})
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(asked.model_copy(update={"training": training, "seeds": (0,)}).to_yaml())
    return path


def command(verb: str, recipe: Path, out: Path, *options: str) -> str:
    done = ran(*clipzoo(sys.executable, "-m", "clipzoo", verb, str(recipe), "--out", str(out), *options))
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(training: Path) -> list[float]:
    return [one["loss"] for one in read_log(training) if "loss" in one]


def test_subsets_of_the_columns_are_trained_as_by_one_process(recipe: Path, tmp_path: Path) -> None:
    one, both = tmp_path / "1", tmp_path / "2"
    for out, options in ((one, ()), (both, ("--gpus", "2"))):
        shown = command("train", recipe, out, "--arm", "other-only", *options)
        assert shown.count("other-only, seed 0: trained for 6 steps") == 1
        shown = command("ablate", recipe, out, *options)
        assert shown.count("ablation:") == 1
    folders = sorted(path.parent.relative_to(one) for path in one.rglob("log.jsonl"))
    assert len(folders) == 4  # both arms with all columns, and clipzoo with each column alone
    for folder in folders:
        assert losses(both / folder) == pytest.approx(losses(one / folder), rel=1e-3), folder
        assert losses(both / folder)[0] == pytest.approx(losses(one / folder)[0], rel=1e-5), folder
    ours, theirs = (json.loads((out / "ablation.json").read_text())["arms"] for out in (both, one))
    assert {row: {name: cell["mean"] for name, cell in cells.items()} for row, cells in ours.items()} == {
        row: pytest.approx({name: cell["mean"] for name, cell in cells.items()}, abs=0.05, nan_ok=True)
        for row, cells in theirs.items()
    }


def test_advice_is_computed_on_all_processes(recipe: Path, tmp_path: Path) -> None:
    shown = command("advise", recipe, tmp_path, "--gpus", "2", "--samples", "64", "--steps", "4")
    (results,) = tmp_path.rglob("advice.json")
    assert set(json.loads(results.read_text())["arms"]) >= {"clip-ft"}
    assert shown.count("\nadvice: ") == 1
