"""Students and settings at the edges of the trainer: other towers, layouts, scales, and nothing to train."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaConfig

from clipzoo import losses
from clipzoo.errors import DatasetError, RecipeError
from clipzoo.models import Student
from clipzoo.recipe import parse
from clipzoo.training import checkpoint, train
from clipzoo.training.processes import sharding, whole
from clipzoo.training.updates import exact, optimizer
from test_checkpoints import interrupted
from test_locking import hugging_face, made, plan, student  # noqa: F401
from test_ranks import SIZE, Updates, batch
from test_training import job

HALF = 5
"""Readable images of a batch in which others are not."""


def contiguous(tree: Any) -> Any:
    """Return nested values with tensors as a training with FSDP2 writes them: without channels-last order."""
    if isinstance(tree, dict):
        return {name: contiguous(value) for name, value in tree.items()}
    return tree.contiguous() if torch.is_tensor(tree) else tree


def test_resumed_moments_have_the_memory_order_of_their_parameters(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(dataset, labels, tiny_clip, tmp_path)
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, contiguous(checkpoint.load(path)))
    built: list[torch.optim.AdamW] = []
    build = optimizer.build
    monkeypatch.setattr(optimizer, "build", lambda *given: built.append(build(*given)) or built[0])
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def look(step: int, values: object) -> None:
        seen.extend((p.stride(), state["exp_avg"].stride()) for p, state in built[0].state.items())

    train(replace(job(dataset, labels, tiny_clip, tmp_path), on_step=look))
    assert any(len(ours) == 4 and ours[1] == 1 for ours, _ in seen), "no convolution has the channels-last order"
    assert all(ours == theirs for ours, theirs in seen)


def test_cublas_is_configured_before_the_student_is_computed(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def freeze(*given: object) -> None:
        raise ZeroDivisionError(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))

    monkeypatch.setattr(optimizer, "freeze", freeze)
    for deterministic, value in ((False, "None"), (True, ":4096:8")):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        with pytest.raises(ZeroDivisionError, match=value):
            train(job(dataset, labels, tiny_clip, tmp_path / value[1:], deterministic=deterministic))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    exact.prepare(deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(
    ("start", "bias", "limit"),
    [(2.0, None, math.log(100)), (4.77, None, math.log(100)), (4.77, torch.tensor(-12.9), 4.77)],
)
def test_the_scale_is_limited_to_100_or_to_the_start_of_a_siglip(
    tiny_clip: str, start: float, bias: torch.Tensor | None, limit: float
) -> None:
    updates = Updates(tiny_clip)
    clip = updates.student.clip
    clip.logit_scale.data.fill_(start)
    clip.logit_bias = bias
    updater = updates.updater
    clip.logit_bias = None
    updates.student.clip.logit_scale.data.fill_(limit)
    updates.adam.register_step_post_hook(lambda *_: updates.student.clip.logit_scale.data.add_(1))
    updater.update(batch(updates.student, slice(0, SIZE)), 0)
    assert updates.student.clip.logit_scale.item() == pytest.approx(limit)


def test_a_frozen_scale_is_not_limited(tiny_clip: str) -> None:
    updates = Updates(tiny_clip)
    updater = updates.updater
    updates.student.clip.logit_scale.requires_grad_(False).fill_(5.0)
    updater.update(batch(updates.student, slice(0, SIZE)), 0)
    assert updates.student.clip.logit_scale.item() == 5


def test_a_resumed_training_has_the_limit_of_its_start(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    interrupted(dataset, labels, tiny_clip, tmp_path)
    path = tmp_path / checkpoint.NAME
    state = checkpoint.load(path)
    state["student"]["clip.logit_scale"].fill_(6.0)
    checkpoint.save(path, state)
    training = job(dataset, labels, tiny_clip, tmp_path)
    train(training)
    assert training.student.clip.logit_scale.item() <= math.log(100) + 1e-6


def test_a_text_tower_of_hugging_face_is_trained(made: Any) -> None:  # noqa: F811
    clip = made("vit", custom_text=True)
    clip.text = hugging_face(RobertaConfig)
    one = student(clip).train()
    tokens = torch.tensor([[0, 5, 6, 2, 1, 1, 1, 1], [0, 7, 2, 1, 1, 1, 1, 1]])
    out = one(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), tokens)
    assert torch.allclose(out["text_features"].norm(dim=-1), torch.ones(2))
    assert "text_features" not in one(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    out["text_features"][:, 0].sum().backward()
    assert clip.text.proj.weight.grad.norm() > 0
    one.eval()
    with torch.no_grad():
        again = one(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), tokens)["text_features"]
        assert torch.equal(again, clip.encode_text(tokens, normalize=True))


@pytest.mark.parametrize(
    ("family", "settings", "refused"),
    [
        ("timm-resnet", {"activation_checkpointing": True}, True),
        ("timm-resnet", {"activation_checkpointing": True, "unlocked_image_layers": 0}, False),
        ("timm-resnet", {}, False),
        ("timm-vit", {"activation_checkpointing": True}, False),
    ],
)
def test_batch_norms_that_would_be_computed_twice_are_refused(
    made: Any,  # noqa: F811
    tmp_path: Path,
    family: str,
    settings: dict[str, object],
    refused: bool,
) -> None:
    one = student(made(family))
    before, state = {name: value.clone() for name, value in one.state_dict().items()}, torch.get_rng_state()
    recipe = plan(tmp_path, **settings).settings
    if refused:
        with pytest.raises(RecipeError, match=r"computes batch norms twice .*unlocked_image_layers: 0"):
            sharding.check_student(recipe, one)
    else:
        sharding.check_student(recipe, one)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.requires_grad for parameter in one.parameters())


def test_batch_norms_of_a_stem_that_is_computed_once_are_allowed(made: Any, tmp_path: Path) -> None:  # noqa: F811
    one = student(made("timm-vit"))
    trunk = one.clip.visual.trunk
    trunk.patch_embed.proj = torch.nn.Sequential(trunk.patch_embed.proj, torch.nn.BatchNorm2d(trunk.embed_dim))
    sharding.check_student(plan(tmp_path, activation_checkpointing=True).settings, one)


def test_a_student_of_which_nothing_is_trained_is_refused(tiny_clip: str, tmp_path: Path) -> None:
    settings = {"steps": 1, "text_factor": 0, "unlocked_image_layers": 0}
    with pytest.raises(RecipeError, match=r"nothing would be trained.*unlocked_image_layers to null"):
        optimizer.freeze(Student.create(tiny_clip), plan(tmp_path, **settings))
    values = {"name": "x", "data": "d", "student": {"model": tiny_clip}, "training": settings}
    with pytest.raises(RecipeError, match=r"are 0, which trains heads alone, but the arm clip-ft has none"):
        parse({**values, "arms": ["clip-ft"]})
    parse({**values, "arms": ["clip"]})


def test_positions_that_openclip_fixes_are_not_trained(tiny_clip: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(tiny_clip.removeprefix("local-dir:")).iterdir():
        if not file.name.startswith("open_clip_model"):
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["pos_embed_type"] = "sin_cos_2d"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    one = Student.create(f"local-dir:{folder}", random=True)
    optimizer.freeze(one, plan(tmp_path))
    locked = [name for name, parameter in one.named_parameters() if not parameter.requires_grad]
    assert locked == ["clip.visual.positional_embedding"]


def test_the_largest_value_of_a_batch_in_chunks_is_that_of_all_chunks() -> None:
    known = whole.Known()
    with losses.part_of(known):
        losses.total(torch.tensor(3.0)), losses.total(torch.tensor(3.0), largest=True)
    other = whole.Known()
    with losses.part_of(other):
        losses.total(torch.tensor(5.0)), losses.total(torch.tensor(5.0), largest=True)
    assert [whole._total(parts).item() for parts in zip(known.own, other.own, strict=True)] == [8, 5]


def test_a_batch_with_fewer_samples_than_chunks_is_trained_in_fewer(tiny_clip: str) -> None:
    terms = []
    for chunks in (1, SIZE):
        updates = Updates(tiny_clip, accumulate=chunks)
        update = updates.updater.update(batch(updates.student, slice(0, HALF)), 0)
        terms.append({name: value.item() for name, value in update.terms.items()})
    assert terms[1] == pytest.approx(terms[0], rel=1e-5)
    with pytest.raises(DatasetError, match="none of the samples of rank 0 can be read"):
        updates.updater.update(batch(updates.student, slice(0, 0)), 0)
