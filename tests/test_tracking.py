"""Trackers of a training, and pictures of predictions next to labels."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipzoo import plugins
from clipzoo.data import Batch, loader
from clipzoo.errors import RecipeError
from clipzoo.recipe import TrainingRecipe, parse
from clipzoo.runs import Run
from clipzoo.training import read_log, tracking, train
from clipzoo.training.pictures import COUNT, UNKNOWN, pictures
from clipzoo.training.tracking import TrackedRun
from test_checkpoints import interrupted
from test_training import job, same_student

CODE = (
    "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import torch; torch.set_num_threads(1);"
    "from test_training import job, train; dataset, labels, model, out, tracker = sys.argv[2:];"
    "train(job(Path(dataset), Path(labels), model, Path(out), tracking=[tracker], pictures_every=6))"
)


def test_pictures_show_image_label_and_prediction(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path)
    batch: Batch = next(iter(loader(made.dataset, 8, made.student.tokenize)))
    found = pictures(made.student, batch)
    assert set(found) == set(made.student.specs)
    for column, picture in found.items():
        labeled = batch.targets[column]["valid"].flatten(1).any(1).nonzero().flatten()
        assert picture.shape == (32 * min(len(labeled), COUNT), 3 * 32, 3)
        assert np.array_equal(picture[:32, :32], batch.images[labeled[0]].numpy())
        assert not np.array_equal(picture[:32, 32:64], picture[:32, 64:])


def test_unknown_pixels_are_gray_and_samples_without_a_label_are_left_out(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path)
    batch: Batch = next(iter(loader(made.dataset, 4, made.student.tokenize)))
    for target in batch.targets.values():
        target["valid"][1:] = False
        target["valid"][0, : target["valid"].shape[1] // 2] = False
    for picture in pictures(made.student, batch).values():
        assert picture.shape == (32, 96, 3)
        assert (picture[:16, 32:64] == UNKNOWN).all()
        assert not (picture[16:, 32:64] == UNKNOWN).all()
    for target in batch.targets.values():
        target["valid"][:] = False
    assert pictures(made.student, batch) == {}


def test_pictures_do_not_change_training(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "plain"))
    train(job(dataset, labels, tiny_clip, tmp_path / "shown", pictures_every=4))
    assert same_student(tmp_path / "plain", tmp_path / "shown")
    board = EventAccumulator(str(tmp_path / "shown" / "tensorboard"), {"images": 0, "scalars": 0})
    board.Reload()
    assert set(board.Tags()["images"]) == {"pictures/segmentation/test-truth", "pictures/depth/test-truth"}
    shown = board.Images("pictures/depth/test-truth")
    assert [event.step for event in shown] == [3, 7, 11]
    assert (shown[0].width, shown[0].height) == (96, 32 * COUNT)
    losses = [event.value for event in board.Scalars("loss")]
    assert losses == pytest.approx([line["loss"] for line in read_log(tmp_path / "shown")])


def test_no_tracker_leaves_only_the_log(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path, tracking=[], pictures_every=4, steps=4))
    assert len(read_log(tmp_path)) == 4
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("names", "says"),
    [(["tensorbored"], "no tracker 'tensorbored'; did you mean tensorboard"), (["wandb", "wandb"], "listed twice")],
)
def test_unknown_trackers_are_refused(names: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainingRecipe.model_validate({"steps": 1, "tracking": names})


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    dataset: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.PLUGINS.load("trackio"), "REQUIRES", "no_such_package")
    training = {"steps": 1, "tracking": ["trackio"]}
    values = {"name": "x", "data": str(dataset), "student": {"model": tiny_clip}, "training": training}
    with pytest.raises(RecipeError, match=r"no_such_package is not installed. Run `pip install no_such_package`"):
        Run(parse({**values, "arms": ["clip-ft"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_trackers_are_these() -> None:
    assert plugins.names("training.tracking") == ("tensorboard", "trackio", "wandb")


def test_a_run_has_one_name_and_one_identity(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path / "mine" / "arms" / "clipzoo" / "0", 0, {})
    assert run.name == "mine-clipzoo-0"
    assert TrackedRun(tmp_path / "mine", 0, {}).name == "mine"
    identity = run.identity()
    assert len(identity) == 12
    assert TrackedRun(run.folder, 5, {}).identity() == identity


def history(log: bytes) -> Iterator[dict[str, Any]]:
    """Yield the values of each step of a file of wandb: LevelDB's log format with 7 bytes in front."""
    from wandb.proto.wandb_internal_pb2 import Record

    position, whole = 7, b""
    while position + 7 <= len(log):
        length, kind = struct.unpack_from("<HB", log, position + 4)  # after the checksum
        whole = (whole if kind in (3, 4) else b"") + log[position + 7 : position + 7 + length]
        position += 7 + length
        if (rest := 32768 - position % 32768) < 7:
            position += rest
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def executed(name: str, arguments: list[str], **environment: str) -> None:
    """Train in a process of its own: trackers start threads and processes, and read their environment at import."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(Path(__file__).parent), *arguments, name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""


@pytest.mark.slow
def test_wandb_offline_has_the_values_and_pictures(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    interrupted(dataset, labels, tiny_clip, tmp_path)
    executed("wandb", [str(dataset), str(labels), tiny_clip, str(tmp_path)], WANDB_MODE="offline")
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(f"-{(tmp_path / 'tracking-id').read_text()}")
    (picture,) = (folder / "files").rglob("depth/*_11_*.png")
    with Image.open(picture) as shown:
        assert shown.size == (96, 32 * COUNT)
    found = {}
    for values in history(next(folder.glob("*.wandb")).read_bytes()):
        if "loss" in values:
            found[values["_step"]] = values["loss"]
    assert found == {line["step"]: line["loss"] for line in read_log(tmp_path) if line["step"] >= 6}


@pytest.mark.slow
def test_wandb_without_an_account_is_an_error_with_the_fix(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    code = (
        "from pathlib import Path; from clipzoo.training import tracking; from clipzoo.errors import RecipeError\n"
        f"try: tracking.PLUGINS.load('wandb').open(tracking.TrackedRun(Path({str(tmp_path)!r}), 0, {{}}))\n"
        "except RecipeError as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "Weights & Biases cannot be used (" in ended.stdout, ended.stderr
    assert "WANDB_MODE=offline" in ended.stdout


@pytest.mark.slow
def test_trackio_has_the_values_and_pictures(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    arguments = [str(dataset), str(labels), tiny_clip, str(tmp_path / "run")]
    executed("trackio", arguments, TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1")
    name = f"run-{(tmp_path / 'run' / 'tracking-id').read_text()}"
    with sqlite3.connect(tmp_path / "trackio" / "clipzoo.db") as database:
        rows = database.execute("select step, metrics from metrics where run_name = ? order by step", [name]).fetchall()
    found = {step: json.loads(values)["loss"] for step, values in rows if "loss" in json.loads(values)}
    assert found == {line["step"]: line["loss"] for line in read_log(tmp_path / "run")}
    assert list((tmp_path / "trackio" / "media").rglob("11/*.png"))
