"""Models of other libraries are measured: maps, embeddings, and `clipzoo eval --model`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from clipzoo import encoders
from clipzoo.cli import app
from clipzoo.errors import CheckpointError
from clipzoo.readers.webdataset import write_shard
from test_pipeline import write_benchmark

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with random weights, as each library saves them."""
    import timm
    import transformers
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.Dinov2Model(config).save_pretrained(root / "dinov2")
    processor = transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(root / "dinov2")
    tower = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=0)
    (root / "timm").mkdir()
    save_file(tower.state_dict(), root / "timm" / "model.safetensors")
    args = {"img_size": 32, "depth": 3}
    pretrained = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "num_classes": 0}
    described = {"architecture": "vit_tiny_patch16_224", "model_args": args, "pretrained_cfg": pretrained}
    (root / "timm" / "config.json").write_text(json.dumps(described))
    return root


@pytest.fixture(scope="module")
def clip(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP of transformers."""
    import transformers
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds

    folder = models / "clip"
    words = {
        word: i for i, word in enumerate(["<pad>", "<unk>", "</s>", "red", "green", "blue", "square", "a", "photo"])
    }
    tokenizer = Tokenizer(kinds.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    sides = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = transformers.CLIPTextConfig(
        **sides, vocab_size=9, max_position_embeddings=8, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    vision = transformers.CLIPVisionConfig(**sides, image_size=32, patch_size=8)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


@torch.no_grad()
def test_a_model_of_timm_gives_the_maps_of_timm(models):
    encoder = encoders.create(f"timm:local-dir:{models / 'timm'}")
    assert encoder.image_size == (32, 32)
    maps = encoder.maps(IMAGES, (0, -1))
    x = (IMAGES.permute(0, 3, 1, 2) / 255.0 - 0.5) / 0.5
    expected = encoder.model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(encoder.encode_image(IMAGES), F.normalize(encoder.model(x), dim=-1))
    assert not encoder.has_text
    with pytest.raises(CheckpointError, match="layers 0 to 2"):
        encoder.maps(IMAGES, (3,))


@torch.no_grad()
def test_a_vision_model_of_transformers_drops_the_class_token(models):
    encoder = encoders.create(f"hf:{models / 'dinov2'}")
    assert (encoder.image_size, encoder.crop) == ((32, 32), "center")
    (first, last) = encoder.maps(IMAGES, (0, -1))
    states = encoder.model(encoder.normalize(IMAGES), output_hidden_states=True).hidden_states
    assert first.shape == (2, 16, 4, 4)
    torch.testing.assert_close(first, states[1][:, 1:].transpose(1, 2).reshape(2, 16, 4, 4))
    torch.testing.assert_close(last, states[-1][:, 1:].transpose(1, 2).reshape(2, 16, 4, 4))
    larger = encoders.create(f"hf:{models / 'dinov2'}?size=48x64")
    images = torch.zeros(1, 48, 64, 3, dtype=torch.uint8)
    assert larger.maps(images)[0].shape == (1, 16, 6, 8)


@torch.no_grad()
def test_a_clip_of_transformers_embeds_as_transformers_does(clip):
    encoder = encoders.create(f"hf:{clip}")
    tokens = encoder.tokenizer(["a red square"], padding="max_length", max_length=8, return_tensors="pt")
    out = encoder.model(input_ids=tokens["input_ids"], pixel_values=encoder.normalize(IMAGES))
    torch.testing.assert_close(encoder.encode_image(IMAGES), out.image_embeds)
    torch.testing.assert_close(encoder.encode_text(["a red square"]), out.text_embeds)
    assert encoder.maps(IMAGES)[0].shape == (2, 16, 4, 4)


def test_wrong_models_are_explained(models, tmp_path):
    with pytest.raises(CheckpointError, match="write <library>:<name>"):
        encoders.create("ViT-B-16")
    with pytest.raises(CheckpointError, match=r"transformers cannot load this model"):
        encoders.create(f"hf:{tmp_path}")
    with pytest.raises(CheckpointError, match=r"timm cannot load this model"):
        encoders.create("timm:vit_tiny_patch16_225")
    with pytest.raises(CheckpointError, match=r"there is no option 'sise'; did you mean size"):
        encoders.create(f"hf:{models / 'dinov2'}?sise=3")
    with pytest.raises(CheckpointError, match="size=big is not a size"):
        encoders.create(f"hf:{models / 'dinov2'}?size=big")
    with pytest.raises(CheckpointError, match="no option 'random'"):
        encoders.create("open_clip:ViT-B-32?random=yes")
    with pytest.raises(CheckpointError, match=r"multiples of 16, such as size=48x64"):
        encoders.create(f"timm:local-dir:{models / 'timm'}?size=50x64")


@torch.no_grad()
def test_a_tower_of_timm_may_state_its_patch_as_one_number(tmp_path):
    import timm

    made = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}
    tower = timm.create_model("xcit_nano_12_p16_224", num_classes=0, **made)
    timm.models.save_for_hf(tower, tmp_path, model_args=made, safe_serialization=True)
    encoder = encoders.create(f"timm:local-dir:{tmp_path}?size=48x64")
    assert encoder.maps(torch.zeros(1, 48, 64, 3, dtype=torch.uint8))[0].shape == (1, 32, 3, 4)


@torch.no_grad()
def test_the_input_size_and_the_final_norm_are_options(models, clip):
    images = torch.zeros(1, 48, 64, 3, dtype=torch.uint8)
    for uri in (f"timm:local-dir:{models / 'timm'}", f"hf:{clip}", f"hf:{models / 'dinov2'}"):
        encoder = encoders.create(f"{uri}?size=48x64&norm=yes")
        (last,) = encoder.maps(images)
        assert last.shape[2:] == (48 // encoder.patch, 64 // encoder.patch)
        torch.testing.assert_close(last.mean(1), torch.zeros_like(last[:, 0]), atol=1e-5, rtol=0)
    encoder = encoders.create("open_clip:ViT-S-16?size=48x64&norm=yes")
    (last,) = encoder.maps(images)
    assert last.shape == (1, 384, 3, 4)
    torch.testing.assert_close(last.mean(1), torch.zeros_like(last[:, 0]), atol=1e-5, rtol=0)
    native = encoders.create("open_clip:ViT-S-16")
    same = encoders.open_clip.OpenClip(native.student, encoders.base.Options((224, 224)), "x")
    large = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
    torch.testing.assert_close(same.maps(large), native.maps(large))


def test_models_are_measured_side_by_side(models, clip, tiny_clip, tmp_path):
    for seed, (split, count) in enumerate({"probe": 24, "validation": 16, "test": 24}.items()):
        write_benchmark(tmp_path / split, count, seed)
    student = tiny_clip.removeprefix("local-dir:")
    uris = [f"open_clip:{student}", f"timm:local-dir:{models / 'timm'}", f"hf:{models / 'dinov2'}", f"hf:{clip}"]
    options = [part for uri in uris for part in ("--model", uri)]
    for split in ("probe", "validation", "test"):
        options += [f"--{split}", str(tmp_path / split)]
    options += ["--out", str(tmp_path / "out"), "--label-size", "16"]
    done = CliRunner().invoke(app, ["eval", *options])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["arms"]) == uris
    for uri in uris:
        assert 0 <= results["arms"][uri]["segmentation/miou"]["mean"] <= 1
    assert [("zero_shot/top1" in results["arms"][uri]) for uri in uris] == [True, False, False, True]
    assert "segmentation/miou" in results["baselines"]["position_prior"]
    assert "position_prior" in done.output
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "scores").rglob("*.npz")}
    assert len(marks) >= 8
    assert CliRunner().invoke(app, ["eval", *options]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "scores").rglob("*.npz")} == marks


def test_eval_needs_a_recipe_or_models(tmp_path):
    for options, message in (
        ([], "give a recipe, or models"),
        (["x.yaml", "--model", "hf:x"], "not both"),
        (["--model", "hf:x", "--model", "hf:x", "--test", "y"], "given twice"),
        (["--model", "hf:x"], "--test is missing"),
        (["--model", "hf:x", "--test", "a", "--probe", "b"], "--probe needs --validation"),
        (["--model", "hf:x", "--test", "a", "--layers", "x"], "whole numbers"),
        (["--model", "hf:x", "--test", "a", "--steps", "3"], "--steps needs --preset"),
        (["--model", "hf:x", "--model", "x", "--test", "a"], "'x' is not a model"),
    ):
        done = CliRunner().invoke(app, ["eval", *options])
        assert done.exit_code
        assert message in " ".join((done.output + str(done.exception)).split())


def test_a_test_benchmark_without_anything_to_measure_is_refused(models, tmp_path):
    write_benchmark(tmp_path / "test", 8, 0)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    options = ["--test", str(tmp_path / "test"), "--out", str(tmp_path / "out"), "--label-size", "16"]
    done = CliRunner().invoke(app, ["eval", "--model", f"timm:local-dir:{models / 'timm'}", *options])
    message = " ".join((done.output + str(done.exception)).split())
    assert "nothing can be measured on --test" in message
    assert "without a text tower" in message
    pictures = [(f"{i}", {"png": (tmp_path / "red.png").read_bytes()}) for i in range(4)]
    write_shard(tmp_path / "plain" / "images" / "0.tar", pictures)
    options[1] = str(tmp_path / "plain")
    done = CliRunner().invoke(app, ["eval", "--model", "open_clip:ViT-S-32", *options])
    assert "it needs classes, captions or true labels" in " ".join((done.output + str(done.exception)).split())


def test_random_weights_are_named(tmp_path):
    write_benchmark(tmp_path / "test", 8, 0)
    options = ["--test", str(tmp_path / "test"), "--out", str(tmp_path / "out"), "--label-size", "16"]
    done = CliRunner().invoke(app, ["eval", "--model", "open_clip:ViT-S-32", *options])
    assert done.exit_code == 0, done.output
    assert "open_clip:ViT-S-32 has random weights" in " ".join(done.output.split())
