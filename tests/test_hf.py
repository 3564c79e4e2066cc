"""Experts of Hugging Face: labels are those of transformers' own pipelines, for tiny random models saved here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from clipzoo import demo, experts, tasks
from clipzoo.errors import ExpertError
from clipzoo.experts.base import sha256
from clipzoo.readers import open_dataset
from clipzoo.types import ImageArray, View, decode_image

VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
FUSION = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
PYRAMID = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
SQUARE = {"size": {"height": 64, "width": 64}}
NAMES = {0: "wall", 1: "floor", 2: "void", 3: "chair", 4: "table"}


def beit(**more: Any) -> t.BeitConfig:
    return t.BeitConfig(**VIT, image_size=32, patch_size=8, use_relative_position_bias=True, **more)


def swin() -> t.SwinConfig:
    return t.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, out_features=STAGES
    )


def dpt() -> tuple[Any, Any]:
    config = t.DPTConfig(**VIT, **FUSION, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3])
    return t.DPTForDepthEstimation(config), t.DPTImageProcessor(size={"height": 32, "width": 32})


def depth_anything(**more: Any) -> tuple[Any, Any]:
    backbone = t.Dinov2Config(
        **{k: v for k, v in VIT.items() if k != "intermediate_size"}, patch_size=14, image_size=70,
        out_features=STAGES, reshape_hidden_states=False,
    )  # fmt: skip
    config = t.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, head_hidden_size=4, **FUSION, **more
    )
    resize = {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    return t.DepthAnythingForDepthEstimation(config), t.DPTImageProcessor(**resize)


def depth_anything_metric() -> tuple[Any, Any]:
    return depth_anything(depth_estimation_type="metric", max_depth=20)


def zoedepth() -> tuple[Any, Any]:
    backbone = beit(out_features=STAGES, reshape_hidden_states=False)
    small = {"bottleneck_features": 8, "num_relative_features": 8, "bin_embedding_dim": 8}
    transformer = {"patch_transformer_hidden_size": 8, "patch_transformer_intermediate_size": 16}
    config = t.ZoeDepthConfig(
        backbone_config=backbone, patch_transformer_num_attention_heads=2, **FUSION, **small, **transformer
    )
    return t.ZoeDepthForDepthEstimation(config), t.ZoeDepthImageProcessor(size={"height": 32, "width": 32})


def glpn() -> tuple[Any, Any]:
    return t.GLPNForDepthEstimation(t.GLPNConfig(**PYRAMID, decoder_hidden_size=8)), t.GLPNImageProcessor()


def segformer() -> tuple[Any, Any]:
    config = t.SegformerConfig(**PYRAMID, decoder_hidden_size=8, id2label=NAMES)
    return t.SegformerForSemanticSegmentation(config), t.SegformerImageProcessor(**SQUARE)


def beit_segmentation() -> tuple[Any, Any]:
    config = beit(out_indices=[1, 2, 3, 4], id2label=NAMES)
    processor = t.BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    return t.BeitForSemanticSegmentation(config), processor


def upernet() -> tuple[Any, Any]:
    backbone = t.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=STAGES)
    config = t.UperNetConfig(
        backbone_config=backbone, hidden_size=8, auxiliary_channels=4, auxiliary_in_channels=16, id2label=NAMES
    )
    return t.UperNetForSemanticSegmentation(config), t.SegformerImageProcessor(**SQUARE)


def mask2former() -> tuple[Any, Any]:
    config = t.Mask2FormerConfig(
        backbone_config=swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=12, id2label=NAMES,
    )  # fmt: skip
    return t.Mask2FormerForUniversalSegmentation(config), t.Mask2FormerImageProcessor(**SQUARE)


def maskformer() -> tuple[Any, Any]:
    decoder = t.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=3,
    )  # fmt: skip
    config = t.MaskFormerConfig(
        backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=16, id2label=NAMES
    )
    return t.MaskFormerForInstanceSegmentation(config), t.MaskFormerImageProcessor(**SQUARE)


DEPTHS = {
    "dpt": (dpt, "affine-disparity"),
    "depth_anything": (depth_anything, "affine-disparity"),
    "depth_anything_metric": (depth_anything_metric, "metric"),
    "zoedepth": (zoedepth, "metric"),
    "glpn": (glpn, "metric"),
}
SEGMENTATIONS = (segformer, beit_segmentation, upernet, mask2former, maskformer)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    t.utils.logging.set_verbosity_error()
    t.utils.logging.disable_progress_bar()
    yield
    t.utils.logging.set_verbosity_warning()
    t.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[ImageArray]:
    """Two pictures of furnished rooms, 58×83."""
    folder = Path(demo.locate("demo:test", tmp_path_factory.mktemp("rooms")))
    reader = open_dataset(str(folder / "images"))
    samples = map(reader.read, reader.index(reader.shards[0])[:2])
    return [View((0, 0.1, 1, 0.8), (58, 83)).image(decode_image(sample.image)) for sample in samples]


def save(build: Callable[[], tuple[Any, Any]], folder: Path, seed: int = 0) -> Path:
    """The model, with weights that are large enough to say something, and its processor."""
    torch.manual_seed(seed)
    model, processor = build()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            sharp = 8.0 if "class_" in name or "queries" in name else 1.2
            nn.init.normal_(parameter, std=sharp / parameter[0].numel() ** 0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def loaded(uri: str) -> Any:
    expert = experts.create(uri)
    expert.load()
    return expert


# The same labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_is_that_of_the_pipeline(name: str, pictures: list[ImageArray], tmp_path: Path) -> None:
    build, kind = DEPTHS[name]
    folder = save(build, tmp_path)
    expert = loaded(f"hf:{folder}" + ("?kind=affine-disparity" if name == "dpt" else ""))
    assert (expert.card.task, expert.card.convention.kind, expert.card.convention.along) == ("depth", kind, "z")
    pipeline = t.pipeline("depth-estimation", str(folder), device="cpu")
    for picture, label in zip(pictures, expert.predict(pictures), strict=True):
        theirs = pipeline(Image.fromarray(picture))["predicted_depth"].numpy()
        assert label.values.shape == picture.shape[:2]
        assert np.ptp(theirs) > 1e-3, "the model sees nothing"
        assert np.array_equal(label.valid, theirs > 0 if kind == "metric" else theirs == theirs)
        np.testing.assert_allclose(label.values[label.valid], theirs[label.valid], rtol=1e-4, atol=1e-4)
        tasks.get("depth").check(label, expert.card.convention)


def by_the_pipeline(folder: Path, pictures: list[ImageArray]) -> list[Any]:
    pipeline = t.pipeline("image-segmentation", str(folder), device="cpu")
    maps = []
    for picture in pictures:
        maps.append(np.full(picture.shape[:2], -1))
        for part in pipeline(Image.fromarray(picture), subtask="semantic"):
            maps[-1][np.asarray(part["mask"]) > 0] = list(NAMES.values()).index(part["label"])
    return maps


def seeing(build: Any, folder: Path, classes: Callable[[Path], list[Any]]) -> tuple[Path, list[Any]]:
    """The first random model that sees several classes in each picture, and what it sees."""
    for seed in range(200):
        maps = classes(save(build, folder, seed))
        if all(len(np.unique(one)) > 1 for one in maps):
            return folder, maps
    raise AssertionError("no random model sees anything")


@pytest.mark.parametrize("build", SEGMENTATIONS, ids=lambda build: build.__name__)
def test_segmentation_is_that_of_the_pipeline(
    build: Callable[[], tuple[Any, Any]], pictures: list[ImageArray], tmp_path: Path
) -> None:
    folder, truth = seeing(build, tmp_path, lambda folder: by_the_pipeline(folder, pictures))
    expert = loaded(f"hf:{folder}")
    assert expert.card.convention.classes == tuple(NAMES.values())
    for theirs, label in zip(truth, expert.predict(pictures), strict=True):
        assert np.mean(label.valid == (theirs != 2)) > 0.999
        assert np.mean(label.ids[label.valid] == theirs[label.valid]) > 0.999  # a batch may round another way
        tasks.get("segmentation").check(label, expert.card.convention)
        assert (label.confidence is None) == (build in (mask2former, maskformer))


def test_oneformer_is_told_its_task_and_fetches_nothing(pictures: list[ImageArray], tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "the": 1, "task": 2, "is": 3, "semantic": 4}, "the"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|endoftext|>")
    info = tmp_path / "classes.json"
    info.write_text(json.dumps({str(i): {"name": name, "isthing": i > 2} for i, name in NAMES.items()}))

    def build() -> tuple[Any, Any]:
        config = t.OneFormerConfig(
            backbone_config=swin(), num_queries=12, conv_dim=32, mask_dim=32, hidden_dim=32, dim_feedforward=16,
            encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, common_stride=4,
            task_seq_len=8, text_encoder_width=16, text_encoder_num_layers=1, text_encoder_vocab_size=8,
            text_encoder_context_length=8, use_auxiliary_loss=False, id2label=NAMES,
        )  # fmt: skip
        image = t.OneFormerImageProcessor(**SQUARE, class_info_file="classes.json", repo_path=str(tmp_path))
        return t.OneFormerForUniversalSegmentation(config), t.OneFormerProcessor(image, tokenizer, 8, 8)

    def by_the_processor(folder: Path) -> list[Any]:
        processor = t.AutoProcessor.from_pretrained(folder)
        model = t.AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
        with torch.inference_mode():
            inputs = processor(images=Image.fromarray(pictures[0]), task_inputs=["semantic"], return_tensors="pt")
            maps = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[(58, 83)])
        return [one.numpy() for one in maps]

    folder, (theirs,) = seeing(build, tmp_path / "model", by_the_processor)
    info.unlink()
    label = loaded(f"hf:{folder}").predict(pictures[:1])[0]
    assert np.array_equal(label.valid, theirs != 2)
    assert np.array_equal(label.ids[label.valid], theirs[theirs != 2])


def test_half_precision_is_near(pictures: list[ImageArray], tmp_path: Path) -> None:
    folder = save(segformer, tmp_path)
    whole, half = (loaded(f"hf:{folder}{query}").predict(pictures) for query in ("", "?dtype=bfloat16"))
    assert np.mean(whole[0].ids == half[0].ids) > 0.9
    assert whole[0].confidence != half[0].confidence


def test_half_precision_ends_where_post_processing_begins(pictures: list[ImageArray], tmp_path: Path) -> None:
    (label,) = loaded(f"hf:{save(glpn, tmp_path)}?dtype=bfloat16").predict(pictures[:1])
    values = torch.from_numpy(label.values)
    assert (values != values.bfloat16().float()).float().mean() > 0.5


# What the card says ------------------------------------------------------------------------------------------


def test_the_card_pins_the_bytes_and_tells_licence_and_preprocessing(tmp_path: Path) -> None:
    folder = save(segformer, tmp_path)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n")
    card = experts.create(f"hf:{folder}?dtype=float16&batch_size=3").card
    assert card.weights_sha256 == sha256(folder / "model.safetensors")
    assert (card.licence, card.revision) == ("apache-2.0", "")
    assert card.preprocessing["dtype"] == "float16"
    assert card.preprocessing["size"] == SQUARE["size"]
    assert "trust_remote_code" not in card.preprocessing
    assert experts.create(f"hf:{folder}?batch_size=3").batch_size == 3
    assert json.dumps(card.to_json())


def test_weights_in_parts_have_one_digest(tmp_path: Path) -> None:
    folder = save(segformer, tmp_path)
    whole = experts.create(f"hf:{folder}").card.weights_sha256
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "model-00002-of-00002.safetensors")
    parts = experts.create(f"hf:{folder}").card.weights_sha256
    assert len({whole, parts}) == 2
    save_file({"x": torch.ones(1)}, folder / "model-00002-of-00002.safetensors")
    assert experts.create(f"hf:{folder}").card.weights_sha256 != parts


def test_depth_of_an_unknown_kind_is_asked_for(tmp_path: Path) -> None:
    folder = save(dpt, tmp_path)
    with pytest.raises(ExpertError, match=r"do not say which.*\?kind=metric"):
        experts.create(f"hf:{folder}")
    with pytest.raises(ExpertError, match="kind=near is none"):
        experts.create(f"hf:{folder}?kind=near")
    told = experts.create(f"hf:{folder}?kind=metric&along=ray").card.convention
    assert (told.kind, told.along) == ("metric", "ray")


# A hub that is not there, files that do not fit -----------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_a_network_the_fix_is_told(hub: Path) -> None:
    with pytest.raises(ExpertError, match=r"hf download owner/model --revision v2 --local-dir FOLDER.*hf:FOLDER"):
        experts.create("hf:owner/model@v2")
    with pytest.raises(ExpertError, match="neither a folder nor a hub id"):
        experts.create("hf:/no/such/folder")


def test_a_model_of_the_hubs_cache_is_pinned_to_its_commit(hub: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = hub / "models--Intel--dpt-tiny"
    save(dpt, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    for uri in ("hf:Intel/dpt-tiny", f"hf:Intel/dpt-tiny@{commit}"):
        card = experts.create(uri).card
        assert (card.revision, card.convention.kind) == (commit, "affine-disparity")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?knid=metric", "has the option 'knid'; there are: kind"),
        ("?dtype=int8", "one of float32, float16, bfloat16"),
        ("?batch_size=0", "at least 1"),
        ("?trust_remote_code=yes", "one of 0, 1"),
    ],
)
def test_wrong_options_are_told(query: str, message: str, tmp_path: Path) -> None:
    folder = save(segformer, tmp_path)
    with pytest.raises(ExpertError, match=message):
        experts.create(f"hf:{folder}{query}")


def changed(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_models_that_do_not_fit_are_told(tmp_path: Path) -> None:
    folder = save(segformer, tmp_path)
    uri = f"hf:{folder}"
    with pytest.raises(ExpertError, match=r"not loaded; call load\(\)"):
        experts.create(uri).predict([])
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ExpertError, match=r"lacks 2 of its weights, decode_head\.classifier\.bias"):
        experts.create(uri).load()
    changed(folder, id2label={"1": "a", "2": "b"})
    with pytest.raises(ExpertError, match="without gaps"):
        experts.create(uri)
    changed(folder, architectures=["ViTForImageClassification"])
    with pytest.raises(ExpertError, match="a ViTForImageClassification, which gives neither"):
        experts.create(uri)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    changed(folder, architectures=["SegformerForSemanticSegmentation"], id2label={"0": "a"})
    with pytest.raises(ExpertError, match="pickles"):
        experts.create(uri)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ExpertError, match="not an object"):
        experts.create(uri)
    (folder / "config.json").unlink()
    with pytest.raises(ExpertError, match=r"no config\.json"):
        experts.create(uri)


def test_code_of_a_model_runs_only_if_it_is_asked_for_by_name(tmp_path: Path) -> None:
    folder = save(segformer, tmp_path)
    weights = t.AutoModelForSemanticSegmentation.from_pretrained(folder).state_dict()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})  # names as they are in the class
    changed(folder, model_type="mine", auto_map={
        "AutoConfig": "mine.MyConfig", "AutoModelForSemanticSegmentation": "mine.MyForSemanticSegmentation",
    })  # fmt: skip
    (folder / "mine.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import SegformerConfig, SegformerForSemanticSegmentation\n"
        "class MyConfig(SegformerConfig):\n    model_type = 'mine'\n"
        "class MyForSemanticSegmentation(SegformerForSemanticSegmentation):\n    config_class = MyConfig\n"
    )
    with pytest.raises(ExpertError, match=r"\?trust_remote_code=1 if you trust"):
        experts.create(f"hf:{folder}").load()
    assert not (tmp_path / "ran").exists()
    trusted = loaded(f"hf:{folder}?trust_remote_code=1")
    assert trusted.card.preprocessing["trust_remote_code"] is True
    assert (tmp_path / "ran").exists()
