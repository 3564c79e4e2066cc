"""Features of a frozen encoder: stored and online they teach the same, and their file is small and exact enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)

from clipzoo import experts, labeling, tasks
from clipzoo.data import LabelColumn, OnlineColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.errors import ExpertError, LabelError
from clipzoo.models import HeadSpec, Student
from clipzoo.readers import open_dataset
from clipzoo.recipe import TrainingRecipe
from clipzoo.store import Store
from clipzoo.tasks import Convention, features
from clipzoo.tasks.features import TASK, Features, unit
from clipzoo.training import Job, Training, read_log, train
from clipzoo.training.objectives import build, terms
from clipzoo.types import View

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VISION = {"image_size": 56, "patch_size": 14, **SIZES}
TEXT = {"vocab_size": 50, "max_position_embeddings": 16, **SIZES}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**VISION)),
    "dinov2 with registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**VISION)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**VISION)),
    "siglip": lambda: SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT)),
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT)),
}


def saved(name: str, folder: Path) -> str:
    """The URI of a model with random weights, whose processor crops the center as published ones do."""
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(folder)
    BitImageProcessor(crop_size={"height": 56, "width": 56}).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved("dinov2", tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def store(dino: str, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    labeling.label(str(dataset), [dino], str(root))
    return root


def random_features(channels: int = 384, side: int = 16, outlier: float = 1.0, seed: int = 0) -> Features:
    """Features of normal distribution; the first channel is ``outlier`` times larger."""
    vectors = np.random.default_rng(seed).normal(size=(channels, side, side)).astype(np.float32)
    vectors[0] *= outlier
    return unit(vectors, np.ones((side, side), np.bool_))


# The encoders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_map_is_the_patch_tokens_of_the_whole_picture(name: str, tmp_path: Path) -> None:
    expert = experts.create(saved(name, tmp_path))
    expert.load()
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    other = np.random.default_rng(1).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    assert expert.card.convention == Convention(channels=32)
    (label,), (wide,) = expert.predict([image]), expert.predict([other])
    assert isinstance(label, Features)
    assert isinstance(wide, Features)
    assert label.vectors.shape == wide.vectors.shape == (32, 4, 4)

    from transformers import AutoImageProcessor, AutoModel

    processor, model = AutoImageProcessor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    model = getattr(model, "vision_model", model)
    pixels = processor(images=[image], do_resize=False, do_center_crop=False, return_tensors="pt")
    with torch.no_grad():
        tokens = model.eval()(**pixels).last_hidden_state[0, -16:].numpy()
    expected = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).T.reshape(32, 4, 4)
    np.testing.assert_allclose(label.vectors, expected, atol=1e-5)


def test_a_size_that_loses_a_border_is_refused(dino: str) -> None:
    with pytest.raises(ExpertError, match=r"60×56 pixels is no multiple of the patch of 14 pixels.*\?size=56x56"):
        experts.create(f"{dino}?size=60x56")
    larger = experts.create(f"{dino}?size=84x112")
    larger.load()
    (label,) = larger.predict([np.zeros((30, 40, 3), np.uint8)])
    assert isinstance(label, Features)
    assert label.vectors.shape == (32, 6, 8)


def test_a_timm_model_gives_its_map_after_the_norm(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    tiny = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, **tiny).eval()
    from timm.models import save_for_hf

    save_for_hf(model, tmp_path, model_args={"img_size": 32, **tiny}, safe_serialization=True)
    expert = experts.create(f"timm:local-dir:{tmp_path}?size=32")
    expert.load()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (label,) = expert.predict([image])
    assert isinstance(label, Features)
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1)[0, 1:].numpy()
    expected = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).T.reshape(32, 2, 2)
    np.testing.assert_allclose(label.vectors, expected, atol=1e-5)
    assert len(expert.card.weights_sha256) == 64
    with pytest.raises(ExpertError, match="timm cannot load this model"):
        experts.create("timm:nonsense")
    with pytest.raises(ExpertError, match="the model has 2 layers"):
        experts.create(f"timm:local-dir:{tmp_path}?size=32&layer=7")


def test_other_weights_in_a_folder_of_timm_are_noticed_in_every_format(tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    tiny = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}
    digests = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **tiny)
        save_for_hf(model, tmp_path, model_args=tiny, safe_serialization=False)
        digests.add(experts.create(f"timm:local-dir:{tmp_path}").card.weights_sha256)
    assert {len(digest) for digest in digests} == {64}
    assert len(digests) == 2
    (tmp_path / "more.pth").write_bytes(b"")
    assert experts.create(f"timm:local-dir:{tmp_path}").card.weights_sha256 not in digests


TINY = {"img_size": 64, "embed_dim": 32, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "made", "channels", "side", "norm"),
    [
        ("samvit_base_patch16", {**TINY, "depth": 2, "neck_chans": 16, "global_attn_indexes": (1,)}, 16, 4, True),
        ("xcit_nano_12_p16_224", {**TINY, "depth": 2}, 32, 4, True),
        ("hiera_tiny_224", {**TINY, "num_heads": 1, "stages": (1, 1), "q_pool": 1}, 64, 8, False),
    ],
)
def test_timm_models_of_other_forms_give_the_channels_of_their_card(
    name: str, made: dict[str, object], channels: int, side: int, norm: bool, tmp_path: Path
) -> None:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **made).eval()
    save_for_hf(model, tmp_path, model_args=made, safe_serialization=True)
    expert = experts.create(f"timm:local-dir:{tmp_path}?size=64")
    expert.load()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (label,) = expert.predict([image])
    tasks.get("features").check(label, expert.card.convention)
    assert isinstance(label, Features)
    assert label.vectors.shape == (channels, side, side)
    assert expert.card.convention.channels == channels
    assert expert.card.preprocessing.get("norm", True) is norm


# The file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_bytes_and_error_of_the_file_are_as_documented(outlier: float) -> None:
    label = random_features(outlier=outlier)
    data = TASK.encode(label)
    assert len(data) <= 384 * 16 * 16 + 4 * 384 + 100  # 100 kB an image of DINOv2 small at 224 pixels
    cosines = (TASK.decode(data).vectors * label.vectors).sum(0)
    assert 1 - cosines.mean() < 6e-5
    assert 1 - cosines.min() < 1.5e-4


def test_holes_survive_the_file_and_damage_is_reported() -> None:
    label = random_features(8, 5)
    holes = np.random.default_rng(2).random((5, 5)) < 0.7
    data = TASK.encode(replace(label, valid=holes))
    np.testing.assert_array_equal(TASK.decode(data).valid, holes)
    for wrong in (data[:-1], data[:30], b"PNG", data.replace(b'"height": 5', b'"height": 6')):
        with pytest.raises(LabelError, match="label the image again"):
            TASK.decode(wrong)


def test_colors_are_the_same_for_the_same_features() -> None:
    label = random_features(16, 6)
    once, again = (TASK.render(label, Convention(channels=16)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert once.shape == (6, 6, 3)
    assert once.min() == 0
    assert once.max() == 255


def test_colors_of_a_large_map_are_those_of_all_its_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    label = random_features(6, 128, outlier=3.0)
    some = TASK.render(label, Convention(channels=6)).astype(float)
    monkeypatch.setattr(features, "ANALYZED", label.valid.size)
    every = TASK.render(label, Convention(channels=6)).astype(float)
    assert 0 < np.abs(some - every)[..., 0].mean() < 5
    colors = [mark.color for mark in TASK.legend(label, Convention(channels=6))]
    assert colors == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_the_cosine_of_a_perfect_prediction_is_1() -> None:
    label, metric = random_features(16, 6), TASK.metric(Convention(channels=16))
    turned = replace(label, vectors=-label.vectors)
    assert metric.of(metric.statistics(label, label)[None])["cosine"] == pytest.approx(1)
    assert metric.of(metric.statistics(turned, label)[None])["cosine"] == pytest.approx(-1)
    assert tasks.get("features").metric(Convention()).measures["cosine"].direction == "higher"


# Store and online --------------------------------------------------------------------------------------------


def both(dataset: Path, store: Path, dino: str, viewing: Viewing | None = None) -> tuple[TrainingSet, TrainingSet, str]:
    """The dataset with stored and with online features, and the name of their column."""
    reader = open_dataset(str(dataset))
    (column,) = Store(store).columns()
    viewing = viewing or Viewing((32, 32))
    labels = {column.name: LabelColumn(column, 8)}
    stored = TrainingSet(Plan.build(reader, {column.name: column}), reader, labels, viewing)
    online = {column.name: OnlineColumn(experts.create(dino), stride=8)}
    return stored, TrainingSet(Plan.build(reader, {}), reader, {}, viewing, online=online), column.name


def student_of(store: Path, tiny_clip: str) -> Student:
    (column,) = Store(store).columns()
    torch.manual_seed(0)
    return Student.create(tiny_clip, specs={column.name: HeadSpec("features", column.convention, "linear")})


@pytest.mark.parametrize("workers", [0, 2])
def test_stored_and_online_features_give_the_same_loss(
    workers: int, dataset: Path, store: Path, dino: str, tiny_clip: str
) -> None:
    student = student_of(store, tiny_clip).eval()
    stored, online, name = both(dataset, store, dino)
    losses = []
    for data in (stored, online):
        before = torch.get_rng_state()
        batches = [*loader(data, 16, student.tokenize, workers=workers)]
        assert torch.equal(torch.get_rng_state(), before)
        assert len(batches) == 3
        assert all(batch.targets[name]["valid"].all() for batch in batches)
        with torch.no_grad():
            values = [terms(build(student), student(b.images, b.tokens), b) for b in batches]
        losses.append([(float(v[name]), float(v["contrastive"])) for v in values])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4, rtol=0)
    assert all(a[1] == b[1] for a, b in zip(*losses, strict=True))


def test_the_label_of_a_view_follows_its_crop_and_flip(dataset: Path, store: Path, dino: str) -> None:
    viewing = Viewing((32, 32), (0.3, 0.6), flip=1.0)
    stored, online, name = both(dataset, store, dino, viewing)
    expert = experts.create(dino)
    expert.load()
    sample = online[0]
    assert sample.picture
    assert sample.picture.view.flip
    (whole,) = expert.predict([sample.picture.sample.image])
    expected = TASK.view(whole, sample.picture.view.at((4, 4)))
    batch = online.collate([sample], lambda texts: torch.zeros((len(texts), 4), dtype=torch.long))
    np.testing.assert_array_equal(batch.targets[name]["vectors"][0].numpy(), expected.vectors)
    from_store = stored[0].labels[name]
    assert ((from_store.vectors * expected.vectors).sum(0) > 1 - 2e-4).all()


@pytest.mark.parametrize("way", ["store", "online"])
def test_features_train_a_student(
    way: str, dataset: Path, store: Path, dino: str, tiny_clip: str, tmp_path: Path
) -> None:
    student = student_of(store, tiny_clip)
    stored, online, name = both(dataset, store, dino)
    recipe = TrainingRecipe.model_validate({"steps": 12, "batch_size": 16, "log_every": 1, "workers": 0})
    data = stored if way == "store" else online
    train(Training(Job(recipe, rate=1e-3, steps=12, out=tmp_path), student, data))
    losses = [line[f"loss/{name}"] for line in read_log(tmp_path) if "loss" in line]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_a_view_of_a_view_size_is_of_that_size() -> None:
    label = random_features(8, 6)
    seen = TASK.view(label, View((0.1, 0.2, 0.9, 0.8), (3, 5), True))
    assert seen.vectors.shape == (8, 3, 5)
    np.testing.assert_allclose(np.linalg.norm(seen.vectors, axis=0), 1, atol=1e-5)
