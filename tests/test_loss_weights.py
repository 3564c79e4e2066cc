"""Weights of the losses, the contrastive one included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipzoo.errors import RecipeError
from clipzoo.models import Student
from clipzoo.recipe import parse
from clipzoo.training import read_log, train
from test_training import job

COLUMNS = ("segmentation/test-truth", "depth/test-truth")


def test_the_contrastive_weight_scales_its_term(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path, steps=2, contrastive_weight=0.25))
    for line in read_log(tmp_path):
        expected = 0.25 * line["loss/contrastive"] + sum(line[f"loss/{column}"] for column in COLUMNS)
        assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_labels_alone_train_what_the_predictions_depend_on_and_nothing_else(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path, contrastive_weight=0, weight_decay=0.5)
    before = {name: value.clone() for name, value in made.student.state_dict().items()}
    train(made)
    changed = {n for n, value in made.student.state_dict().items() if not torch.equal(value, before[n])}
    kept = set(before) - changed
    assert {"clip.visual.proj", "clip.logit_scale", "clip.token_embedding.weight", "clip.text_projection"} <= kept
    assert not [name for name in changed if name.startswith("clip.") and ".visual." not in name]
    assert {"clip.visual.conv1.weight", "clip.visual.transformer.resblocks.1.mlp.c_fc.weight"} <= changed
    assert [name for name in changed if name.startswith("heads.")]


def test_a_column_of_weight_0_has_no_part_in_labels_alone(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path, steps=2, contrastive_weight=0)
    made = replace(made, job=replace(made.job, weights={"depth/test-truth": 0.0}))
    train(made)
    trained, start = Student.load(tmp_path / "student"), job(dataset, labels, tiny_clip, tmp_path).student
    heads, before = trained.heads.state_dict(), start.heads.state_dict()
    same = {name.split(".")[0] for name, value in heads.items() if torch.equal(value, before[name])}
    assert same == {"depth/test-truth"}


def test_weights_that_are_all_0_are_refused(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path, contrastive_weight=0)
    with pytest.raises(RecipeError, match=r"the weights of all losses are 0.*contrastive_weight"):
        replace(made, job=replace(made.job, weights=dict.fromkeys(COLUMNS, 0.0)))


def recipe(arms: list[str], weight: float) -> None:
    training = {"steps": 1, "contrastive_weight": 0}
    columns = [{"expert": "demo:depth", "weight": weight}]
    parse({"name": "x", "data": "d", "student": {"model": "demo:clip"}, "training": training, "columns": columns, "arms": arms})  # fmt: skip  # noqa: E501


def test_a_recipe_whose_arms_have_no_loss_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"arm clip-ft has no other loss.*remove clip-ft from arms"):
        recipe(["clip", "clip-ft", "clipzoo"], 1)
    with pytest.raises(RecipeError, match="the weights of all columns are 0"):
        recipe(["clip", "clipzoo"], 0)
    recipe(["clip", "clipzoo"], 1)


def test_the_default_weight_is_1(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path)
    assert made.job.loss_weights == {"contrastive": 1.0}
    assert made.job.rates["text"] == made.job.rates["image"]
    train(replace(made, job=replace(made.job, steps=1)))
    assert load_file(tmp_path / "student" / "open_clip_model.safetensors")
