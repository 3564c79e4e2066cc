"""Batches of several image sizes: towers interpolate their positions, and all ranks draw the same size."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.models import Student
from clipzoo.readers import open_dataset
from clipzoo.recipe import TrainingRecipe, parse
from clipzoo.runs import Run, verbs
from clipzoo.store import Store
from clipzoo.training import check_settings, read_log
from test_students import FAMILIES, SPECS, images, model  # noqa: F401

SIZES = ((32, 32), (24, 40), (48, 48))
GROWING = ("ViT", "ResNet", "ConvNeXt", "SigLIP", "MobileCLIP S", "timm ViT")


@pytest.mark.parametrize("name", GROWING)
def test_another_size_gives_the_outputs_and_gradients_of_a_resized_student(name: str, model: str) -> None:  # noqa: F811
    size = (64, 64) if name == "ResNet" else (64, 96)
    torch.manual_seed(0)
    ours = Student.create(model, specs=SPECS, layers=FAMILIES[name].layers, random=True).eval()
    weights = copy.deepcopy(ours.state_dict())
    torch.manual_seed(0)
    theirs = Student.create(model, specs=SPECS, layers=FAMILIES[name].layers, random=True, size=size).eval()
    pictures, tokens = images(size), ours.tokenize(["red square", "blue"])
    ours.check_size(size, name)
    one, other = ours(pictures, tokens), theirs(pictures, tokens)
    torch.testing.assert_close(one["image_features"], other["image_features"])
    for column, prediction in other["predictions"].items():
        torch.testing.assert_close(one["predictions"][column], prediction)
    one["image_features"][:, 0].sum().backward()
    named = [(key, value) for key, value in ours.named_parameters() if "visual" in key]
    own = [value.grad for key, value in named if key.endswith(("positional_embedding", "pos_embed"))]
    assert all(grad is not None and bool(grad.any()) for grad in own)
    assert bool(own) == (name not in ("ConvNeXt", "MobileCLIP S"))
    assert all(torch.equal(value, weights[key]) for key, value in ours.state_dict().items())
    ours(images(ours.image_size), tokens)  # its own size works as before


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("ViT", (36, 32), "patches have 8×8 pixels"),
        ("ResNet", (40, 64), "stride is 32"),
        ("Swin", (96, 96), "made for one size"),
        ("EVA-02", (48, 48), "made for one size"),
        ("PE-Core", (48, 48), "made for one size"),
    ],
)
def test_sizes_that_a_tower_cannot_see_are_refused(
    name: str,
    size: tuple[int, int],
    reason: str,
    model: str,  # noqa: F811
) -> None:
    student = Student.create(model, random=True)
    with pytest.raises(CheckpointError, match=reason):
        student.check_size(size, "it")
    settings = TrainingRecipe(steps=1, sizes=[size], tracking=[])
    with pytest.raises(RecipeError, match=rf"training\.sizes.*{reason}"):
        check_settings(settings, student)


def test_sizes_and_compile_are_refused_together(tiny_clip: str) -> None:
    settings = TrainingRecipe(steps=1, sizes=[32, 64], compile=True, tracking=[])
    with pytest.raises(RecipeError, match="compile"):
        check_settings(settings, Student.create(tiny_clip))


@pytest.fixture
def data(dataset: Path, labels: Path) -> TrainingSet:
    reader, columns = open_dataset(str(dataset)), {one.name: one for one in Store(labels).columns()}
    used = {name: LabelColumn(column, 4) for name, column in columns.items()}
    return TrainingSet(Plan.build(reader, columns), reader, used, Viewing((32, 32), sizes=SIZES), seed=3)


def tokenize(texts: object) -> torch.Tensor:
    return torch.zeros(len(texts), 4)  # type: ignore[arg-type]


def test_each_batch_has_one_size_and_targets_of_it(data: TrainingSet) -> None:
    seen = []
    for batch in loader(data, 4, tokenize, steps=12):
        H, W = batch.images.shape[1:3]
        seen.append((H, W))
        for target in batch.targets.values():
            assert target["valid"].shape[1:] == (H // 4, W // 4)
    assert set(seen) == set(SIZES)


def test_sizes_are_those_of_the_step_on_any_rank_and_after_any_resume(data: TrainingSet) -> None:
    def sizes(**options: int) -> list[tuple[int, ...]]:
        return [tuple(batch.images.shape[1:3]) for batch in loader(data, 4, tokenize, steps=8, **options)]

    whole = sizes()
    assert sizes(start=5) == whole[5:]
    assert sizes(rank=0, ranks=2) == sizes(rank=1, ranks=2) == whole
    assert sizes(workers=1) == whole
    data.seed = 4
    assert sizes() != whole


def test_without_sizes_views_are_as_before(data: TrainingSet) -> None:
    plain = TrainingSet(data.plan, data.reader, data.labels, Viewing((48, 48)), seed=3)
    one = TrainingSet(data.plan, data.reader, data.labels, Viewing((32, 32), sizes=((48, 48),)), seed=3)
    for ours, theirs in zip(loader(one, 8, tokenize), loader(plain, 8, tokenize), strict=True):
        assert torch.equal(ours.images, theirs.images)


def test_a_run_trains_on_batches_of_several_sizes(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    values = {
        "name": "several", "data": str(dataset), "store": str(labels), "arms": ["clip", "clipzoo"],
        "columns": [{"column": "segmentation/test-truth", "head": "linear"}],
        "student": {"model": tiny_clip},
        "training": {
            "steps": 6, "batch_size": 8, "tracking": [], "sizes": [32, [32, 48], 64], "log_every": 1,
            "anchors": {"embedding": 1.0, "gram": 1.0},
        },
    }  # fmt: skip
    run = Run(parse(values), tmp_path / "run")
    verbs.train(run, "clipzoo", 0)
    assert len([line for line in read_log(run.folder_of("clipzoo", 0)) if "loss" in line]) == 6
    assert Student.load(run.folder_of("clipzoo", 0) / "student").image_size == (32, 32)
    values["training"]["sizes"] = [36]
    with pytest.raises(RecipeError, match=r"training\.sizes"):
        Run(parse(values), tmp_path / "other")


@pytest.mark.parametrize("size", [0, "abc", [32], [32, 0], [1, 2, 3]])
def test_a_wrong_size_is_one_mistake(size: object) -> None:
    values = {"name": "x", "data": "d", "arms": ["clip"], "student": {"model": "demo:clip"}}
    with pytest.raises(RecipeError, match=r"1 mistake:\n  training\.sizes\.1: .* is no image size") as raised:
        parse({**values, "training": {"steps": 1, "sizes": [32, size]}})
    assert "constrained" not in str(raised.value)
