"""The command line on several processes: a whole run, and what its launchers do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipzoo.recipe import Recipe
from clipzoo.training import read_log
from test_pipeline import world  # noqa: F401

pytestmark = pytest.mark.slow

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def ran(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


def clipzoo(*arguments: str) -> tuple[str, ...]:
    return (*arguments, "--device", "cpu", "--trust")


@pytest.fixture(scope="module")
def recipe(world: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Two arms, and two learning rates to try."""
    training = world.training.model_copy(update={"learning_rates": (1e-3, 3e-4), "search_steps": 4, "steps": 12})
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(world.model_copy(update={"training": training}).to_yaml())
    return path


def numbers(out: Path) -> dict[str, Any]:
    results = json.loads((out / "results.json").read_text())
    return {f"{arm}/{name}": value["mean"] for arm, row in results["arms"].items() for name, value in row.items()}


def test_a_run_on_two_processes_has_the_results_of_one(recipe: Path, tmp_path: Path) -> None:
    one = ran(*clipzoo(sys.executable, "-m", "clipzoo", "run", str(recipe), "--out", str(tmp_path / "1")))
    assert one.returncode == 0, one.stderr
    options = ("--out", str(tmp_path / "2"), "--gpus", "2")
    two = ran(*clipzoo(sys.executable, "-m", "clipzoo", "run", str(recipe), *options))
    assert two.returncode == 0, two.stderr
    for text in ("training clipzoo, seed 0", "report:"):
        assert two.stdout.count(text) == one.stdout.count(text) == 1
    ours, theirs = numbers(tmp_path / "2"), numbers(tmp_path / "1")
    assert ours == pytest.approx(theirs, abs=0.05, nan_ok=True)
    log = [read_log(tmp_path / out / "arms" / "clipzoo" / "0")[0]["loss"] for out in ("1", "2")]
    assert log[1] == pytest.approx(log[0], rel=1e-5)
    again = ran(*clipzoo(*TORCHRUN, "--nproc-per-node", "2", "-m", "clipzoo", "run", str(tmp_path / "2")))
    assert again.returncode == 0, again.stderr
    assert numbers(tmp_path / "2") == ours
