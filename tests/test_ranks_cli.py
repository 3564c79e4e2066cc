"""The command line on several processes: a whole run, and what its launchers do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipzoo.evaluation.measure import Scored
from clipzoo.recipe import Recipe
from clipzoo.training import read_log
from test_pipeline import world  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

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


def test_two_processes_measure_the_numbers_of_one_to_the_last_digit(recipe: Path, tmp_path: Path) -> None:
    rates = ("--set", "training.learning_rates=[0.001]")
    one, two = tmp_path / "1", tmp_path / "2"
    done = ran(*clipzoo(sys.executable, "-m", "clipzoo", "run", str(recipe), "--out", str(one), *rates))
    assert done.returncode == 0, done.stderr
    shutil.copytree(one, two)
    shutil.rmtree(two / "scores")
    (two / "results.json").unlink()
    again = ran(*clipzoo(*TORCHRUN, "--nproc-per-node", "2", "-m", "clipzoo", "run", str(two)))
    assert again.returncode == 0, again.stderr
    assert "measuring clipzoo" in again.stdout
    assert "training" not in again.stdout
    assert numbers(two) == numbers(one)
    for path in sorted((one / "scores").rglob("*.npz")):
        ours, theirs = (Scored.load(root / path.relative_to(one)) for root in (two, one))
        assert np.array_equal(ours.statistics, theirs.statistics, equal_nan=True), path


def test_two_processes_train_the_first_seed_of_the_recipe(recipe: Path, tmp_path: Path) -> None:
    settings = ("--set", "training.learning_rates=[0.001]", "--set", "training.steps=2", "--set", "seeds=[5, 0]")
    options = ("--out", str(tmp_path), "--gpus", "2", *settings)
    done = ran(*clipzoo(sys.executable, "-m", "clipzoo", "train", str(recipe), *options))
    assert "clipzoo, seed 5: trained for 2 steps" in done.stdout, done.stderr
    assert [one.name for one in (tmp_path / "arms" / "clipzoo").iterdir() if one.is_dir()] == ["5"]


def processes_of(parent: subprocess.Popen[str]) -> dict[int, int]:
    """Rank -> number of the processes that a launcher has started."""
    children = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True).stdout.split()
    ranks = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        ranks.update({int(one.removeprefix("RANK=")): child for one in variables if one.startswith("RANK=")})
    return ranks


def begun(recipe: Path, out: Path) -> subprocess.Popen[str]:
    """A long training on two processes, after its first steps."""
    options = (
        "--out",
        str(out),
        "--gpus",
        "2",
        "--set",
        "training.steps=5000",
        "--set",
        "training.checkpoint_every=5000",
    )
    rates = ("--set", "training.learning_rates=[0.001]", "--set", "training.log_every=1")
    command = clipzoo(sys.executable, "-m", "clipzoo", "train", str(recipe), *options, *rates)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    log = out / "arms" / "clipzoo" / "0" / "log.jsonl"
    deadline = time.monotonic() + 90
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


def test_a_launcher_passes_a_signal_on_and_the_state_is_saved(recipe: Path, tmp_path: Path) -> None:
    process = begun(recipe, tmp_path)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, shown
    assert shown.count("stopped by SIGTERM after step") == 1
    assert (tmp_path / "arms" / "clipzoo" / "0" / "checkpoint.pt").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_command_with_the_cause(recipe: Path, tmp_path: Path, rank: int) -> None:
    process = begun(recipe, tmp_path)
    others = processes_of(process)
    began = time.monotonic()
    os.kill(others[rank], signal.SIGKILL)
    _, shown = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode == 128 + signal.SIGKILL, shown
    assert "Traceback" not in shown
    cause = "rank 1 ended without a message: it was killed" if rank else "rank 0 was killed by signal 9"
    assert shown.count(cause) == shown.count("rank ") == 1
    for number in others.values():
        assert not Path(f"/proc/{number}").exists()
