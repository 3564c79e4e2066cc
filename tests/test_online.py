"""Online columns: the expert labels during training as it would have labeled before; other uses are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from clipzoo import experts, recipe, runs
from clipzoo.data import OnlineColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.errors import ClipzooError, ExpertError, RecipeError, SampleError, StoreError
from clipzoo.experts import Expert, ExpertCard
from clipzoo.models import HeadSpec, Student
from clipzoo.readers import open_dataset
from clipzoo.recipe import TrainingRecipe
from clipzoo.runs import Run
from clipzoo.runs.before.dry_run import preview
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.training import Job, Training, read_log, train
from clipzoo.types import ImageArray
from test_training import same_student

NAME = "depth/demo-depth"


class Failing(Expert):
    """Depth of pictures; no label where the top left pixel is red, and noise in the random state."""

    card = ExpertCard("python:test:Failing", "depth", Convention(kind="metric", along="z"), name="failing")
    batch_size = 5

    def load(self, device: str = "cpu") -> None:
        torch.randn(3)

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        torch.randn(3)
        if any(image[..., 0].mean() > 70 for image in images):
            raise SampleError("this picture is red")
        return [Depth(np.ones(image.shape[:2], np.float32), np.ones(image.shape[:2], np.bool_), "metric", "z")
                for image in images]  # fmt: skip


def tokens(texts: Sequence[str]) -> torch.Tensor:
    return torch.zeros((len(texts), 4), dtype=torch.long)


def data(dataset: Path, expert: Expert) -> TrainingSet:
    reader = open_dataset(str(dataset))
    online = {expert.card.column: OnlineColumn(expert)}
    return TrainingSet(Plan.build(reader, {}), reader, {}, Viewing((32, 32)), online=online)


def job(dataset: Path, model: str, out: Path, expert: Expert, **settings: object) -> Training:
    torch.manual_seed(0)
    card = expert.card
    student = Student.create(model, specs={card.column: HeadSpec(card.task, card.convention, "conv")})
    values = {"steps": 8, "batch_size": 16, "log_every": 1, "checkpoint_every": 2, "workers": 0, **settings}
    settled = TrainingRecipe.model_validate(values)
    return Training(Job(settled, rate=1e-3, steps=8, out=out), student, data(dataset, expert))


def values(dataset: Path, tiny_clip: str, columns: list[Mapping[str, object]]) -> dict[str, object]:
    return {
        "name": "online",
        "data": str(dataset),
        "columns": columns,
        "student": {"model": tiny_clip},
        "arms": ["clipzoo"],
        "training": {"steps": 3, "batch_size": 16, "workers": 0, "log_every": 1, "learning_rates": [1e-3]},
    }


# A run -------------------------------------------------------------------------------------------------------


def test_a_run_with_an_online_expert_learns_what_one_with_stored_labels_does(
    dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    logs = {}
    for way, online in (("stored", False), ("online", True)):
        written = values(dataset, tiny_clip, [{"expert": "demo:depth", "online": online}])
        run = Run(recipe.parse(written), tmp_path / way)
        folder = runs.train(run, "clipzoo", 0).parent
        logs[way] = [line for line in read_log(folder) if "loss" in line]
        assert (folder / "supervision.json").read_text().count('"labels": 48') == 1
        assert list(run.inputs.manifests()) == [NAME]
        assert bool(run.store.columns()) != online
    for a, b in zip(logs["stored"], logs["online"], strict=True):
        assert a[f"loss/{NAME}"] == pytest.approx(b[f"loss/{NAME}"], abs=1e-4)
    assert logs["stored"][0]["loss/contrastive"] == logs["online"][0]["loss/contrastive"]


def test_a_dry_run_says_that_nothing_is_stored(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    written = values(dataset, tiny_clip, [{"expert": "demo:depth", "online": True}])
    found = preview(recipe.parse(written), tmp_path / "run")
    assert found.coverage == {}
    assert (f"labels {NAME}", "predicted during training, not stored") in found.rows()
    assert found.samples == 48


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"column": NAME, "online": True}, "online needs an expert"),
        ({"expert": "demo:depth", "online": True, "min_confidence": 0.5}, "min_confidence needs stored labels"),
        ({"expert": "demo:depth", "online": True, "where": "valid > 0.5"}, "where needs stored labels"),
        ({"expert": "demo:depth", "online": True, "confidence_weight": 1}, "confidence_weight needs stored labels"),
    ],
)
def test_fields_that_need_a_store_are_refused(
    column: Mapping[str, object], says: str, dataset: Path, tiny_clip: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        recipe.parse(values(dataset, tiny_clip, [column]))


def test_an_expert_that_reads_other_columns_is_refused_before_work(
    dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    derived = {"expert": f"column:{NAME}?to=normals&fov=60", "online": True}
    written = values(dataset, tiny_clip, [{"expert": "demo:depth"}, derived])
    with pytest.raises(ClipzooError, match="cannot label online: it reads the labels of depth/demo-depth"):
        Run(recipe.parse(written), tmp_path / "run")


def test_an_online_column_cannot_be_read_by_another_expert(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    derived = {"expert": f"column:{NAME}?to=normals&fov=60"}
    written = values(dataset, tiny_clip, [{"expert": "demo:depth", "online": True}, derived])
    with pytest.raises(ExpertError, match="reads the column 'depth/demo-depth', which does not exist"):
        Run(recipe.parse(written), tmp_path / "run")


# A training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_training_resumes_to_the_same_bits(
    workers: int, dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(step: int, values: Mapping[str, float]) -> None:
        if step == 5:
            raise KilledError

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(job(dataset, tiny_clip, whole, experts.create("demo:depth")))
    first = job(dataset, tiny_clip, parts, experts.create("demo:depth"), workers=workers)
    object.__setattr__(first, "on_step", kill)
    with pytest.raises(KilledError):
        train(first)
    train(job(dataset, tiny_clip, parts, experts.create("demo:depth"), workers=workers))
    assert same_student(whole, parts)


def test_a_picture_without_a_label_is_masked_and_counted(dataset: Path) -> None:
    made = data(dataset, Failing())
    state = torch.get_rng_state()
    (batch,) = loader(made, 48, tokens)
    assert torch.equal(torch.get_rng_state(), state), "an expert does not change the random state of the training"
    red = batch.targets["depth/failing"]["valid"].flatten(1).any(1).logical_not()
    assert 0 < int(red.sum()) < 48
    assert batch.unreadable["depth/failing"] == (int(red.sum()), 48)
    assert {one.shard for one in batch.skipped} == {"00000", "00001", "00002"}
    assert {one.key for one in batch.skipped} == {key for key, one in zip(batch.keys, red, strict=True) if one}
    assert all(reason == "depth/failing: this picture is red" for _, _, reason in batch.skipped)
    assert not batch.pictures


def test_too_many_failures_stop_a_training_with_the_fix(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this picture is red\nRun `clipzoo experts check python:test:Failing`"):
        train(job(dataset, tiny_clip, tmp_path, Failing(), max_failures=0.01))


def test_an_error_of_foreign_code_is_the_reason_of_its_pictures(dataset: Path) -> None:
    class Broken(Failing):
        def predict(self, images: Sequence[ImageArray]) -> list[object]:
            raise ZeroDivisionError("division by zero")

    batch = next(iter(loader(data(dataset, Broken()), 8, tokens)))
    assert batch.unreadable["depth/failing"] == (8, 8)
    assert {one.reason for one in batch.skipped} == {"depth/failing: ZeroDivisionError: division by zero"}
