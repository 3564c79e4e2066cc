"""Models of others: their preprocessing, tokenizers and weights are used as they are, or refused in words."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from clipzoo import encoders, model_schemes
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.export import Source, hf
from clipzoo.models import HeadSpec, Student
from clipzoo.models._open_clip import CONFIG
from clipzoo.models.loaded import Loaded, load
from clipzoo.recipe import parse
from clipzoo.tasks import Convention
from test_encoders import IMAGES, clip, models  # noqa: F401
from test_students import hf_folder

SIDE = {"height": 32, "width": 32}
DEPTH = HeadSpec("depth", Convention(kind="metric", along="z"), "linear")


def tiny(folder: Path, preprocess: dict[str, object] | None = None, **vision: object) -> Path:
    """A folder of OpenCLIP's format without weights."""
    folder.mkdir()
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16, **vision},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
    return folder


# Folders of transformers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    hf_folder("clip", folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "clip")


def preprocess_of(folder: Path) -> dict[str, Any]:
    place = Path(model_schemes.resolve(f"hf:{folder}").removeprefix("local-dir:"))
    return json.loads((place / CONFIG).read_text())["preprocess_cfg"]


@pytest.mark.parametrize("several", [False, True])
def test_weights_of_a_pickle_are_those_of_safetensors(folder: Path, several: bool) -> None:
    before = Student.create(model_schemes.resolve(f"hf:{folder}"))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"a.bin": names[::2], "b.bin": names[1::2]} if several else {"pytorch_model.bin": names}
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, folder / file)
    if several:
        places = {name: file for file, part in parts.items() for name in part}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    after = Student.create(model_schemes.resolve(f"hf:{folder}"))
    torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_a_pickle_with_code_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": print}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no readable model\.safetensors or pytorch_model\.bin"):
        model_schemes.resolve(f"hf:{folder}")


def test_an_export_to_transformers_comes_back_with_its_preprocessing(tmp_path: Path) -> None:
    own = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    student = Student.create(f"local-dir:{tiny(tmp_path / 'start', own)}", random=True)
    rows, columns = np.mgrid[:48, :64]
    picture = np.stack([rows * 4, columns * 3, rows + columns], 2).astype(np.uint8)
    hf.write(Source(student, [picture], ["a square"]), tmp_path / "out")
    back = Student.create(model_schemes.resolve(f"hf:{tmp_path / 'out'}"))
    assert {name: back.preprocess_cfg[name] for name in own} == own
    torch.testing.assert_close(Loaded(back).embed_images([picture]), Loaded(student).embed_images([picture]))
    torch.testing.assert_close(back.encode_text(["a square"]), student.encode_text(["a square"]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"shortest_edge": 32}, "crop_size": SIDE}, {"resize_mode": "shortest", "interpolation": "bicubic"}),
        (
            {"size": SIDE, "do_center_crop": False, "resample": 2},
            {"resize_mode": "squash", "interpolation": "bilinear"},
        ),
        ({"size": SIDE, "crop_size": SIDE}, {"resize_mode": "squash"}),
        ({"do_normalize": False}, {"mean": [0.0] * 3, "std": [1.0] * 3}),
        ({"image_mean": 0.5, "image_std": 0.25}, {"mean": [0.5] * 3, "std": [0.25] * 3}),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_the_preprocessing_is_that_of_the_processor(
    settings: dict[str, object], expected: dict[str, object], nested: bool, folder: Path
) -> None:
    values = {**transformers.CLIPImageProcessor().to_dict(), **settings}
    if nested:
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps(values))
    found = preprocess_of(folder)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"resample": 1}, "filter .*1"),
        ({"size": {"shortest_edge": 40}, "crop_size": SIDE}, "crops the center of the shortest side"),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, "crops the center of the shortest side"),
        ({"do_resize": False}, "do_resize False"),
        ({"do_rescale": False}, "does not scale pixels"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is .*0\.5, 0\.5.*three numbers"),
    ],
)
def test_preprocessing_that_openclip_lacks_is_refused(settings: dict[str, object], told: str, folder: Path) -> None:
    values = {**transformers.CLIPImageProcessor().to_dict(), **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"hf:{folder}.*{told}"):
        model_schemes.resolve(f"hf:{folder}")


def test_without_files_of_a_processor_the_default_of_the_type_is_used(folder: Path) -> None:
    assert preprocess_of(folder)["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    from clipzoo.model_schemes._transformers import preprocessing

    assert preprocessing(folder, "siglip") == {
        "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash",
    }  # fmt: skip


def write_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def renamed(state: dict[str, torch.Tensor]) -> None:
    for name in list(state):
        state[f"clip.{name}"] = state.pop(name)


K = "text_model.encoder.layers.0.self_attn.k_proj.weight"
LORA = "text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "processor cut": (lambda f: (f / "preprocessor_config.json").write_text("{"), "cannot load the image processor"),
    "processor a list": (
        lambda f: (f / "preprocessor_config.json").write_text("[]"),
        "cannot load the image processor",
    ),
    "k_proj gone": (lambda f: write_tensors(f, lambda state: state.pop(K)), rf"1 missing \({K}\)"),
    "adapters": (lambda f: write_tensors(f, lambda s: s.update({LORA: torch.zeros(2, 32)})), "1 unknown .*lora_A"),
    "prefix": (lambda f: write_tensors(f, renamed), r"missing \(.*unknown \(clip\..* and \d+ more"),
    "shape": (lambda f: write_tensors(f, lambda s: s.update({K: torch.zeros(2, 2)})), "1 of another shape .*k_proj"),
    "tokenizer gone": (lambda f: [one.unlink() for one in f.glob("tokenizer*")], "tokenizer"),
    "index a list": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "no readable model.safetensors"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_folder_of_transformers_is_named(how: str, folder: Path) -> None:
    damage, told = DAMAGES[how]
    damage(folder)
    with pytest.raises(CheckpointError, match=f"{folder}.*{told}"):
        model_schemes.resolve(f"hf:{folder}")


def test_tokenizers_that_need_the_configuration_are_converted(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer_1").mkdir()
    ends = ["<|startoftext|>", "<|endoftext|>"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *ends]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    place = model_schemes.resolve(f"hf:{folder}").removeprefix("local-dir:")
    own, converted = (transformers.AutoTokenizer.from_pretrained(one) for one in (folder, place))
    padded = {"padding": "max_length", "max_length": 8}
    assert dict(own("a dog", **padded)) == dict(converted("a dog", **padded))


def test_errors_name_the_folder_of_transformers(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^hf:{folder} has no layers \[9\]"):
        Student.create(model_schemes.resolve(f"hf:{folder}"), specs={"depth/x": DEPTH}, layers=(9,))
    with pytest.raises(CheckpointError, match=rf"^hf:{folder} does not support images of 33×33 pixels"):
        Student.create(model_schemes.resolve(f"hf:{folder}"), size=(33, 33))


# Encoders ----------------------------------------------------------------------------------------------------


def test_a_model_without_its_tokenizer_is_not_measured(clip: Path, tmp_path: Path) -> None:  # noqa: F811
    bare = shutil.copytree(clip, tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.*tokenizer\.json"):
        encoders.create(f"hf:{bare}")


@torch.no_grad()
def test_pictures_are_not_normalized_if_the_processor_does_not(clip: Path, tmp_path: Path) -> None:  # noqa: F811
    other = shutil.copytree(clip, tmp_path / "other")
    transformers.CLIPImageProcessor(size=SIDE, do_center_crop=False, do_normalize=False).save_pretrained(other)
    encoder = encoders.create(f"hf:{other}")
    assert (encoder.image_size, encoder.crop) == ((32, 32), "whole")
    pixels = IMAGES.permute(0, 3, 1, 2) / 255.0
    torch.testing.assert_close(encoder.normalize(IMAGES), pixels)
    expected = encoder.model.visual_projection(encoder.model.vision_model(pixels).pooler_output)
    torch.testing.assert_close(encoder.encode_image(IMAGES), F.normalize(expected, dim=-1))


def test_processors_that_swap_channels_are_refused(tmp_path: Path) -> None:
    config = transformers.MobileViTConfig(hidden_sizes=[8, 8, 8], neck_hidden_sizes=[8] * 7, image_size=64)
    transformers.MobileViTModel(config).save_pretrained(tmp_path)
    transformers.MobileViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="swaps red and blue"):
        encoders.create(f"hf:{tmp_path}")


@pytest.mark.parametrize("size", ["4", "36x32"])
def test_sizes_that_are_no_multiples_of_the_patch_are_refused(size: str, clip: Path, tiny_clip: str) -> None:  # noqa: F811
    with pytest.raises(
        CheckpointError, match=r"one position per 8 pixels. Give multiples of 8, such as size=(8x8|32x32)"
    ):
        encoders.create(f"hf:{clip}?size={size}")
    with pytest.raises(CheckpointError, match=r"one position per 8 pixels"):
        encoders.create(f"open_clip:{tiny_clip.removeprefix('local-dir:')}?size={size}")


# Students ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["local-dir:somewhere", "hf-hub:ORG/NAME", "hf:somewhere", "demo:clip"])
def test_pretrained_is_refused_for_models_with_their_own_weights(model: str) -> None:
    values = {"name": "x", "data": "x", "arms": ["clip"], "training": {"steps": 1, "batch_size": 1}}
    with pytest.raises(RecipeError, match=rf"pretrained is 'w\.pt', but {model} comes with its own weights: remove"):
        parse({**values, "student": {"model": model, "pretrained": "w.pt"}})
    with pytest.raises(RecipeError, match="random is true"):
        parse({**values, "student": {"model": "RN50", "pretrained": "openai", "random": True}})
    with pytest.raises(CheckpointError, match=f"{model} comes with its own weights. Remove pretrained"):
        Student.create(model, "w.pt")


def test_one_number_as_mean_is_that_of_all_channels(tmp_path: Path) -> None:
    start = tiny(tmp_path / "start", {"mean": 0.5, "std": [0.25]})
    Student.create(f"local-dir:{start}", random=True).save(tmp_path / "student")
    loaded = load(tmp_path / "student")
    assert (loaded.student.mean.flatten().tolist(), loaded.student.std.flatten().tolist()) == ([0.5] * 3, [0.25] * 3)
    picture = np.full((32, 32, 3), 255, np.uint8)
    assert loaded.preprocess(Image.fromarray(picture)).unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"interpolation": "lanczos"}, "interpolation is 'lanczos', and OpenCLIP has bicubic, bilinear"),
        ({"resize_mode": "weird"}, "resize_mode is 'weird', and OpenCLIP has shortest, longest, squash"),
        ({"mode": "L"}, "mode is 'L', and OpenCLIP has RGB"),
        ({"mean": [0.5, 0.5]}, r"mean is \[0.5, 0.5\], and it is one number, or three"),
        ({"std": [0.5, 0, 0.5]}, "std is .*three except 0"),
    ],
)
def test_preprocessing_that_openclip_does_not_accept_is_named(
    values: dict[str, object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"preprocess_cfg\.{told}.*open_clip_config\.json"):
        Student.create(f"local-dir:{tiny(tmp_path / 'start', values)}", random=True)


def test_a_resized_timm_student_starts_from_random_weights(tmp_path: Path) -> None:
    start = tiny(tmp_path / "start", timm_model_name="vit_tiny_patch16_224", timm_pool="token", image_size=[32, 64])
    assert Student.create(f"local-dir:{start}", random=True).image_size == (32, 64)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    start = tiny(tmp_path / "start")
    Student.create(f"local-dir:{start}", random=True).save(start)
    state = load_file(start / "open_clip_model.safetensors")
    state["logit_scale"] = torch.tensor(float("nan"))
    save_file(state, start / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"not finite in 1 tensor \(logit_scale\)"):
        Student.create(f"local-dir:{start}")


def test_the_advice_on_objects_in_a_checkpoint_names_no_key(tmp_path: Path) -> None:
    torch.save({"net": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"look at x for the state dict"):
        Student.create("ViT-S-32-alt", str(tmp_path / "x.pt"))
