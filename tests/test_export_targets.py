"""Exports to transformers, timm and ONNX: the other library gives the student's embeddings, or it is refused."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import _registry
from timm.models.vitamin import VitCfg, VitConvCfg
from tokenizers import Tokenizer
from transformers import AutoModel, AutoProcessor, CLIPModel, SiglipModel

from clipzoo import tasks
from clipzoo.errors import CheckpointError
from clipzoo.export import PLUGINS, Source, export_student
from clipzoo.export._tokenizer import standalone, tokenizer_of
from clipzoo.models import HeadSpec, Student
from clipzoo.tasks import Convention
from clipzoo.types import ImageArray
from parity_records import record
from test_students import FAMILIES as TINY
from test_students import TEXT, Family, tower

VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [3, 4, 6, 3], "width": 8, "head_width": 64}
TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None}
CONVNEXT = {"image_size": 160, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}
OPENAI = {"hf_tokenizer_name": None, "context_length": 77, "vocab_size": 49408}
SIGLIP_TEXT = {
    "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip
CAPTIONS = ["red square", "a photo of a  Green square", "dark"]


def student(
    tiny_clip: str, folder: Path, vision: dict[str, Any], text: dict[str, Any] | None = None, **options: Any
) -> Student:
    """Return a student of random weights with the words of `tiny_clip`; batch norms have statistics as if trained."""
    source = Path(tiny_clip.removeprefix("local-dir:"))
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((source / "open_clip_config.json").read_text())
    specs, preprocess = options.pop("specs", None), options.pop("preprocess", {})
    words = {"hf_tokenizer_name": "words", "tokenizer_kwargs": {}}
    model = {**config["model_cfg"], "vision_cfg": vision, **options}
    model["text_cfg"] = {**model["text_cfg"], **words, **(text or {})}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    made = Student.create(f"local-dir:{folder}", specs=specs, random=True)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made


@pytest.fixture(scope="module")
def pictures() -> list[ImageArray]:
    """Smooth pictures of other sizes than the student's, with even margins around a centered crop."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (5, 6, 3), dtype=np.uint8) for _ in range(3)]
    sizes = ((96, 64), (128, 64), (64, 64))
    return [
        np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC))
        for one, size in zip(coarse, sizes, strict=True)
    ]


FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {"vision": VIT},
    "vit-openai": {"vision": VIT, "text": OPENAI, "quick_gelu": True, "preprocess": {"resize_mode": "squash"}},
    "resnet": {"vision": RESNET},
    "timm-vit": {"vision": TIMM},
    "timm-convnext": {"vision": CONVNEXT, "custom_text": True},
    "wide": {"vision": {**VIT, "image_size": [32, 48]}},
    "coca": {
        "vision": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text": {"embed_cls": True, "output_tokens": True}, "custom_text": True,
        "multimodal_cfg": {
            "context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2
        },
    },
    "siglip": {
        "vision": {
            "image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map",
            "timm_proj": "none",
        },
        "text": SIGLIP_TEXT, "embed_dim": 768, "custom_text": True, "init_logit_bias": -10,
        "preprocess": {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
    },
}  # fmt: skip
CUSTOM: dict[str, object] = {"custom_text": True}
STEM = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
SMALL = {
    "siglip-small": TINY["SigLIP"],
    "siglip2-small": TINY["SigLIP 2"],
    "mobileclip-s1-small": TINY["MobileCLIP S"],
    "mobileclip-b-small": Family(tower("vit_base_mci_224", "token", None), {"depth": 1, "img_size": 32}, more=CUSTOM),
    "mobileclip2-s3-small": TINY["MobileCLIP 2 S"],
    "pe-core-small": TINY["PE-Core"],
    "eva02-small": TINY["EVA-02"],
    "vitamin-small": Family(
        tower("vitamin_small_224", "", "linear"),
        {
            "img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2,
            "embed_cfg": VitCfg((8, 16, 32), (1, 1, 2), 8, STEM, "1d"),
        },
        more=CUSTOM,
    ),
    "swin-small": TINY["Swin"],
}  # fmt: skip
"""Families of which timm makes the towers with fewer and narrower layers."""
PACKAGES = {"hf": "transformers", "timm": "timm", "onnx": "onnxruntime", "open_clip": "open_clip_torch"}
EXPORTED = [
    *((family, "open_clip") for family in ("vit", "vit-openai", "resnet", "timm-vit", "timm-convnext", "wide")),
    ("vit", "hf"), ("vit", "timm"), ("vit", "onnx"), ("vit-openai", "hf"), ("vit-openai", "timm"),
    ("vit-openai", "onnx"), ("resnet", "hf"), ("resnet", "timm"), ("resnet", "onnx"), ("timm-vit", "hf"),
    ("timm-vit", "timm"), ("timm-vit", "onnx"), ("timm-convnext", "hf"), ("timm-convnext", "timm"),
    ("timm-convnext", "onnx"), ("wide", "timm"), ("wide", "onnx"), ("coca", "open_clip"), ("coca", "onnx"),
    *(
        (family, target) for family in SMALL for target in ("open_clip", "hf", "timm", "onnx")
        if not (target == "hf" and family in ("mobileclip-s1-small", "mobileclip2-s3-small"))
    ),
    *(pytest.param("siglip", target, marks=pytest.mark.slow) for target in ("hf", "timm", "onnx", "open_clip")),
]  # fmt: skip


def narrowed(family: str, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of `student` for a family of `SMALL`; timm makes its tower narrow until the patch is undone."""
    small = SMALL[family]
    name = str(small.vision["timm_model_name"])
    made = timm.models.model_entrypoint(name)
    patch.setitem(_registry._model_entrypoints, name, lambda **options: made(**{**small.timm, **options}))
    text = {key: value for key, value in small.text.items() if key not in TEXT}
    width = {"embed_dim": 32} if small.vision["timm_proj"] == "none" else {}
    return {"vision": small.vision, "text": text, "preprocess": {"resize_mode": "squash"}, **width, **small.more}


@pytest.mark.parametrize(("family", "target"), EXPORTED)
def test_the_other_librarys_embeddings_are_the_students(
    family: str, target: str, tiny_clip: str, pictures: list[ImageArray], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = student(tiny_clip, tmp_path / "student", **(FAMILIES.get(family) or narrowed(family, monkeypatch)))
    parity = export_student(target, Source(made, pictures, CAPTIONS), tmp_path / "out")
    limit = 1e-4 if target == "onnx" else 1e-5
    assert parity["image_embeddings"] <= limit
    assert parity["transform_levels"] < 0.01, "the preprocessing is not OpenCLIP's"
    assert parity["transform_embeddings"] <= limit
    if target != "timm":
        assert parity["text_embeddings"] <= limit
        assert parity["other_tokens"] == 0
    if target == "timm" and family not in ("siglip", "swin-small"):
        assert parity["feature_maps"] < 1e-5
    names = {"images": "image_embeddings", "transform": "transform_embeddings", "texts": "text_embeddings"}
    differences = {name: parity[key] for name, key in names.items() if key in parity}
    record("Exported embeddings", f"{family} to {target}", PACKAGES[target], differences, limit)
    assert json.loads((tmp_path / "out" / "parity.json").read_text()) == parity
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"at most {parity['image_embeddings']:.1e} (images)" in card
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".py", ".bin", ".pkl")]


def test_embeddings_differ_between_samples(tiny_clip: str, pictures: list[ImageArray], tmp_path: Path) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT).eval()
    with torch.no_grad():
        assert (made.encode_text(CAPTIONS)[0] - made.encode_text(CAPTIONS)[1]).abs().max() > 1e-2
        views = torch.from_numpy(np.stack(Source(made, pictures, CAPTIONS).views))
        assert (made.encode_image(views)[0] - made.encode_image(views)[1]).abs().max() > 1e-3


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("hf", FAMILIES["wide"], "its images are 32×48, and CLIPModel has square ones"),
    ("hf", {"vision": VIT, "text": {"no_causal_mask": True}, "custom_text": True}, "it has no causal mask"),
    ("hf", {"vision": VIT, "text": {"pool_type": "last"}, "custom_text": True}, "it pools with 'last'"),
    ("hf", {"vision": VIT, "text": {"ls_init_value": 0.1}, "custom_text": True}, "its blocks have layer scale"),
    ("hf", {"vision": VIT, "preprocess": {"resize_mode": "longest"}}, "it pads images to its size"),
    ("hf", FAMILIES["coca"], "its image tower is not OpenAI's ViT: it pools by attention"),
    ("timm", FAMILIES["coca"], "its image tower is not OpenAI's ViT: it pools by attention"),
    ("hf", {"vision": {**VIT, "patch_size": [8, 16]}}, "its patches are 8×16, and CLIPModel has square ones"),
    ("hf", {"vision": {**VIT, "norm_kwargs": {"bias": False}}}, "its norms have no weight or bias"),
    ("timm", {"vision": {**VIT, "norm_kwargs": {"bias": False}}}, "its norms have no weight or bias"),
    ("timm", {"vision": {**VIT, "norm_kwargs": {"eps": 1e-3}}}, "have an eps of 0.001, and timm's 1e-05 or 1e-06"),
    ("timm", {"vision": {**VIT, "pool_type": "avg"}}, "it pools with 'avg' instead of the class token"),
    ("timm", {"vision": {**VIT, "no_ln_pre": True}}, "it has no norm before the transformer"),
    ("timm", {"vision": {**RESNET, "layers": [1, 1, 2, 1]}}, "a ResNet of 1-1-2-1 blocks, and timm has only 3-4-6-3"),
    ("timm", {"vision": {**RESNET, "head_width": 32}}, "its attention pool has 8 heads"),
    ("timm", {"vision": {**CONVNEXT, "timm_proj": "mlp"}}, "OpenCLIP adds Mlp to its image tower"),
]


@pytest.mark.parametrize(("target", "family", "reason"), REFUSED)
def test_a_student_that_a_target_cannot_express_is_refused_with_the_reason(
    target: str, family: dict[str, Any], reason: str, tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", **family)
    with pytest.raises(CheckpointError, match=f"--to {target} cannot express this student: .*{reason}"):
        export_student(target, Source(made, pictures, CAPTIONS), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("target", ["hf", "timm"])
def test_heads_are_refused_where_the_library_has_none(target: str, tiny_clip: str, tmp_path: Path) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT)
    with pytest.raises(CheckpointError, match=r"Omit --heads, or export them with --to onnx"):
        export_student(target, Source(made, [], [], heads=True), tmp_path / "out")


# transformers ------------------------------------------------------------------------------------------------


def test_transformers_gets_activation_and_token_ids_of_the_student(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    for name, activation, ids in (("vit-openai", "quick_gelu", (49406, 49407)), ("vit", "gelu", (2, 12))):
        made = student(tiny_clip, tmp_path / name, **FAMILIES[name])
        export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / f"{name}-hf")
        config = AutoModel.from_pretrained(tmp_path / f"{name}-hf").config
        assert config.text_config.hidden_act == config.vision_config.hidden_act == activation
        assert (config.text_config.bos_token_id, config.text_config.eos_token_id) == ids
        processor = AutoProcessor.from_pretrained(tmp_path / f"{name}-hf")
        assert processor.tokenizer.model_max_length == made.tokenizer.context_length


def test_a_tokenizer_whose_last_token_is_not_the_highest_pools_as_in_open_clip(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT, {"vocab_size": 40})
    parity = export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / "out")
    assert parity["text_embeddings"] <= 1e-5
    assert AutoModel.from_pretrained(tmp_path / "out").config.text_config.eos_token_id == 2


def test_logits_of_transformers_are_those_of_open_clip(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", **FAMILIES["vit-openai"]).eval()
    export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, CLIPModel)
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    inputs = processor(images=[Image.fromarray(pictures[2])], text=CAPTIONS, padding=True, return_tensors="pt")
    views = torch.from_numpy(np.stack(Source(made, pictures, CAPTIONS).views[2:]))
    with torch.no_grad():
        own = made.encode_image(views) @ made.encode_text(CAPTIONS).T * made.clip.logit_scale.exp()
        torch.testing.assert_close(model(**inputs).logits_per_image, own, atol=1e-4, rtol=0)


def test_siglip_becomes_siglip_model_with_its_bias(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = student(tiny_clip, tmp_path / "student", **narrowed("siglip-small", monkeypatch))
    export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, SiglipModel)
    assert model.logit_bias.item() == -10


def test_a_siglip_that_reads_the_padding_of_openais_tokenizer_is_refused(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = narrowed("siglip-small", monkeypatch)
    text = {**options["text"], **OPENAI, "tokenizer_kwargs": {}}
    made = student(tiny_clip, tmp_path / "student", **{**options, "text": text})
    with pytest.raises(CheckpointError, match="--to hf cannot express this student: its text tower reads padding"):
        export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / "out")
    export_student("onnx", Source(made, pictures, CAPTIONS), tmp_path / "out")


def test_the_difference_of_transformers_default_backend_is_stated(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT)
    parity = export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / "out")
    assert parity["default_backend"]["transform_levels"] < 3
    assert 'Without backend="pil"' in (tmp_path / "out" / "README.md").read_text()


def test_a_bias_of_logits_that_clip_model_does_not_have_is_stated(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT, init_logit_bias=-10)
    export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / "out")
    assert "logit_bias is not part of CLIPModel" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_open_clips_cleaning_is_part_of_the_tokenizer(clean: str, tiny_clip: str, tmp_path: Path) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT, {"tokenizer_kwargs": {"clean": clean}})
    texts = ["  Red\t square ", "red_square!", "a photo, of (Green)", "a\nphoto", ""]
    own = made.tokenize(texts)
    ids = tokenizer_of(made, "hf")(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(own, ids)
    assert [one.ids for one in standalone(made, "onnx").encode_batch(texts)] == own.tolist()


def test_captions_with_other_tokens_are_counted_and_left_out(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT, OPENAI)
    captions = ["a red square", "salt &amp; pepper"]
    parity = export_student("hf", Source(made, pictures, captions), tmp_path / "out")
    assert (parity["captions"], parity["other_tokens"]) == (2, 1)
    assert "1 of the captions have other tokens" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(CheckpointError, match="gives other tokens than the student's for all 1 captions"):
        export_student("hf", Source(made, pictures, captions[1:]), tmp_path / "other")
    assert not (tmp_path / "other").exists()


# timm --------------------------------------------------------------------------------------------------------


def test_timm_loads_the_tower_and_its_feature_maps(tiny_clip: str, pictures: list[ImageArray], tmp_path: Path) -> None:
    made = student(tiny_clip, tmp_path / "student", **FAMILIES["resnet"]).eval()
    export_student("timm", Source(made, pictures, CAPTIONS), tmp_path / "out")
    features = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, features_only=True).eval()
    images = torch.from_numpy(np.stack(Source(made, pictures, CAPTIONS).views))
    with torch.no_grad():
        own = made.maps(images, [1, 2, 3, 4])
        for mine, theirs in zip(own, features(made.normalize(images))[-4:], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


# ONNX --------------------------------------------------------------------------------------------------------

HEADS = {
    "depth/a": HeadSpec("depth", Convention(kind="metric", along="z"), "dpt", {"width": 8}),
    "depth/b": HeadSpec("depth", Convention(kind="affine-disparity"), "psp", {"width": 8}),
    "segmentation/a": HeadSpec("segmentation", Convention(classes=("floor", "wall", "lamp")), "conv", {"width": 8}),
    "normals/a": HeadSpec("normals", Convention(), "linear", loss="angmf"),
    "edges/a.b": HeadSpec("edges", Convention(), "linear"),
    "detection/a": HeadSpec("detection", Convention(classes=("chair", "lamp")), "fcos", {"width": 8}),
    "features/a": HeadSpec("features", Convention(channels=5), "linear"),
}


def test_graphs_of_heads_give_the_tasks_values_for_any_batch(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", **FAMILIES["vit-openai"], specs=HEADS)
    source = Source(made, pictures, CAPTIONS, heads=True)
    parity = export_student("onnx", source, tmp_path / "out")
    assert list(parity["heads"]) == list(HEADS)
    assert max(value for each in parity["heads"].values() for value in each.values()) <= 1e-4
    for column, differences in parity["heads"].items():
        record("Heads as ONNX graphs", column, "onnxruntime", {"output": max(differences.values())}, 1e-4)
    described = json.loads((tmp_path / "out" / "preprocess.json").read_text())
    views = torch.from_numpy(np.stack(source.views))
    with torch.no_grad():
        raw = made(views)["predictions"]
    for column, spec in HEADS.items():
        session = onnxruntime.InferenceSession(tmp_path / "out" / described["heads"][column]["file"])
        names = [output.name for output in session.get_outputs()]
        assert names == described["heads"][column]["outputs"]
        first = session.run(None, {"images": views.numpy()})[0]
        assert len(session.run(None, {"images": views[:1].numpy()})[0]) == 1
        task = tasks.get(spec.task)
        size = made.image_size
        resized = torch.nn.functional.interpolate(raw[column].float(), size, mode="bilinear", antialias=True)
        labels = task.predict(resized[:, : task.channels(spec.convention)], spec.convention)
        for label, values in zip(labels, first, strict=True):
            expected = {
                "depth": "values", "edges": "values", "segmentation": "ids", "normals": "vectors",
                "features": "vectors",
            }  # fmt: skip
            if spec.task == "detection":
                assert values.shape == (size[0] * size[1], 4)
                corners = label.boxes[:, None], values[None]
                assert np.abs(corners[0] - corners[1]).max(2).min(1).max() < 0.01, "each box is one of the graph's"
            else:
                np.testing.assert_allclose(getattr(label, expected[spec.task]), values, rtol=1e-3, atol=1e-4)


def test_graphs_are_one_file_each_of_the_stated_opset(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    import onnx

    made = student(tiny_clip, tmp_path / "student", VIT)
    parity = export_student("onnx", Source(made, pictures, CAPTIONS), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "image.onnx", "parity.json", "preprocess.json", "text.onnx", "tokenizer.json"}
    for name in ("image.onnx", "text.onnx"):
        graph = onnx.load(tmp_path / "out" / name)
        onnx.checker.check_model(graph)
        assert [one.version for one in graph.opset_import if not one.domain] == [parity["opset"]]
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert len(tokenizer.encode("red " * 50).ids) == made.tokenizer.context_length


def test_a_text_tower_that_sees_its_padding_gets_open_clips(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    text = {**OPENAI, "no_causal_mask": True}
    made = student(tiny_clip, tmp_path / "student", VIT, text, custom_text=True)
    assert export_student("onnx", Source(made, pictures, CAPTIONS), tmp_path / "out")["text_embeddings"] <= 1e-4


def test_without_its_packages_onnx_is_refused_with_the_command(
    tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    made = student(tiny_clip, tmp_path / "student", VIT)
    with pytest.raises(CheckpointError, match=r"onnx and onnxruntime is not installed. Run `pip install"):
        export_student("onnx", Source(made, [], []), tmp_path / "out")


LIMITED = """
import resource, sys
from pathlib import Path
from clipzoo.export import Source, export_student
from clipzoo.models import Student
student = Student.create(sys.argv[1], random=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    export_student(sys.argv[2], Source(student, [], []), Path(sys.argv[3]))
except OSError as error:
    sys.exit(error.errno)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["hf", "timm", "onnx"])
def test_a_full_disk_is_an_error_of_the_disk_and_leaves_nothing(target: str, tiny_clip: str, tmp_path: Path) -> None:
    words = [sys.executable, "-W", "ignore", "-c", LIMITED, tiny_clip, target, str(tmp_path / "out"), "20000"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == errno.EFBIG, ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_link_in_the_place_of_an_unfinished_export_is_not_followed(tiny_clip: str, tmp_path: Path) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT)
    (tmp_path / "other").mkdir()
    (tmp_path / "out.partial").symlink_to(tmp_path / "other")
    export_student("timm", Source(made, [np.zeros((32, 32, 3), np.uint8)], CAPTIONS), tmp_path / "out")
    assert not list((tmp_path / "other").iterdir())
    assert not (tmp_path / "out").is_symlink()


# All, and other packages -------------------------------------------------------------------------------------


def test_all_exports_what_can_be_and_gives_reasons_for_the_rest(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path
) -> None:
    family = {"vision": {**RESNET, "layers": [1, 1, 1, 1]}, "specs": {"edges/a": HEADS["edges/a.b"]}}
    made = student(tiny_clip, tmp_path / "student", **family)
    parity = export_student("all", Source(made, pictures, CAPTIONS, heads=True), tmp_path / "out")
    assert sorted(parity["targets"]) == ["onnx", "open_clip"]
    assert sorted(parity["refused"]) == ["hf", "timm"]
    assert "a ResNet of 1-1-1-1 blocks" in parity["refused"]["timm"]
    assert parity["image_embeddings"] <= 1e-4
    assert (tmp_path / "out" / "open_clip" / "clipzoo_heads.json").is_file()
    assert "- hf: not exported, see `refused.json`" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_that_differs_is_refused_with_the_numbers(
    tiny_clip: str, pictures: list[ImageArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin: Any = PLUGINS.load("hf")
    write = plugin.write

    def damaged(source: Source, folder: Path) -> str:
        usage: str = write(source, folder)
        weights = load_file(folder / "model.safetensors")
        weights["visual_projection.weight"][0] *= 1.01
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return usage

    monkeypatch.setattr(plugin, "write", damaged)
    made = student(tiny_clip, tmp_path / "student", VIT)
    with pytest.raises(CheckpointError, match=r"its embeddings differ by up to \S+, more than 1e-05"):
        export_student("hf", Source(made, pictures, CAPTIONS), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
