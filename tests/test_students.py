"""Students of every family of OpenCLIP: they train, keep their weights in a folder, and take other image sizes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import timm
import torch
from timm.models import _registry
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from clipzoo import model_schemes
from clipzoo.data import TrainingSet, Viewing
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.export import Source, export_student
from clipzoo.model_schemes import hf
from clipzoo.models import HeadSpec, Student
from clipzoo.models._layout import channels_last
from clipzoo.models._sizes import interpolate
from clipzoo.recipe import parse
from clipzoo.runs import Run, verbs
from clipzoo.tasks import Convention
from clipzoo.training import Training, train
from clipzoo.training.processes import pairs
from clipzoo.training.updates import optimizer
from conftest import WORDS
from test_training import job

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}


class Family(NamedTuple):
    """A tiny model of a family: its published configuration with fewer and narrower layers.

    ``vision`` is the configuration of its tower, ``timm`` the arguments of timm's function that make it small.
    """

    vision: dict[str, object]
    timm: dict[str, object] = {}  # noqa: RUF012
    text: dict[str, object] = TEXT
    more: dict[str, object] = {}  # noqa: RUF012
    layers: tuple[int, ...] = (0, -1)
    strides: tuple[int, ...] = (8, 8)
    wide: tuple[int, int] | None = (32, 64)
    """A size that is not square; None if the tower has none."""


def tower(name: str, pool: str, proj: str | None, size: int = 32) -> dict[str, object]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size}


CUSTOM = {"custom_text": True}
SIGLIP = {"custom_text": True, "init_logit_bias": -10}
FAMILIES = {
    "ViT": Family({"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}),
    "ResNet": Family(
        {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}, strides=(4, 32), wide=None
    ),
    "ConvNeXt": Family(
        tower("convnext_base", "", "linear"), {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, strides=(4, 32)
    ),
    "SigLIP": Family(tower("vit_base_patch16_siglip_224", "map", "none"), SMALL, SIGLIP_TEXT, SIGLIP),
    "SigLIP 2": Family(
        tower("vit_base_patch32_siglip_256", "map", "none"),
        SMALL,
        {**SIGLIP_TEXT, "act_kwargs": {"approximate": "tanh"}},
        SIGLIP,
    ),
    "MobileCLIP S": Family(
        tower("fastvit_mci1", "avg", None),
        {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)},
        {**TEXT, "no_causal_mask": True},
        CUSTOM,
        strides=(4, 32),
    ),
    "MobileCLIP 2 S": Family(
        tower("fastvit_mci3", "avg", None, 64),
        {"layers": (1, 1, 1, 1, 1), "embed_dims": (8, 16, 32, 64, 64)},
        {**TEXT, "no_causal_mask": True},
        CUSTOM,
        strides=(4, 64),
        wide=(64, 128),
    ),
    "PE-Core": Family(
        tower("vit_pe_core_tiny_patch16_384", "map", None),
        {**SMALL, "attn_pool_num_heads": 2},
        more=CUSTOM,
    ),
    "EVA-02": Family(tower("eva02_base_patch16_clip_224", "token", None), SMALL, more=CUSTOM),
    "timm ViT": Family(tower("vit_medium_patch16_gap_256", "", "linear"), SMALL),
    "Swin": Family(
        tower("swin_base_patch4_window7_224", "", "linear", 64),
        {"img_size": 64, "window_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)},
        strides=(4, 8),
        wide=None,
    ),
}
QUICK = ("ViT", "ResNet", "SigLIP", "PE-Core", "Swin")
"""Families whose other sizes are run by the quick tests."""


@pytest.fixture
def model(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The family's tiny model, known to OpenCLIP under a name."""
    family = FAMILIES[name]
    if entry := family.vision.get("timm_model_name"):
        made = timm.models.model_entrypoint(str(entry))
        monkeypatch.setitem(_registry._model_entrypoints, str(entry), lambda **o: made(**{**family.timm, **o}))
    width = 32 if family.vision.get("timm_proj") == "none" else 16
    config = {"embed_dim": width, "vision_cfg": family.vision, "text_cfg": family.text, **family.more}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    return "tiny"


def images(size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


SPECS = {
    "segmentation/test-truth": HeadSpec("segmentation", Convention(classes=("background", "square")), "conv"),
    "depth/test-truth": HeadSpec("depth", Convention(kind="metric", along="z"), "linear"),
}


def trained(student: Student, dataset: Path, labels: Path, tiny_clip: str, out: Path) -> None:
    """One step of the trainer, with captions and both columns."""
    made = job(dataset, labels, tiny_clip, out, steps=1, tracking=[])
    data = TrainingSet(made.dataset.plan, made.dataset.reader, made.dataset.labels, Viewing(student.image_size))
    train(Training(made.job, student, data))


def zero_shot(student: Student) -> Tensor:
    with torch.no_grad():
        texts = student.encode_text(["a red square", "a green square", "a dark square"])
        return student.clip.logit_scale.exp() * student.encode_image(images(student.image_size)) @ texts.T


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, "own") for name in FAMILIES]
    + [pytest.param(name, "wide", marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES],
)
def test_a_family_trains_and_comes_back_from_its_folder(
    name: str, shape: str, model: str, dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    size = family.wide if shape == "wide" else None
    if shape == "wide" and size is None:
        with pytest.raises(CheckpointError, match="does not support images of 64×128 pixels"):
            Student.create(model, random=True, size=(64, 128))
        return
    torch.manual_seed(0)
    student = Student.create(model, specs=SPECS, layers=family.layers, random=True, size=size)
    H, W = student.image_size
    assert (size or (family.vision["image_size"],) * 2) == (H, W)
    start = {key: value.clone() for key, value in student.state_dict().items()}
    trained(student, dataset, labels, tiny_clip, tmp_path / "training")
    changed = [key for key, value in student.named_parameters() if not torch.equal(value, start[key])]
    assert len(changed) >= 0.8 * len(list(student.parameters()))  # a gain that starts at 0 stops others' gradients

    student.eval()
    with torch.no_grad():
        maps = student.maps(images((H, W)))
        torch.testing.assert_close(student(images((H, W)))["image_features"], student.encode_image(images((H, W))))
    assert [m.shape[-2:] for m in maps] == [(H // stride, W // stride) for stride in family.strides]

    for folder in (tmp_path / "training" / "student", tmp_path / "again"):
        loaded = Student.load(folder).eval()
        assert loaded.image_size == (H, W)
        assert torch.equal(zero_shot(loaded), zero_shot(student))
        with torch.no_grad():
            ours, theirs = (one(images((H, W)))["predictions"] for one in (loaded, student))
        assert all(torch.equal(ours[column], theirs[column]) for column in SPECS)
        loaded.save(tmp_path / "again")


PUBLISHED = {
    "ViT-B-32": (3, 11), "ViT-B-16": (3, 11), "ViT-M-16": (3, 11), "RN50": (1, 4), "RN50x4": (1, 4),
    "convnext_tiny": (0, 3), "ViT-B-16-SigLIP": (3, 11), "ViT-B-32-SigLIP2-256": (3, 11), "MobileCLIP-S1": (0, 3),
    "MobileCLIP-B": (3, 11), "MobileCLIP2-S0": (0, 3), "MobileCLIP2-S2": (0, 3), "MobileCLIP2-S3": (0, 4),
    "ViT-B-16-SigLIP2": (3, 11), "PE-Core-T-16-384": (3, 11), "PE-Core-S-16-384": (3, 11), "PE-Core-B-16": (3, 11),
    "EVA02-B-16": (3, 11), "ViTamin-S": (3, 13), "swin_base_patch4_window7_224": (0, 3),
    "vit_medium_patch16_gap_256": (3, 11),
}  # fmt: skip
"""Published architectures, with two layers; docs/students.md lists them."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_trains_and_comes_back(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The vision tower is the published one. Text towers have 2 layers, and OpenAI's tokenizer: others are on a hub."""
    config = json.loads(json.dumps(open_clip.get_model_config(name)))
    config["text_cfg"] |= {"layers": 2, "vocab_size": 49408}
    for key in ("hf_tokenizer_name", "tokenizer_kwargs"):
        config["text_cfg"].pop(key, None)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "published", config)
    torch.manual_seed(0)
    student = Student.create("published", specs=SPECS, layers=PUBLISHED[name], random=True)
    pictures = images(student.image_size)
    out = student(pictures, student.tokenize(["a red square", "a green square"]))
    loss = pairs.loss(out, None) + sum(raw.square().mean() for raw in out["predictions"].values())
    loss.backward()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all()
                parameter -= 1e-3 * parameter.grad
    student.zero_grad()
    student.eval().save(tmp_path)
    assert torch.equal(zero_shot(Student.load(tmp_path).eval()), zero_shot(student))


def test_a_strided_convolution_of_one_pixel_stays_contiguous() -> None:
    """In channels-last order its backward pass kills the process (torch 2.14.1, CPU)."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 64, 1, 2, bias=False), nn.Conv2d(64, 8, 3))
    tower = copy.deepcopy(plain)
    channels_last(tower)
    orders = []
    tower[0].register_forward_hook(
        lambda _, inputs, out: orders.append((inputs[0].is_contiguous(), out.is_contiguous()))
    )
    pictures = torch.randn(2, 64, 64, 3).permute(0, 3, 1, 2)
    for made, x in ((tower, pictures), (plain, pictures.contiguous())):
        made(x).square().mean().backward()
    assert orders == [(True, True)]
    assert tower[0].weight.stride() == (3, 1, 1, 1)
    assert tower[1].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(tower[0].weight.grad, plain[0].weight.grad)


# Sizes -------------------------------------------------------------------------------------------------------


def test_positions_are_interpolated_as_in_openclip() -> None:
    small, large = (
        {"image_size": size, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8} for size in (32, 48)
    )
    made = [open_clip.CLIP(8, vision, TEXT) for vision in (small, large)]
    state = made[0].state_dict()
    theirs = dict(state)
    open_clip.model.resize_pos_embed(theirs, made[1])
    own = state["visual.positional_embedding"]
    torch.testing.assert_close(
        interpolate(own[1:], (4, 4), (6, 6)), theirs["visual.positional_embedding"][1:], rtol=0, atol=1e-7
    )


def test_a_grid_of_as_many_tokens_and_another_shape_is_interpolated_too() -> None:
    """OpenCLIP 3.3 compares only the number of tokens."""
    ramp = torch.arange(12.0).repeat(12, 1).reshape(144, 1)
    wide = interpolate(ramp, (12, 12), (8, 18)).view(8, 18)
    assert (wide.diff(dim=1) > 0).all()
    torch.testing.assert_close(wide[:, 4:14].diff(dim=1), torch.full((8, 9), 12 / 18), rtol=0, atol=0.05)
    torch.testing.assert_close(interpolate(ramp, (12, 12), (12, 12)), ramp)


@pytest.mark.parametrize("name", ["ViT", "SigLIP"])
def test_a_student_of_another_size_is_resized_again(name: str, model: str, tmp_path: Path) -> None:
    Student.create(model, random=True, size=(32, 64)).save(tmp_path / "wide")
    back = Student.create(f"local-dir:{tmp_path / 'wide'}", size=(48, 48))
    assert back.image_size == back.preprocess_cfg["size"] == (48, 48)
    back.save(tmp_path / "square")
    config = json.loads((tmp_path / "square" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["image_size"] == 48
    assert torch.equal(zero_shot(Student.load(tmp_path / "square").eval()), zero_shot(back.eval()))


@pytest.mark.parametrize("name", ["ViT"])
def test_openclip_loads_a_vit_that_is_not_square(name: str, model: str, tmp_path: Path) -> None:
    student = Student.create(model, random=True, size=(32, 64)).eval()
    student.save(tmp_path)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    with torch.no_grad():
        ours = student.encode_image(images((32, 64)))
        torch.testing.assert_close(theirs.encode_image(student.normalize(images((32, 64))), normalize=True), ours)


@pytest.mark.parametrize(
    ("name", "size", "error"),
    [
        ("ViT", (36, 32), "patches have 8×8 pixels"),
        ("ResNet", (64, 32), "square"),
        ("ResNet", (40, 40), "stride is 32"),
    ],
)
def test_sizes_that_a_tower_does_not_have_are_refused(name: str, size: tuple[int, int], error: str, model: str) -> None:
    with pytest.raises(CheckpointError, match=error):
        Student.create(model, random=True, size=size)


@pytest.mark.parametrize("name", ["ResNet"])
def test_a_resnet_of_another_size_comes_back(name: str, model: str, tmp_path: Path) -> None:
    student = Student.create(model, random=True, size=(64, 64)).eval()
    student.save(tmp_path)
    assert torch.equal(zero_shot(Student.load(tmp_path).eval()), zero_shot(student))


def test_a_recipe_has_a_size() -> None:
    values = {"name": "x", "data": "d", "training": {"steps": 1}, "arms": ["clip"]}
    for size, expected in ((None, None), (96, (96, 96)), ([64, 96], (64, 96))):
        assert parse({**values, "student": {"model": "demo:clip", "size": size}}).student.height_width == expected
    with pytest.raises(RecipeError, match=r"student\.size"):
        parse({**values, "student": {"model": "demo:clip", "size": [1, 2, 3]}})


def test_a_run_trains_at_the_size_of_its_recipe(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made = parse(
        {
            "name": "wide", "data": str(dataset), "store": str(labels), "arms": ["clip", "clipzoo"],
            "columns": [{"column": "segmentation/test-truth", "head": "linear"}],
            "student": {"model": tiny_clip, "size": [32, 48]},
            "training": {"steps": 1, "batch_size": 8, "tracking": []},
        }
    )  # fmt: skip
    verbs.train(Run(made, tmp_path / "run"), "clipzoo", 0)
    assert Student.load(tmp_path / "run" / "arms" / "clipzoo" / "0" / "student").image_size == (32, 48)


@pytest.mark.parametrize(
    ("name", "kinds"), [("MobileCLIP S", ("gamma",)), ("Swin", ("relative_position_bias_table",)), ("ConvNeXt", ())]
)
def test_gains_and_biases_of_towers_of_timm_never_decay(name: str, kinds: tuple[str, ...], model: str) -> None:
    named = [(one, p) for one, p in Student.create(model, random=True).named_parameters() if p.ndim > 1]
    free = {one.rpartition(".")[2] for one, p in named if "visual" in one and not optimizer._decays(one, p)}
    assert free - {"weight"} == {*kinds}, "weight is that of depthwise convolutions of one pixel, which are gains"


# Folders of transformers -------------------------------------------------------------------------------------


def hf_folder(
    kind: str, out: Path, unused: int = 0, vision: dict[str, int] | None = None, **more: Any
) -> PreTrainedModel:
    """A random CLIP or SigLIP with a tokenizer of words, as transformers saves it.

    ``unused`` is the number of ids above those of the tokenizer, ``vision`` the fields of the vision tower alone.
    """
    words = {word: i for i, word in enumerate(("<pad>", "<unk>", "<s>", *WORDS, "</s>"))}
    own = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 2), ("</s>", len(words) - 1)]
    own.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(out)
    small = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, **more}
    image = {"image_size": 32, "patch_size": 8, **small, **(vision or {})}
    text = {**small, "vocab_size": len(words) + unused, "max_position_embeddings": 8}
    text |= {"bos_token_id": 2, "eos_token_id": len(words) - 1, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "siglip":
        text["projection_size"] = 32
        made: PreTrainedModel = SiglipModel(SiglipConfig(text_config=text, vision_config=image))
    else:
        made = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=16))
    for parameter in made.parameters():
        if parameter.ndim:
            nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.1)
    nn.init.constant_(made.logit_scale, 3.0)
    made.save_pretrained(out)
    return made.eval()


def hf_logits(theirs: PreTrainedModel, student: Student) -> tuple[Tensor, Tensor]:
    """Logits of both libraries for the same images and texts."""
    texts, pictures = ["red square", "a bright green square", "dark"], images(student.image_size)
    bias = student.clip.logit_bias if student.clip.logit_bias is not None else 0
    with torch.no_grad():
        tokens, pixels = student.tokenize(texts), student.normalize(pictures)
        expected = theirs(input_ids=tokens, pixel_values=pixels).logits_per_image
        out = student(pictures, tokens)
        ours = out["logit_scale"] * out["image_features"] @ out["text_features"].T + bias
    return ours, expected


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("end", ["own", "highest", "inside"])
def test_a_clip_of_transformers_has_the_same_logits(act: str, end: str, tmp_path: Path) -> None:
    theirs = hf_folder("clip", tmp_path, unused=3 if end == "inside" else 0, hidden_act=act)
    if end == "highest":
        theirs = pooled_at(2, tmp_path)
    student = Student.create(model_schemes.resolve(f"hf:{tmp_path}")).eval()
    ours, expected = hf_logits(theirs, student)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert ours.std() > 0.05
    student.save(tmp_path / "student")
    again, _ = hf_logits(theirs, Student.load(tmp_path / "student").eval())
    assert torch.equal(again, ours)


def pooled_at(token: int, folder: Path) -> PreTrainedModel:
    """The saved CLIP with another ``eos_token_id``."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = token
    (folder / "config.json").write_text(json.dumps(config))
    return CLIPModel.from_pretrained(folder).eval()


def test_a_clip_that_pools_at_another_token_than_the_end_needs_openclip_3(tmp_path: Path) -> None:
    hf_folder("clip", tmp_path)
    theirs, model = pooled_at(4, tmp_path), model_schemes.resolve(f"hf:{tmp_path}")
    if int(open_clip.__version__.partition(".")[0]) > 3:
        with pytest.raises(CheckpointError, match="does not match the resolved tokenizer's eos"):
            Student.create(model)
        return
    ours, expected = hf_logits(theirs, Student.create(model).eval())
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.fixture
def tiny_siglip(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vit_base_patch16_siglip_224"
    made = timm.models.model_entrypoint(name)
    monkeypatch.setitem(_registry._model_entrypoints, name, lambda **o: made(**{**SMALL, **o}))
    monkeypatch.setitem(hf.TOWERS, (32, 2, 2, 8), name)


@pytest.mark.usefixtures("tiny_siglip")
@pytest.mark.parametrize(("act", "tolerance"), [("gelu", 1e-4), ("gelu_pytorch_tanh", 1e-3)])
def test_a_siglip_of_transformers_has_the_same_logits(act: str, tolerance: float, tmp_path: Path) -> None:
    """With GELU's tanh approximation they differ a little: timm's image towers compute it exactly."""
    theirs = hf_folder("siglip", tmp_path, hidden_act=act, layer_norm_eps=1e-6)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    student = Student.create(model_schemes.resolve(f"hf:{tmp_path}")).eval()
    assert (student.crop, list(student.preprocess_cfg["mean"])) == ("whole", [0.5] * 3)
    ours, expected = hf_logits(theirs, student)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "size", "name"),
    [
        ((768, 12, 12, 16), 224, "vit_base_patch16_siglip_224"),
        ((768, 12, 12, 16), 256, "vit_base_patch16_siglip_256"),
        ((768, 12, 12, 16), 512, "vit_base_patch16_siglip_512"),
        ((768, 12, 12, 16), 320, "vit_base_patch16_siglip_224"),
        ((1024, 24, 16, 16), 384, "vit_large_patch16_siglip_384"),
        ((1152, 27, 16, 14), 384, "vit_so400m_patch14_siglip_384"),
        ((1536, 40, 16, 16), 384, "vit_giantopt_patch16_siglip_384"),
    ],
)
def test_a_siglip_of_transformers_has_the_tower_of_its_image_size(
    shape: tuple[int, int, int, int], size: int, name: str, tmp_path: Path
) -> None:
    width, depth, heads, patch = shape
    vision = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "patch_size": patch}
    config = SiglipConfig(vision_config={**vision, "image_size": size})
    assert hf._siglip(tmp_path, config)["vision_cfg"]["timm_model_name"] == name  # type: ignore[index]


@pytest.mark.usefixtures("tiny_siglip")
@pytest.mark.parametrize("size", [32, 48])
def test_openclip_loads_an_exported_siglip_of_another_published_size(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SigLIP's towers are published in several sizes; here 48 pixels are one."""
    made = timm.models.model_entrypoint("vit_base_patch16_siglip_224")
    for own in (32, 48):
        cfg = {"input_size": (3, own, own)}
        monkeypatch.setitem(
            _registry._model_entrypoints,
            f"vit_base_patch16_siglip_{own}",
            lambda own=own, cfg=cfg, **o: made(**{**o, "img_size": own, "pretrained_cfg_overlay": cfg}),
        )
    hf_folder("siglip", tmp_path / "theirs", hidden_act="gelu", layer_norm_eps=1e-6, vision={"image_size": size})
    student = Student.create(model_schemes.resolve(f"hf:{tmp_path / 'theirs'}")).eval()
    assert student.image_size == (size, size)
    source = Source(student, list(images((size, size)).numpy()), ["red square"])
    export_student("open_clip", source, tmp_path / "out")


@pytest.mark.slow
def test_openclip_loads_an_exported_siglip_of_a_published_tower(tmp_path: Path) -> None:
    published = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    hf_folder("siglip", tmp_path / "theirs", vision={**published, "patch_size": 16, "image_size": 384})
    student = Student.create(model_schemes.resolve(f"hf:{tmp_path / 'theirs'}")).eval()
    source = Source(student, list(images((384, 384)).numpy()), ["red square"])
    export_student("open_clip", source, tmp_path / "out")


def test_a_clip_of_transformers_is_trained(dataset: Path, labels: Path, tmp_path: Path) -> None:
    hf_folder("clip", tmp_path / "clip")
    recipe = {
        "name": "hf", "data": str(dataset), "store": str(labels), "arms": ["clip", "clipzoo"],
        "columns": [{"column": "segmentation/test-truth", "head": "linear"}],
        "student": {"model": f"hf:{tmp_path / 'clip'}"}, "training": {"steps": 1, "batch_size": 8, "tracking": []},
    }  # fmt: skip
    verbs.train(Run(parse(recipe), tmp_path / "run"), "clipzoo", 0)
    assert Student.load(tmp_path / "run" / "arms" / "clipzoo" / "0" / "student").specs


def test_folders_that_cannot_be_converted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hf download ORG/NAME --local-dir"):
        model_schemes.resolve("hf:openai/clip-vit-base-patch32")
    hf_folder("siglip", tmp_path / "siglip")
    with pytest.raises(CheckpointError, match="no SigLIP tower of width 32, depth 2, 2 heads and patches of 8 pixels"):
        model_schemes.resolve(f"hf:{tmp_path / 'siglip'}")
    hf_folder("clip", tmp_path / "clip", hidden_act="relu")
    with pytest.raises(CheckpointError, match="its activations are relu"):
        model_schemes.resolve(f"hf:{tmp_path / 'clip'}")
    (tmp_path / "clip" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        model_schemes.resolve(f"hf:{tmp_path / 'clip'}")
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="its model_type is 'bert', not clip or siglip"):
        model_schemes.resolve(f"hf:{tmp_path / 'clip'}")
    hf_folder("clip", tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no readable model\.safetensors"):
        model_schemes.resolve(f"hf:{tmp_path / 'bare'}")


@pytest.mark.parametrize("name", ["SigLIP"])
def test_the_export_of_a_resized_timm_tower_to_openclip_is_refused(name: str, model: str, tmp_path: Path) -> None:
    student = Student.create(model, random=True, size=(32, 64)).eval()
    source = Source(student, list(images((32, 64)).numpy()), ["a red square", "a square"])
    with pytest.raises(CheckpointError, match=r"its images have 32×64 pixels.*for 224×224 pixels only.*clipzoo\.load"):
        export_student("open_clip", source, tmp_path / "out")
