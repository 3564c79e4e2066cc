"""The student is OpenCLIP's model: taps change nothing, and its weights are those that were asked for."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F

from clipzoo import heads, model_schemes
from clipzoo.data import Batch
from clipzoo.errors import CheckpointError, ImageError, RecipeError
from clipzoo.losses import angmf
from clipzoo.models import HeadSpec, Student
from clipzoo.models._open_clip import CONFIG
from clipzoo.tasks import Convention
from clipzoo.training.objectives import build, terms


@pytest.mark.parametrize("layers", [(4,), (2, 3), (-3,), (1, 4), (-2, -1)])
def test_taps_of_a_resnet_leave_the_embedding_alone(layers: tuple[int, ...]) -> None:
    student = Student.create(model_schemes.resolve("demo:clip"), layers=layers).eval()
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(student(images)["image_features"], student.encode_image(images))
        strides = [4, 4, 8, 16, 32]
        assert [m.shape[-1] for m in student.maps(images)] == [96 // strides[layer] for layer in layers]


def test_a_folder_without_weights_is_refused_unless_random_ones_are_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Path(model_schemes.resolve("demo:clip").removeprefix("local-dir:"))
    for name in (CONFIG, "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(CheckpointError, match="local-dir:"):
        Student.create(f"local-dir:{tmp_path}")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Student.create(f"local-dir:{tmp_path}", random=True)
    assert not caplog.records


@pytest.mark.parametrize("name", [None, "open_clip.factory"])
def test_openclips_warning_of_missing_weights_is_silenced_on_either_logger(
    name: str | None, tiny_clip: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """open_clip_torch 3.3 warns on the root logger, 4.2 on its module's."""
    made = open_clip.create_model

    def warning(*names: str, **options: object) -> object:
        model = made(*names, **options)
        logging.getLogger(name).warning("Local config loaded, but no CLIP weights found in x")
        logging.getLogger(name).warning("something else")
        return model

    monkeypatch.setattr("clipzoo.models._open_clip.open_clip.create_model", warning)
    caplog.clear()
    Student.create(tiny_clip, random=True)
    assert [record.getMessage() for record in caplog.records] == ["something else"]


def test_weights_trained_with_quick_gelu_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def stop(model: str, **options: object) -> None:
        asked.update(options)
        raise RuntimeError("far enough")

    monkeypatch.setattr("clipzoo.models._open_clip.open_clip.create_model", stop)
    for tag, expected in (("openai", True), ("laion2b_s34b_b88k", False)):
        with pytest.raises(CheckpointError):
            Student.create("ViT-B-16", tag)
        assert asked["force_quick_gelu"] is expected


TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


def test_random_weights_are_fetched_from_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the pictures are normalized as the weights that were named want it."""
    half = (0.5, 0.5, 0.5)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED, "tiny", {"far": {"url": "http://127.0.0.1:9/w.pt", "mean": half, "std": half}}
    )
    assert Student.create("tiny", "far", random=True).preprocess_cfg["mean"] == half
    with pytest.raises(CheckpointError, match="cannot make the model 'tiny'"):
        Student.create("tiny", "far")


def test_random_weights_of_a_hub_model_ask_for_its_config_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {"resize_mode": "squash"}}))
    asked = []

    def fetch(repo_id: str, filename: str, **options: object) -> str:
        asked.append(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", fetch)
    student = Student.create("hf-hub:owner/tiny", random=True)
    assert student.crop == "whole"
    assert set(asked) == {CONFIG}


def test_layers_and_options_that_do_not_exist_are_named() -> None:
    spec = HeadSpec("depth", Convention(kind="metric", along="z"), "linear", {"widht": 3})
    with pytest.raises(RecipeError, match=r"column depth/x: the head linear has no option .widht.; there are: upscale"):
        Student.create(model_schemes.resolve("demo:clip"), specs={"depth/x": spec})
    with pytest.raises(CheckpointError, match="layers"):
        Student.create(model_schemes.resolve("demo:clip"), specs={"depth/x": replace(spec, options={})}, layers=[99])


def test_no_texts_are_no_tokens_and_one_text_is_one() -> None:
    student = Student.create("demo:clip")
    assert student.tokenize([]).shape == (0, 24)
    assert torch.equal(student.tokenize("a chair"), student.tokenize(["a chair"]))
    assert student.encode_text("a chair").shape == student.encode_text("").shape == (1, 128)


def test_images_that_are_normalized_already_are_refused() -> None:
    student = Student.create("demo:clip")
    H, W = student.image_size
    for images in (torch.zeros(1, H, W, 3), torch.zeros(1, 3, H, W, dtype=torch.uint8)):
        with pytest.raises(ImageError, match=r"are not uint8 \[B,H,W,3\]. The student normalizes images itself"):
            student(images)


def test_a_folder_without_a_student_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing does not exist.* Give the folder of a student or run"):
        Student.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=f"holds no {CONFIG}, so it is not the folder of a student"):
        Student.load(tmp_path)


@pytest.mark.parametrize(
    ("before", "after"), [((7, 7), (14, 14)), ((14, 10), (5, 31)), ((1, 1), (4, 2)), ((6, 8), (3, 2))]
)
def test_resizing_by_products_is_interpolation(before: tuple[int, int], after: tuple[int, int]) -> None:
    x = torch.randn(2, 5, *before, dtype=torch.float64, requires_grad=True)
    ours = heads.resize(x.float(), after)
    theirs = F.interpolate(x.float(), after, mode="bilinear", antialias=True)
    assert torch.allclose(ours, theirs, atol=1e-5)
    ours.square().sum().backward()
    gradient = x.grad
    (expected,) = torch.autograd.grad(theirs.square().sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-4)


NORMALS = HeadSpec("normals", Convention(), "dpt", {"width": 8}, "angmf", {"eps": 1e-2})


def test_a_named_loss_gets_its_channels_trains_them_and_is_saved(tiny_clip: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = Student.create(tiny_clip, specs={"normals/x": NORMALS, "normals/y": replace(NORMALS, loss=None)})
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    out = student(images, student.tokenize(["red square", "blue square"]))
    assert [raw.shape[1] for raw in out["predictions"].values()] == [4, 3]
    target = {"vectors": torch.nn.functional.normalize(torch.ones(2, 3, 8, 8), dim=1), "valid": torch.ones(2, 8, 8) > 0}
    batch = Batch(images, images, [], dict.fromkeys(student.specs, target), [])
    named = terms(build(student), out, batch)
    raw = heads.resize(out["predictions"]["normals/x"], (8, 8))
    assert named["normals/x"] == angmf.loss(raw, target["vectors"], target["valid"], eps=1e-2)
    student.save(tmp_path)
    again = Student.load(tmp_path)
    assert again.specs == student.specs
    torch.testing.assert_close(again(images)["predictions"], out["predictions"])


def test_weights_have_the_rights_of_any_new_file(tiny_clip: str, tmp_path: Path) -> None:
    """A colleague can load them: safetensors makes files that nobody else can read."""
    before = os.umask(0o022)
    try:
        Student.create(tiny_clip, specs={"normals/x": NORMALS}).save(tmp_path)
    finally:
        os.umask(before)
    assert len([*tmp_path.glob("*.safetensors")]) == 2
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_a_loss_or_option_that_does_not_exist_is_named(tiny_clip: str) -> None:
    for changes, message in (
        ({"loss": "silog"}, "the loss 'silog' does not support normals labels; choose angular or angmf"),
        (
            {"loss_options": {"epsilon": 1}},
            "column normals/x: the loss angmf has no option 'epsilon'; did you mean eps",
        ),
        ({"loss_options": {"eps": "small"}}, "column normals/x: the loss angmf fails with eps: 'small': "),
        ({"options": {"widht": 8}}, "column normals/x: the head dpt has no option 'widht'; did you mean width"),
        ({"options": {"width": 0.5}}, "column normals/x: the head dpt cannot be made and run with width: 0.5: "),
    ):
        with pytest.raises(RecipeError, match=message):
            Student.create(tiny_clip, specs={"normals/x": replace(NORMALS, **changes)})  # type: ignore[arg-type]
