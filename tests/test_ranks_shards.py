"""Checkpoints of sharded trainings: every process writes its shards, and any number of processes resumes."""

from __future__ import annotations

import os
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from clipzoo.cli import app
from clipzoo.errors import CheckpointError
from clipzoo.training import checkpoint, reached, read_log, train
from clipzoo.training.processes import shards
from forking import on_ranks
from test_ranks import stopping
from test_training import job, same_student

pytestmark = pytest.mark.ranks
FOUR = 4  # the step at which trainings are stopped; five are done


@pytest.fixture(scope="module")
def stopped(dataset: Path, labels: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two ranks with an average of its weights, stopped; it keeps every second checkpoint."""
    out = tmp_path_factory.mktemp("stopped") / "training"
    (out / "shards-9-00000000.draft").mkdir(parents=True)  # of a process that was killed
    on_ranks(2, lambda: stopping(sharded(dataset, labels, tiny_clip, out), FOUR) and None)
    return out


def sharded(dataset: Path, labels: Path, model: str, out: Path, **settings: object) -> Any:
    values = {"sharding": "fsdp2", "ema": 0.9, "keep_every": 2, "deterministic": True, **settings}
    return job(dataset, labels, model, out, **values)


def test_every_rank_writes_its_shards_and_others_are_pruned(stopped: Path) -> None:
    state = checkpoint.load(stopped / "checkpoint.pt")
    assert state["step"] == reached(stopped) == FOUR + 1
    weights = [value for value in (*state["student"].values(), *state["ema"].values()) if value.ndim]
    assert all(value.is_meta for value in weights)
    named = {checkpoint.load(path)["shards"] for path in stopped.glob("*.pt")}
    assert {path.name for path in stopped.glob("shards-*")} == named
    assert len(named) == 3  # of steps 2, 4 and 5
    files = sorted((stopped / state["shards"]).iterdir())
    assert len(files) == 2
    assert abs(files[0].stat().st_size - files[1].stat().st_size) < 0.2 * files[0].stat().st_size
    with safe_open(files[0], "pt") as file:
        assert "optimizer/state/0/exp_avg" in file.keys()  # noqa: SIM118


def test_a_consolidated_checkpoint_resumes_as_its_shards_do(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, stopped: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(stopped, folder)
    done = CliRunner().invoke(app, ["checkpoint", "consolidate", str(one), "--out", str(tmp_path / "whole.pt")])
    assert done.exit_code == 0, done.output
    assert "checkpoint of step 5" in done.output
    state = checkpoint.load(tmp_path / "whole.pt")
    assert shards.FIELD not in state
    assert not any(value.is_meta for value in state["student"].values())
    for folder in one.glob("shards-*"):
        shutil.rmtree(folder)
    shutil.copy(tmp_path / "whole.pt", one / "checkpoint.pt")
    for folder in (one, two):
        train(sharded(dataset, labels, tiny_clip, folder))
    assert same_student(one, two)
    assert {path.name for path in two.glob("shards-*")} == {
        checkpoint.load(path).get("shards") for path in two.glob("*.pt") if "shards" in checkpoint.load(path)
    }
    whole = tmp_path / "whole"
    train(sharded(dataset, labels, tiny_clip, whole))
    losses = [[line["loss"] for line in read_log(out) if "loss" in line] for out in (two, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 4])
def test_more_ranks_resume_from_the_shards_of_two(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, stopped: Path, count: int
) -> None:
    shutil.copytree(stopped, tmp_path / "more")
    make = partial(sharded, dataset, labels, tiny_clip, batch_size=16 if count == 4 else 12)
    if count == 3:  # 16 samples are no multiple of three
        shutil.rmtree(tmp_path / "more")
        on_ranks(2, lambda: stopping(make(tmp_path / "more"), FOUR) and None)
    on_ranks(count, lambda: train(make(tmp_path / "more")) and None)
    train(make(tmp_path / "whole"))
    losses = [[line["loss"] for line in read_log(tmp_path / out) if "loss" in line] for out in ("more", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["HARM"],)


def test_shards_are_read_without_pickles(tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata that torch writes in its usual format is a pickle."""
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    out = tmp_path / "training"
    shutil.copytree(stopped, out)
    (out / str(checkpoint.load(out / "checkpoint.pt")["shards"]) / ".metadata").write_bytes(pickle.dumps(Harmful()))
    checkpoint.consolidate(out / "checkpoint.pt", tmp_path / "whole.pt")
    assert not (tmp_path / "harm").exists()


def test_damaged_shards_are_refused(tmp_path: Path, stopped: Path) -> None:
    for number, damage in enumerate(("missing", "truncated", "half", "elsewhere")):
        out = tmp_path / str(number)
        shutil.copytree(stopped, out)
        state = checkpoint.load(out / "checkpoint.pt")
        first, second = sorted((out / state["shards"]).iterdir())
        if damage == "missing":
            shutil.rmtree(out / state["shards"])
        elif damage == "truncated":
            first.write_bytes(first.read_bytes()[:1000])
        elif damage == "half":
            second.unlink()
        else:
            torch.save({**state, "shards": "shards-/../../x"}, out / "checkpoint.pt")
        with pytest.raises(CheckpointError, match=r"missing or damaged|is not one"):
            checkpoint.consolidate(out / "checkpoint.pt", tmp_path / "whole.pt")
        assert not (tmp_path / "whole.pt").exists()


def test_consolidating_refuses_what_is_not_there_and_what_is(tmp_path: Path, stopped: Path) -> None:
    command = ["checkpoint", "consolidate"]
    done = CliRunner().invoke(app, [*command, str(tmp_path), "--out", str(tmp_path / "whole.pt")])
    assert "Only an unfinished training has a checkpoint" in str(done.exception)
    (tmp_path / "whole.pt").write_bytes(b"mine")
    done = CliRunner().invoke(app, [*command, str(stopped), "--out", str(tmp_path / "whole.pt")])
    assert "nothing is overwritten" in str(done.exception)
    assert (tmp_path / "whole.pt").read_bytes() == b"mine"
