"""Files of a run that are damaged or foreign are said in a sentence; what counts as done is on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from clipzoo import files
from clipzoo.errors import CheckpointError
from clipzoo.training import checkpoint, reached, read_log, train
from test_training import job


def started(dataset: Path, labels: Path, tiny_clip: str, out: Path) -> dict[str, Any]:
    """A checkpoint after 2 steps; its state."""

    def stop(step: int, values: object) -> None:
        if step == 3:
            raise ZeroDivisionError

    made = job(dataset, labels, tiny_clip, out)
    object.__setattr__(made, "on_step", stop)
    with pytest.raises(ZeroDivisionError):
        train(made)
    return checkpoint.load(out / "checkpoint.pt")


def no_dict(state: dict[str, Any]) -> Any:
    return [1, 2]


def without_optimizer(state: dict[str, Any]) -> Any:
    return {name: value for name, value in state.items() if name != "optimizer"}


def of_other_heads(state: dict[str, Any]) -> Any:
    return state | {"student": {n.replace("depth", "edges"): v for n, v in state["student"].items()}}


def of_another_width(state: dict[str, Any]) -> Any:
    return state | {"student": {n: torch.zeros(3, 5) for n in state["student"]}}


def of_another_optimizer(state: dict[str, Any]) -> Any:
    return state | {"optimizer": {"state": {}, "param_groups": []}}


def of_a_longer_training(state: dict[str, Any]) -> Any:
    return state | {"step": 99}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (no_dict, "step, student, optimizer, rng missing"),
        (without_optimizer, "optimizer missing"),
        (of_other_heads, "another model or to other heads"),
        (of_another_width, "another model or to other heads"),
        (of_another_optimizer, "another model or to other heads"),
        (of_a_longer_training, "after 99 steps, and this training has 12"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_what_to_do(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, change: Any, says: str
) -> None:
    torch.save(change(started(dataset, labels, tiny_clip, tmp_path)), tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=f"(?is)checkpoint.pt.*{says}.*delete it to restart"):
        train(job(dataset, labels, tiny_clip, tmp_path))


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_off_says_what_to_do(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, kept: float
) -> None:
    started(dataset, labels, tiny_clip, tmp_path)
    path = tmp_path / "checkpoint.pt"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    for read in (lambda: train(job(dataset, labels, tiny_clip, tmp_path)), lambda: reached(tmp_path)):
        with pytest.raises(CheckpointError, match="Delete it to restart"):
            read()


@pytest.mark.parametrize("name", ["log.jsonl", "skipped.jsonl"])
@pytest.mark.parametrize("line", ["{", "[]", "null", '{"loss": 1}', "\udcff"])
def test_a_damaged_line_of_a_log_is_named(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, name: str, line: str
) -> None:
    sound = json.dumps({"step": 0, "key": "k", "reason": "r"})
    text = f"{sound}\n{line}\n{sound}\n"
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=rf"line 2 of .*{name} is damaged.*Delete this line"):
        train(job(dataset, labels, tiny_clip, tmp_path))
    if name == "log.jsonl":
        with pytest.raises(CheckpointError, match="line 2"):
            read_log(tmp_path)


def test_a_last_line_that_a_kill_tore_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"step": 1, "lo')
    assert read_log(tmp_path) == [{"step": 0}]


def test_what_counts_as_done_is_on_the_disk_before_the_checkpoint_goes(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync, unlink = os.fsync, Path.unlink

    def noted(descriptor: int) -> None:
        synced.append(os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path))
        fsync(descriptor)

    def gone(self: Path, missing_ok: bool = False) -> None:
        synced.append(f"removed {self.name}")
        unlink(self, missing_ok)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "unlink", gone)
    train(job(dataset, labels, tiny_clip, tmp_path))
    first = next(i for i, name in enumerate(synced) if name.startswith("checkpoint.pt"))
    assert synced[first + 1] == ".", "the checkpoint's name, too"
    end = synced.index("removed checkpoint.pt")
    done = next(i for i, name in enumerate(synced) if name.startswith("student/done"))
    student = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "student").iterdir()} - {"student/done"}
    assert student <= set(synced[:done])
    assert "student" in synced[done:end]
    assert "." in synced[:done]


def test_a_folder_is_settled_with_all_that_is_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(
        "clipzoo.files._writing._sync", lambda path: synced.append(path.relative_to(tmp_path).as_posix())
    )
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.npz").touch()
    files.sync_folder(tmp_path / "a")
    assert sorted(synced) == [".", "a", "a/b", "a/b/c.npz"]
