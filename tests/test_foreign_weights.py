"""Weights and folders of others: loaded where they fit, else told in words what differs, before any work."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load, save_file
from transformers import CLIPConfig, CLIPModel
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo import runs as workspace
from clipzoo.cli import app
from clipzoo.errors import CheckpointError
from clipzoo.models import HeadSpec, Student, uncertain_preprocessing
from clipzoo.models._folder import WEIGHTS
from clipzoo.models._open_clip import CONFIG, HEADS
from clipzoo.models._preprocessing import of_file
from clipzoo.progress import Silent
from clipzoo.runs import new_recipe
from clipzoo.runs import verbs as pipeline
from clipzoo.runs.before.dry_run import preview
from clipzoo.tasks import Convention

VISION = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
TINY = {
    "embed_dim": 8,
    "vision_cfg": VISION,
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
DEPTH = HeadSpec("depth", Convention(kind="metric", along="z"), "linear")
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "wide", {**TINY, "vision_cfg": {**VISION, "width": 24, "layers": 2}}
    )


@pytest.fixture
def trained() -> State:
    torch.manual_seed(3)
    return dict(open_clip.create_model("tiny", load_weights=False).state_dict())


def named(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "as it is": lambda state: state,
    "of DistributedDataParallel": lambda state: named(state, "module."),
    "of torch.compile": lambda state: named(state, "_orig_mod."),
    "compiled inside": lambda state: named(state, "module._orig_mod."),
    "compiled outside": lambda state: named(state, "_orig_mod.module."),
    "of DistributedDataParallel inside": lambda state: {
        k.replace("visual.", "module.visual.module."): v for k, v in state.items() if k.startswith("visual.")
    } | {f"module.{k}": v for k, v in state.items() if not k.startswith("visual.")},
    "a compiled tower": lambda state: {k.replace("visual.", "visual._orig_mod."): v for k, v in state.items()},
    "in half precision": lambda state: {k: v.half() for k, v in state.items()},
    "of open_clip_train": lambda state: {
        "epoch": 3, "name": "run", "state_dict": named(state, "module."),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{}]},
    },
    "under model": lambda state: {"model": state, "step": 7, "scaler": None},
    "of a module that holds it": lambda state: {"state_dict": named(state, "model.")},
    "inside twice": lambda state: {"model": {"state_dict": named(state, "module.")}, "ema": None},
}  # fmt: skip


@pytest.mark.parametrize("form", WRAPPED)
def test_a_checkpoint_of_another_trainer_is_loaded(form: str, trained: State, tmp_path: Path) -> None:
    torch.save(WRAPPED[form](trained), tmp_path / "run.pt")
    student = Student.create("tiny", str(tmp_path / "run.pt"))
    close = 1e-2 if "half" in form else 0
    for name, value in student.clip.state_dict().items():
        torch.testing.assert_close(value, trained[name], rtol=close, atol=close)
        assert value.dtype == trained[name].dtype


def test_a_file_of_another_image_size_gets_its_positions_resized(trained: State, tmp_path: Path) -> None:
    larger = {**TINY, "vision_cfg": {**VISION, "image_size": 64}}
    torch.save(open_clip.CLIP(**larger).state_dict(), tmp_path / "larger.pt")
    assert Student.create("tiny", str(tmp_path / "larger.pt")).image_size == (32, 32)


HALF, SQUASHED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, {"resize_mode": "squash"}


def tags(monkeypatch: pytest.MonkeyPatch, **values: dict[str, object]) -> None:
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", values)


def preprocessing(weights: Path) -> tuple[float, str]:
    found = Student.create("tiny", str(weights)).preprocess_cfg
    return found["mean"][0], found["resize_mode"]


def test_a_file_has_the_preprocessing_on_which_all_tags_agree(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(trained, tmp_path / "run.pt")
    assert preprocessing(tmp_path / "run.pt") == (0.48145466, "shortest"), "OpenCLIP's default"
    tags(monkeypatch, one={**HALF, **SQUASHED, "url": "http://127.0.0.1:9/w.pt"}, two={**HALF, **SQUASHED})
    assert preprocessing(tmp_path / "run.pt") == (0.5, "squash")
    assert uncertain_preprocessing("tiny", str(tmp_path / "run.pt")) is None
    tags(monkeypatch, one={**HALF, **SQUASHED}, two=SQUASHED)
    assert preprocessing(tmp_path / "run.pt") == (0.48145466, "squash")


@pytest.mark.parametrize("model", ["ViT-B-16-SigLIP", "PE-Core-B-16", "MobileCLIP-S1", "ViT-L-14-CLIPA", "ViT-B-16"])
def test_a_file_of_a_published_model_has_the_preprocessing_of_its_tags(model: str, tmp_path: Path) -> None:
    tag = open_clip.get_pretrained_cfg(model, open_clip.list_pretrained_tags_by_model(model)[0])
    found = of_file(model, tmp_path / "weights.pt")
    assert found == {name: tag[name] for name in ("mean", "std", "interpolation", "resize_mode")}


def test_a_configuration_next_to_the_file_comes_first(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags(monkeypatch, one=HALF)
    torch.save(trained, tmp_path / "run.pt")
    (tmp_path / CONFIG).write_text(json.dumps({"preprocess_cfg": {"size": 64, "mean": 0.25, **SQUASHED}}))
    assert preprocessing(tmp_path / "run.pt") == (0.25, "squash")
    assert Student.create("tiny", str(tmp_path / "run.pt")).image_size == (32, 32)


def test_a_run_names_preprocessing_that_is_not_known(
    dataset: Path, labels: Path, trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags(monkeypatch, one=HALF, two={**HALF, **SQUASHED})
    torch.save(trained, tmp_path / "run.pt")
    values = {
        "name": "unknown", "data": str(dataset), "store": str(labels),
        "columns": [{"column": "depth/test-truth"}],
        "student": {"model": "tiny", "pretrained": str(tmp_path / "run.pt")},
        "training": {"steps": 1, "batch_size": 4},
    }  # fmt: skip
    said: list[str] = []
    monkeypatch.setattr(Silent, "stage", lambda self, text: said.append(text))
    workspace.Run(recipe.parse(values), tmp_path / "run")
    assert [text for text in said if "preprocessing" in text] == [
        f"the preprocessing of {tmp_path / 'run.pt'} is not known, because the weights of tiny in OpenCLIP differ: one "
        "has resize_mode shortest; two has resize_mode squash. OpenCLIP's default is used: resize_mode shortest. If "
        "this is wrong for the file, put an open_clip_config.json with the right preprocess_cfg next to it"
    ]


def of_hugging_face() -> State:
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8
    )
    return dict(CLIPModel(config).state_dict())


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            lambda: open_clip.create_model("wide", load_weights=False).state_dict(),
            ["unexpected", "visual.transformer.resblocks.1", "of another shape", "is [24], not [16]"],
        ),
        (
            lambda: open_clip.create_model("RN50", load_weights=False).state_dict(),
            ["missing (", "unexpected (", "more)"],
        ),
        (of_hugging_face, ["CLIP of Hugging Face transformers"]),
        (
            lambda: torch.nn.Linear(2, 3).state_dict(),
            ["missing", "2 unexpected (weight, bias)", "another architecture"],
        ),
        (lambda: {"epoch": 3, "args": {"lr": 1}}, ["holds no weights but the keys epoch, args"]),
        (lambda: [1, 2], ["holds no weights but list"]),
        (lambda: {}, ["holds no weights"]),
        (lambda: {"state_dict": {}, "args": argparse.Namespace(lr=1)}, ["argparse.Namespace", "weights_only=False"]),
    ],
)
def test_what_does_not_fit_is_told_in_words(made: Callable[[], Any], told: list[str], tmp_path: Path) -> None:
    torch.save(made(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError) as refused:
        Student.create("tiny", str(tmp_path / "other.pt"))
    said = str(refused.value)
    assert str(tmp_path / "other.pt") in said
    assert not [one for one in told if one not in said], said
    assert len(said) < 1000


def test_damaged_files_and_archives_of_code_are_told(trained: State, tmp_path: Path) -> None:
    save_file(trained, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for name, data in (
        ("cut.safetensors", whole[:-10]),
        ("a.pt", b"no checkpoint"),
        ("empty.pt", b""),
        ("a.npz", b"x"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            Student.create("tiny", str(tmp_path / name))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*state_dict"):
        Student.create("tiny", str(tmp_path / "script.pt"))


def test_a_wrong_architecture_is_found_before_any_work(dataset: Path, labels: Path, tmp_path: Path) -> None:
    torch.save(open_clip.create_model("wide", load_weights=False).state_dict(), tmp_path / "wide.pt")
    values = {
        "name": "wrong", "data": str(dataset), "store": str(labels),
        "columns": [{"column": "depth/test-truth"}],
        "student": {"model": "tiny", "pretrained": str(tmp_path / "wide.pt")},
        "training": {"steps": 1, "batch_size": 4},
    }  # fmt: skip
    wanted = recipe.parse(values)
    for look in (
        lambda: preview(wanted, tmp_path / "run"),
        lambda: workspace.Run(wanted, tmp_path / "run"),
        lambda: new_recipe.check_start(f"tiny {tmp_path / 'wide.pt'}"),
    ):
        with pytest.raises(CheckpointError, match="of another shape"):
            look()
    assert not (tmp_path / "run").exists()


# A folder that does not fit itself --------------------------------------------------------------------------


def folder_of(tmp_path: Path, tiny_clip: str, **changes: Any) -> Path:
    """The tiny CLIP's folder with parts of its configuration changed."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip.removeprefix("local-dir:"), folder)
    config = json.loads((folder / CONFIG).read_text())
    for part, values in changes.items():
        config["model_cfg"][part] = {**config["model_cfg"][part], **values}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def test_a_timm_tower_gets_the_image_size_of_the_configuration(tmp_path: Path, tiny_clip: str) -> None:
    """OpenCLIP does not tell timm the size."""
    folder = folder_of(tmp_path, tiny_clip)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["vision_cfg"] = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "token",
        "image_size": 64,
    }
    (folder / CONFIG).write_text(json.dumps(config))
    assert Student.create(f"local-dir:{folder}", random=True).image_size == (64, 64)
    config["model_cfg"]["vision_cfg"]["image_size"] = 8
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot make the model"):
        Student.create(f"local-dir:{folder}", random=True)


def test_a_tokenizer_of_a_larger_vocabulary_is_found_at_once(tmp_path: Path, tiny_clip: str) -> None:
    with pytest.raises(CheckpointError, match=r"text tower .* does not accept the tokens of its tokenizer"):
        Student.create(f"local-dir:{folder_of(tmp_path, tiny_clip, text_cfg={'vocab_size': 5})}", random=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": {"text_cfg": 3}}'])
def test_a_damaged_configuration_is_told(text: str, tmp_path: Path, tiny_clip: str) -> None:
    folder = folder_of(tmp_path, tiny_clip)
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match="local-dir"):
        Student.load(folder)


# A trained student that is damaged --------------------------------------------------------------------------


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def foreign(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path)


def describe(folder: Path, values: Any) -> None:
    (folder / f"{HEADS}.json").write_text(json.dumps(values))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights cut": lambda folder: damage(folder / WEIGHTS),
    "weights of another": lambda folder: foreign(folder / WEIGHTS),
    "weights gone": lambda folder: (folder / WEIGHTS).unlink(),
    "heads cut": lambda folder: damage(folder / f"{HEADS}.safetensors"),
    "heads of another": lambda folder: foreign(folder / f"{HEADS}.safetensors"),
    "heads gone": lambda folder: (folder / f"{HEADS}.safetensors").unlink(),
    "description cut": lambda folder: damage(folder / f"{HEADS}.json"),
    "description is a list": lambda folder: describe(folder, []),
    "description of no head": lambda folder: describe(
        folder, {"layers": [-1], "heads": {"x/y": {"task": "depth", "convention": {"kind": "metric"}, "name": "no"}}}
    ),
    "configuration cut": lambda folder: damage(folder / CONFIG),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_student_is_told(how: str, tmp_path: Path, tiny_clip: str) -> None:
    Student.create(tiny_clip, specs={"depth/x": DEPTH}).save(tmp_path / "student")
    DAMAGES[how](tmp_path / "student")
    with pytest.raises(CheckpointError, match="student"):
        Student.load(tmp_path / "student")


def test_train_says_that_a_trained_student_is_damaged(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    values = {
        "name": "r", "data": str(dataset), "store": str(labels), "columns": [{"column": "depth/test-truth"}],
        "student": {"model": tiny_clip}, "training": {"steps": 1, "batch_size": 4},
    }  # fmt: skip
    out = tmp_path / "run"
    run = workspace.Run(recipe.parse(values), out)
    pipeline.train(run, "clipzoo", 0)
    again = CliRunner().invoke(app, ["train", str(out), "--device", "cpu"], catch_exceptions=False)
    assert "was already trained" in again.output
    before = load((out / "arms/clipzoo/0/student" / WEIGHTS).read_bytes())
    damage(out / "arms/clipzoo/0/student" / WEIGHTS)
    for words in (["train", str(out), "--device", "cpu"], ["export", str(out)]):
        found = CliRunner().invoke(app, words)
        assert isinstance(found.exception, CheckpointError)
        assert "cannot be used" in str(found.exception)
        assert f"delete the folder {out / 'arms/clipzoo/0'} and rerun the command" in str(found.exception)
    shutil.rmtree(out / "arms/clipzoo/0")
    pipeline.train(workspace.Run(recipe.parse(values), out), "clipzoo", 0)
    after = load((out / "arms/clipzoo/0/student" / WEIGHTS).read_bytes())
    assert all(torch.equal(before[name], after[name]) for name in before)
