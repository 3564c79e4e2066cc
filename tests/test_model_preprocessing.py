"""Models of other libraries see pictures and texts as those libraries give them, in float32."""

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
from clipzoo.benchmarks import open_benchmark, view_of
from clipzoo.cli import app
from clipzoo.encoders.base import Options
from clipzoo.errors import CheckpointError
from clipzoo.evaluation.suite import Suite
from test_encoders import IMAGES, clip, models  # noqa: F401
from test_pipeline import write_benchmark

SIDES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def picture() -> np.ndarray:
    """A smooth picture of 480×640 whose borders differ from its center."""
    rows, columns = np.mgrid[:480, :640]
    values = np.stack([rows / 480, columns / 640, (rows + columns) / 1120], 2)
    return (255 * values**2).astype(np.uint8)


def seen(encoder: encoders.Encoder) -> np.ndarray:
    return view_of(picture(), encoder.image_size, encoder.crop, encoder.kept).image(picture()).astype(float)


@torch.no_grad()
def test_texts_of_a_bidirectional_tower_do_not_depend_on_padding(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "square"]))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    text = {**SIDES, "vocab_size": 8, "max_position_embeddings": 16, "initializer_range": 1.0}
    config = transformers.ChineseCLIPConfig(
        text_config=text, vision_config={**SIDES, "image_size": 32, "patch_size": 8}, projection_dim=12
    )
    transformers.ChineseCLIPModel(config).save_pretrained(tmp_path)
    transformers.ChineseCLIPImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=False
    ).save_pretrained(tmp_path)
    encoder = encoders.create(f"hf:{tmp_path}")
    assert encoder.masked
    short = encoder.tokenizer(["a red square"], return_tensors="pt")
    assert short["input_ids"].shape[1] < 16
    expected = encoder.model.get_text_features(**short)
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    torch.testing.assert_close(encoder.encode_text(["a red square"]), F.normalize(expected, dim=-1))


@torch.no_grad()
def test_weights_of_half_precision_are_used_in_float32(models: Path, tmp_path: Path) -> None:  # noqa: F811
    transformers = pytest.importorskip("transformers")
    model = transformers.Dinov2Model.from_pretrained(models / "dinov2")
    transformers.AutoImageProcessor.from_pretrained(models / "dinov2").save_pretrained(tmp_path)
    model.half().save_pretrained(tmp_path)
    encoder = encoders.create(f"hf:{tmp_path}")
    assert {value.dtype for value in encoder.model.parameters()} == {torch.float32}
    assert encoder.maps(IMAGES)[0].dtype == torch.float32


def test_pictures_of_transformers_are_cropped_as_by_its_processors(models: Path, tmp_path: Path) -> None:  # noqa: F811
    transformers = pytest.importorskip("transformers")
    encoder = encoders.create(f"hf:{models / 'dinov2'}")
    processor = transformers.AutoImageProcessor.from_pretrained(models / "dinov2")
    own = processor(Image.fromarray(picture()), return_tensors="np", do_normalize=False, do_rescale=False)
    assert encoder.kept == pytest.approx(32 / 36)
    assert np.abs(seen(encoder) - own["pixel_values"][0].transpose(1, 2, 0)).max() < 4
    assert encoders.hf._kept(transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875)) == (
        "center",
        0.875,
    )
    squashed = transformers.BitImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}, do_center_crop=True
    )
    assert encoders.hf._kept(squashed) == ("whole", 0.8)


def test_pictures_of_timm_are_cropped_as_by_its_transform(models: Path) -> None:  # noqa: F811
    create_transform = pytest.importorskip("timm.data").create_transform
    encoder = encoders.create(f"timm:local-dir:{models / 'timm'}")
    own = create_transform((3, 32, 32), crop_pct=0.875, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    expected = own(Image.fromarray(picture())).permute(1, 2, 0).numpy() * 255
    assert encoder.kept == pytest.approx(32 / 36)
    assert np.abs(seen(encoder) - expected).max() < 4


def test_the_kept_share_is_part_of_features_and_of_recognition(models: Path, tmp_path: Path) -> None:  # noqa: F811
    for seed, split in enumerate(("probe", "test")):
        write_benchmark(tmp_path / split, 12, seed)
    uris = [f"hf:{models / 'dinov2'}", "open_clip:ViT-S-32"]
    options = ["--probe", str(tmp_path / "probe"), "--test", str(tmp_path / "test"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["eval", "--preset", "knn", "--model", uris[0], "--model", uris[1], *options])
    assert done.exit_code == 0, done.output
    records = {path.parent.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("identity.json")}
    assert len(records) == 2
    for name, record in records.items():
        assert record.get("kept") == (pytest.approx(32 / 36) if name.startswith("hf") else None)
    opened = {"test": open_benchmark(str(tmp_path / "test"))}
    suite = Suite.of(opened, (32, 32), crop="center", kept=0.5)
    assert (suite.zero_shot["test"].kept, suite.retrieval["test"].kept, suite.dense["test"].kept) == (0.5, 0.5, 1.0)


@torch.no_grad()
def test_positions_of_a_resnet_are_interpolated() -> None:
    student = encoders.create("open_clip:RN50").student
    for size in ((250, 250), (256, 300)):
        with pytest.raises(CheckpointError, match=r"Give multiples of 32, such as size=256x(256|288)"):
            encoders.open_clip.OpenClip(student, Options(size), "open_clip:RN50")
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 128, 160, 3), np.uint8))
    expected = student(images)
    encoder = encoders.open_clip.OpenClip(student, Options((128, 160)), "open_clip:RN50")
    torch.testing.assert_close(encoder.encode_image(images), expected["image_features"])
    assert encoder.maps(images)[0].shape == (1, 2048, 4, 5)
