"""Locked layers and layer-wise learning rates: the layers of each family of towers, compared with OpenCLIP's lock."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import open_clip
import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from torch import nn
from transformers import BertConfig, PretrainedConfig, RobertaConfig

from clipzoo.errors import RecipeError
from clipzoo.models import HeadSpec, Student, layers
from clipzoo.recipe import TrainingRecipe, parse
from clipzoo.runs import Run
from clipzoo.tasks import Convention
from clipzoo.training import Job, train
from clipzoo.training.updates import optimizer
from test_training import job

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 3}
VISION: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "timm-vit": {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
                 "image_size": 160},
    "timm-convnext": {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
                      "timm_proj": "mlp", "image_size": 160},
    "timm-resnet": {"timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "avg",
                    "timm_proj": "linear", "image_size": 160},
}  # fmt: skip


def built(one: Student, job: Job) -> torch.optim.Optimizer:
    optimizer.freeze(one, job)
    return optimizer.build(one, job)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a family to a fresh OpenCLIP model."""

    def make(family: str, custom_text: bool = False) -> nn.Module:
        folder = tmp_path_factory.mktemp("family")
        config = {"embed_dim": 16, "vision_cfg": VISION[family], "text_cfg": TEXT, "custom_text": custom_text}
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        torch.manual_seed(0)
        return cast("nn.Module", open_clip.create_model(f"local-dir:{folder}", load_weights=False))

    return make


def names(clip: nn.Module, part: str) -> list[list[str]]:
    """Return the parameters of each layer."""
    depths = layers.depths(cast("Student", SimpleNamespace(clip=clip)), part)
    return [[name for name, depth in depths.items() if depth == d] for d in range(max(depths.values()) + 1)]


def trained(clip: nn.Module) -> set[str]:
    return {name for name, parameter in clip.named_parameters() if parameter.requires_grad}


@pytest.mark.filterwarnings("ignore:Importing from timm.models.helpers")  # by OpenCLIP 3.3
@pytest.mark.parametrize("family", [family for family in VISION if family != "resnet"])
@pytest.mark.parametrize("unlocked", [1, 2, 3])
def test_the_last_layers_of_image_towers_are_those_of_openclip(made: Any, family: str, unlocked: int) -> None:
    clip = made(family)
    mine = {name.removeprefix("clip.") for layer in names(clip, "image")[-unlocked:] for name in layer}
    clip.lock_image_tower(unlocked_groups=unlocked)
    assert mine == {name for name in trained(clip) if name.startswith("visual.")}


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("unlocked", [1, 2, 4])
def test_the_last_layers_of_text_towers_are_those_of_openclip(made: Any, custom_text: bool, unlocked: int) -> None:
    clip = made("vit", custom_text)
    mine = {name.removeprefix("clip.") for layer in names(clip, "text")[-unlocked:] for name in layer}
    clip.lock_text_tower(unlocked_layers=unlocked)
    assert mine == {n for n in trained(clip) if not n.startswith(("visual.", "logit_"))}


def hugging_face(config: type[PretrainedConfig]) -> HFTextEncoder:
    small = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    made = config(vocab_size=64, hidden_size=16, **small)
    return HFTextEncoder("a name", 8, config=made, pooler_type="mean_pooler", proj_type="linear")


def test_the_layers_of_a_hugging_face_text_tower_are_those_of_openclip() -> None:
    tower = hugging_face(RobertaConfig)
    found = names(nn.ModuleDict({"text": tower}), "text")
    assert len(found) == 4
    tower.lock(unlocked_layers=2)
    locked = {f"clip.text.{n}" for n, parameter in tower.named_parameters() if not parameter.requires_grad}
    assert locked == {*found[0], *found[1]}


def test_bert_which_openclip_cannot_lock_in_part_has_the_same_layers() -> None:
    found = [names(nn.ModuleDict({"text": hugging_face(config)}), "text") for config in (RobertaConfig, BertConfig)]
    assert [sorted(layer) for layer in found[0]] == [sorted(layer) for layer in found[1]]


def test_a_resnet_has_its_stages_as_layers(made: Any) -> None:
    found = [{name.split(".")[2] for name in layer} for layer in names(made("resnet"), "image")]
    assert found[0] == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
    assert found[1:] == [{"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}, {"attnpool"}]


@pytest.mark.parametrize("family", VISION)
def test_every_parameter_of_a_tower_has_one_layer(made: Any, family: str) -> None:
    clip = made(family)
    both = [name for part in ("image", "text") for layer in names(clip, part) for name in layer]
    assert sorted(both) == sorted(f"clip.{name}" for name, _ in clip.named_parameters() if name != "logit_scale")


def test_towers_without_known_layers_are_refused_with_the_fix() -> None:
    with pytest.raises(RecipeError, match=r"type Linear are not known.*layer_decay: 1"):
        names(nn.ModuleDict({"visual": nn.Linear(1, 1)}), "image")


def student(clip: nn.Module) -> Student:
    specs = {"depth/x": HeadSpec("depth", Convention(kind="metric", along="z"), "conv")}
    return Student(clip, open_clip.get_tokenizer("RN50"), {}, specs)


def plan(tmp_path: Path, **settings: object) -> Job:
    recipe = TrainingRecipe.model_validate({"steps": 10, **settings})
    return Job(recipe, rate=1e-3, steps=10, out=tmp_path)


def rates(student: Student, adam: torch.optim.Optimizer) -> dict[str, float]:
    by_id = {id(parameter): name for name, parameter in student.named_parameters()}
    return {by_id[id(p)]: group["peak"] for group in adam.param_groups for p in group["params"]}


def test_rates_fall_from_the_last_layer_to_the_first(made: Any, tmp_path: Path) -> None:
    one = student(made("vit"))
    found = rates(one, built(one, plan(tmp_path, layer_decay=0.5, text_factor=0.1)))
    assert set(found) == {name for name, _ in one.named_parameters()}
    expected = {
        "clip.visual.proj": 1e-3, "clip.visual.ln_post.weight": 5e-4,
        "clip.visual.transformer.resblocks.3.mlp.c_fc.weight": 5e-4,
        "clip.visual.transformer.resblocks.0.mlp.c_fc.weight": 1e-3 / 16, "clip.visual.conv1.weight": 1e-3 / 32,
        "clip.text_projection": 1e-4, "clip.transformer.resblocks.0.ln_1.bias": 1e-4 / 8,
        "clip.token_embedding.weight": 1e-4 / 16, "clip.logit_scale": 1e-4,
    }  # fmt: skip
    for name, rate in expected.items():
        assert found[name] == pytest.approx(rate), name
    assert {found[name] for name in found if name.startswith("heads.")} == {1e-3}


def test_without_layer_decay_the_groups_are_those_of_earlier_checkpoints(made: Any, tmp_path: Path) -> None:
    one = student(made("vit"))
    adam = built(one, plan(tmp_path))
    assert [(g["peak"], g["weight_decay"]) for g in adam.param_groups] == [(1e-3, 0.1), (1e-3, 0.0)] * 3
    assert {(g["betas"], g["eps"]) for g in adam.param_groups} == {((0.9, 0.98), 1e-6)}


def test_a_locked_tower_and_its_batch_norms_do_not_change(made: Any, tmp_path: Path) -> None:
    one = student(made("resnet"))
    built(one, plan(tmp_path, unlocked_image_layers=2))
    one.train()
    images = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    before = {name: value.clone() for name, value in one.clip.visual.state_dict().items()}
    one(images)
    changed = {name for name, value in one.clip.visual.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"layer4"}
    assert not one.clip.visual.bn1.training
    assert one.clip.visual.layer4[0].bn1.training


def test_a_tower_can_be_locked_as_a_whole(made: Any, tmp_path: Path) -> None:
    one = student(made("timm-resnet"))
    adam = built(one, plan(tmp_path, unlocked_image_layers=0, unlocked_text_layers=0))
    assert {n for n in rates(one, adam) if not n.startswith("heads.")} == {"clip.logit_scale"}


def test_more_layers_than_the_tower_has_are_refused(made: Any, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"unlocked_image_layers is 9, but the image tower has 6 layers: give at most 6"
    ):
        built(student(made("vit")), plan(tmp_path, unlocked_image_layers=9))


def test_a_run_refuses_layers_that_the_student_lacks_before_any_work(
    dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    training = {"steps": 1, "unlocked_text_layers": 7}
    values = {"name": "x", "data": str(dataset), "student": {"model": tiny_clip}, "training": training}
    with pytest.raises(RecipeError, match="unlocked_text_layers is 7, but the text tower has 3 layers"):
        Run(parse({**values, "arms": ["clip-ft"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_leaves_locked_layers_as_they_were(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path, steps=2, unlocked_image_layers=2, unlocked_text_layers=0)
    before = {name: value.clone() for name, value in made.student.state_dict().items()}
    train(made)
    changed = {n for n, value in made.student.state_dict().items() if not torch.equal(value, before[n])}
    image = {n.removeprefix("clip.visual.").split(".ln")[0] for n in changed if n.startswith("clip.visual.")}
    assert {n for n in changed if n.startswith("clip.") and ".visual." not in n} == {"clip.logit_scale"}
    assert {"proj", "transformer.resblocks.1"} <= image
    assert not [n for n in image if n.startswith(("conv1", "transformer.resblocks.0"))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant", "warmup": 0.2}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "constant", "warmup": 0.0, "cooldown": 0.4}, [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
    ],
)
def test_constant_schedules(tmp_path: Path, settings: dict[str, Any], expected: list[float]) -> None:
    made = plan(tmp_path, **settings)
    adam = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "peak": 2.0}])
    factors = [optimizer.set_rates(adam, step, 10, made.settings) for step in range(10)]
    assert factors == pytest.approx(expected)
    assert adam.param_groups[0]["lr"] == pytest.approx(2 * expected[-1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cooldown": 0.1}, "cosine schedule already falls to 0"),
        ({"schedule": "constant", "cooldown": 0.8, "warmup": 0.3}, "more than all steps"),
    ],
)
def test_schedules_that_contradict_themselves_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainingRecipe.model_validate({"steps": 1, **settings})
