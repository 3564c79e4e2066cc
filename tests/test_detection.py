"""Boxes all the way: labeled, stored, looked at, trained on, probed, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipzoo.benchmarks import Split, column_labels, split_of
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing
from clipzoo.evaluation import arms, baselines
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.probes import fitting
from clipzoo.experts import Expert, ExpertCard
from clipzoo.labeling import label
from clipzoo.models import HeadSpec, Student
from clipzoo.pages import inspect
from clipzoo.readers import open_dataset
from clipzoo.recipe import TrainingRecipe
from clipzoo.store import Store, verify
from clipzoo.tasks import Convention, rle
from clipzoo.tasks.detection import Detection
from clipzoo.training import Job, Training, read_log, train
from clipzoo.types import ImageArray

COLORS = Convention(("red", "green", "blue"))


class Squares(Expert):
    """Finds the one bright square of each picture of the test's dataset."""

    def __init__(self) -> None:
        self.card = ExpertCard("truth", "detection", COLORS, weights_sha256="00")

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images: Sequence[ImageArray]) -> list[Detection]:
        return [self.one(image) for image in images]

    @staticmethod
    def one(image: ImageArray) -> Detection:
        rows, columns, colors = np.nonzero(image > 130)
        (H, W, _), sides = image.shape, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        kind = np.bincount(colors).argmax().astype(np.uint16)
        box, one = np.array([sides], np.float32), np.ones(1, np.float32)
        return Detection((H, W), box, kind[None], one, np.zeros(1, np.bool_))


@pytest.fixture(scope="module")
def boxes(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("boxes")
    (report,) = label(str(dataset), [Squares()], str(out), device="cpu", progress=False)
    assert (report.labels, report.failures) == (48, 0)
    return out


@pytest.fixture(scope="module")
def parts(dataset: Path, boxes: Path) -> list[Split]:
    reader, (column,) = open_dataset(str(dataset)), Store(boxes).columns()
    labels = column_labels(boxes, reader, {"detection": column.name})
    entries = [entry for shard in reader.shards for entry in reader.index(shard)]
    whole = split_of(reader, entries, labels, (32, 32), (16, 16))
    return [whole.select(range(*ends)) for ends in ((0, 30), (30, 38), (38, 48))]


def test_a_column_of_boxes_verifies_and_is_shown(dataset: Path, boxes: Path, tmp_path: Path) -> None:
    assert verify(Store(boxes), open_dataset(str(dataset))) == []
    (column,) = Store(boxes).columns()
    row = column.rows("00000").to_pylist()[0]
    assert (row["valid_share"], row["confidence"]) == (1, 1)
    gallery = inspect(boxes, str(dataset), tmp_path / "page.html", count=3)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 2
    assert gallery.columns[0]["convention"] == "classes: 3 names"


def test_boxes_are_trained_on(dataset: Path, boxes: Path, tiny_clip: str, tmp_path: Path) -> None:
    (column,) = Store(boxes).columns()
    reader = open_dataset(str(dataset))
    torch.manual_seed(0)
    spec = HeadSpec("detection", column.convention, None, {"width": 32})
    student = Student.create(tiny_clip, specs={column.name: spec}, layers=[0, 1])
    data = TrainingSet(
        Plan.build(reader, {column.name: column}), reader, {column.name: LabelColumn(column)}, Viewing((32, 32))
    )
    recipe = TrainingRecipe.model_validate({"steps": 25, "batch_size": 16, "log_every": 1})
    train(Training(Job(recipe, rate=3e-3, steps=25, out=tmp_path), student, data))
    losses = [line[f"loss/{column.name}"] for line in read_log(tmp_path) if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_masks_cost_training_nothing(dataset: Path, tmp_path: Path) -> None:
    """They are stored as they are, and not read even where they are none."""

    class Masked(Squares):
        def predict(self, images: Sequence[ImageArray]) -> list[Detection]:
            found = super().predict(images)
            return [replace(one, masks=(rle.encode(np.ones(one.size, np.bool_)),)) for one in found]

    label(str(dataset), [Masked()], str(tmp_path), device="cpu", progress=False, shards=["00000"])
    (column,), reader = Store(tmp_path).columns(), open_dataset(str(dataset))
    plan, used = Plan.build(reader, {column.name: column}), {column.name: LabelColumn(column)}
    seen = TrainingSet(plan, reader, used, Viewing((32, 32)))[0]
    assert seen.damaged == {}
    assert seen.labels[column.name].masks is None


def test_a_probe_finds_what_no_constant_can(parts: list[Split]) -> None:
    seen = baselines.pixels_position(*parts[:2], grid=(8, 8)).score(parts[2])["detection"]
    prior = baselines.position_prior(*parts[:2]).score(parts[2])["detection"]
    name = "detection/ap50"
    assert next(iter(seen.compute())) == name
    assert seen.compute()[name] > prior.compute()[name] + 0.3
    expert = baselines.expert(Squares().predict, "detection", parts[2], COLORS)
    assert expert.compute() == {name: 1, "detection/ap": 1}


def test_grids_that_do_not_divide_the_frame_are_probed_and_sets_joined(parts: list[Split]) -> None:
    fit, choose, test = parts
    probes = fitting.fit_all(lambda part: iter([torch.randn(len(part), 4, 5, 7)]), fit.extended(choose), choose)
    scored = probes.score(test)["detection"]
    assert 0 <= scored.compute()["detection/ap50"] < 0.5


def test_scores_are_kept_compared_and_resampled(parts: list[Split], tmp_path: Path) -> None:
    seen = baselines.pixels_position(*parts[:2], grid=(8, 8)).score(parts[2])["detection"]
    seen.save(tmp_path / "detection.npz")
    again = Scored.load(tmp_path / "detection.npz")
    assert again.compute() == seen.compute()
    np.testing.assert_array_equal(again.each("ap50"), seen.each("ap50"))
    prior = baselines.position_prior(*parts[:2]).score(parts[2])["detection"]
    runs = {"clipzoo": {0: {"detection": seen}, 1: {"detection": seen}}, "clip-ft": {0: {"detection": prior}}}
    results = arms.compare(runs, resamples=200)
    cell = results["arms"]["clipzoo"]["detection/ap50"]
    assert cell["mean"] == seen.compute()["detection/ap50"]
    assert cell["ci"][0] < cell["mean"] < cell["ci"][1]
    assert results["differences"]["clipzoo-vs-clip-ft"]["detection/ap50"]["ci"][0] > 0
    assert arms.restrict(runs, seen.keys[:3])["clipzoo"][0]["detection"].compute()["detection/ap50"] >= 0
