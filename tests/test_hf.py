"""Experts of Hugging Face: precision, cards, the hub, files that do not fit; for tiny random models saved here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file

import hf_models as zoo
from clipzoo import experts, tasks
from clipzoo.errors import ExpertError, SampleError, StoreError
from clipzoo.experts.base import sha256
from clipzoo.experts.hf.frame import disable_center_crop
from clipzoo.experts.hf.masks import contenders
from clipzoo.experts.hf.postprocessor import one
from clipzoo.experts.hf.source import Source
from clipzoo.labeling import label
from clipzoo.progress import no_bars
from clipzoo.store import Store, verify
from clipzoo.types import ImageArray
from hf_models import SQUARE, changed, save
from making import make_dataset


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    t.utils.logging.set_verbosity_error()
    t.utils.logging.disable_progress_bar()
    yield
    t.utils.logging.set_verbosity_warning()
    t.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def pictures() -> list[ImageArray]:
    """Two of noise, 58×83."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (58, 83, 3), np.uint8) for _ in range(2)]


def loaded(uri: str) -> Any:
    expert = experts.create(uri)
    expert.load()
    return expert


def test_half_precision_is_near(pictures: list[ImageArray], tmp_path: Path) -> None:
    folder = save(zoo.segformer, tmp_path)
    whole, half = (loaded(f"hf:{folder}{query}").predict(pictures) for query in ("", "?dtype=bfloat16"))
    assert np.mean(whole[0].ids == half[0].ids) > 0.9
    assert whole[0].confidence != half[0].confidence


def test_half_precision_ends_where_post_processing_begins(pictures: list[ImageArray], tmp_path: Path) -> None:
    (label,) = loaded(f"hf:{save(zoo.glpn, tmp_path)}?dtype=bfloat16").predict(pictures[:1])
    values = torch.from_numpy(label.values)
    assert (values != values.bfloat16().float()).float().mean() > 0.5


def test_pictures_of_one_pixel(tmp_path: Path) -> None:
    for build, query in ((zoo.dpt, "?kind=metric"), (zoo.segformer, "")):
        expert = loaded(f"hf:{save(build, tmp_path / build.__name__)}{query}")
        for size in ((1, 1), (1, 40), (40, 1)):
            (label,) = expert.predict([np.full((*size, 3), 99, np.uint8)])
            tasks.get(expert.card.task).check(label, expert.card.convention)
            assert label.valid.shape == size


def test_pictures_that_a_processor_cannot_prepare_are_told(tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(zoo.yolos, tmp_path)}")
    with pytest.raises(SampleError, match="YolosImageProcessor cannot prepare a picture of 400×1 pixels"):
        expert.predict([np.full((1, 400, 3), 99, np.uint8)])


def test_a_processor_that_crops_shows_the_whole_picture(pictures: list[ImageArray], tmp_path: Path) -> None:
    folder = save(zoo.mobilevit, tmp_path)
    expert = loaded(f"hf:{folder}")
    (label,) = expert.predict(pictures[:1])
    processor = t.AutoImageProcessor.from_pretrained(folder)
    theirs = {}
    for crop in (False, True):
        inputs = processor(Image.fromarray(pictures[0]), return_tensors="pt", do_center_crop=crop)
        with torch.inference_mode():
            output = expert.module(**inputs)
        theirs[crop] = output.logits
        if not crop:
            (classes,) = processor.post_process_semantic_segmentation(output, [label.ids.shape])
            assert np.array_equal(label.ids, classes)
    assert theirs[False].shape != theirs[True].shape
    assert label.confidence == pytest.approx(float(theirs[False].softmax(1).amax(1).mean()), abs=1e-6)
    assert processor.do_center_crop
    assert expert.card.preprocessing["do_center_crop"] is False


@pytest.mark.parametrize(
    ("build", "query", "name", "width", "columns"),
    [
        (zoo.dpt_dinov2, "?kind=affine-depth", "values", 71, (3, 3)),
        (zoo.dpt_segmentation_padding, "", "ids", 53, (5, 6)),  # whose model takes squares alone
    ],
    ids=["depth", "classes"],
)
def test_padding_is_no_part_of_a_label(
    build: zoo.Build, query: str, name: str, width: int, columns: tuple[int, int], tmp_path: Path
) -> None:
    """A picture is labeled as where it stands in one with the padding painted on, which needs none."""
    expert = loaded(f"hf:{save(build, tmp_path)}{query}")
    if name == "ids":  # a random model finds one class everywhere, unless others are made as probable
        last = expert.module.head.head[-1]
        last.register_forward_hook(lambda layer, given, logits: logits - logits.mean((2, 3), keepdim=True))
    picture = np.random.default_rng(0).integers(0, 256, (53, width, 3), np.uint8)
    rows = (1, 2) if name == "values" else columns
    painted = np.pad(picture, (rows, columns, (0, 0)), constant_values=128)
    (label,), (whole,) = expert.predict([picture]), expert.predict([painted])
    assert label.valid.shape == (53, width)
    theirs = getattr(whole, name)[rows[0] : rows[0] + 53, columns[0] : columns[0] + width]
    np.testing.assert_allclose(getattr(label, name), theirs, atol=1e-5)
    assert np.ptp(getattr(label, name)) > 0


def test_padding_that_cannot_be_cut_off_is_told() -> None:
    with pytest.raises(ExpertError, match=r"pads to multiples of 14.*give ensure_multiple_of"):
        disable_center_crop(t.DPTImageProcessor(do_pad=True, size_divisor=14))
    disable_center_crop(t.DPTImageProcessor(do_pad=True, size_divisor=14, ensure_multiple_of=28))


# What the card says ------------------------------------------------------------------------------------------


def test_the_card_pins_the_bytes_and_tells_license_and_preprocessing(tmp_path: Path) -> None:
    folder = save(zoo.segformer, tmp_path)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n")
    card = experts.create(f"hf:{folder}?dtype=float16&batch_size=3").card
    assert card.weights_sha256 == sha256(folder / "model.safetensors")
    assert (card.license, card.revision) == ("apache-2.0", "")
    assert card.preprocessing["dtype"] == "float16"
    assert card.preprocessing["size"] == SQUARE["size"]
    assert "trust_remote_code" not in card.preprocessing
    assert experts.create(f"hf:{folder}?batch_size=3").batch_size == 3
    assert json.dumps(card.to_json())


def test_weights_in_parts_have_one_digest(tmp_path: Path) -> None:
    folder = save(zoo.segformer, tmp_path)
    whole = experts.create(f"hf:{folder}").card.weights_sha256
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "model-00002-of-00002.safetensors")
    parts = experts.create(f"hf:{folder}").card.weights_sha256
    assert len({whole, parts}) == 2
    save_file({"x": torch.ones(1)}, folder / "model-00002-of-00002.safetensors")
    assert experts.create(f"hf:{folder}").card.weights_sha256 != parts


def test_depth_of_an_unknown_kind_is_asked_for(tmp_path: Path) -> None:
    folder = save(zoo.dpt, tmp_path)
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


def test_without_a_network_the_fix_is_told(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ExpertError, match=r"hf download owner/model --revision v2 --local-dir FOLDER.*hf:FOLDER"):
        experts.create("hf:owner/model@v2")
    assert f"fetching owner/model into {hub}" in caplog.text
    with pytest.raises(ExpertError, match="neither a folder nor a hub id"):
        experts.create("hf:/no/such/folder")


def test_a_model_of_the_hubs_cache_is_pinned_to_its_commit(hub: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = hub / "models--Intel--dpt-tiny"
    save(zoo.dpt, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    for uri in ("hf:Intel/dpt-tiny", f"hf:Intel/dpt-tiny@{commit}"):
        card = experts.create(uri).card
        assert (card.revision, card.convention.kind) == (commit, "affine-disparity")


def test_a_new_commit_of_the_same_model_continues_the_column(hub: Path, tmp_path: Path) -> None:
    """A commit that changes the README. One that changes the settings, or weights, is refused with the fix."""
    data, out, uri = make_dataset(tmp_path / "data", shards=2, count=1), tmp_path / "out", "hf:Intel/dpt-tiny"
    cached = hub / "models--Intel--dpt-tiny"
    commits = [digit * 40 for digit in "abcd"]
    for commit in commits:
        save(zoo.dpt, cached / "snapshots" / commit)
    (cached / "snapshots" / commits[1] / "README.md").write_text("A new text.")
    config = cached / "snapshots" / commits[2] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_depth": 80}))
    weights = cached / "snapshots" / commits[3] / "model.safetensors"
    save_file({name: one + 1 for name, one in load_file(weights).items()}, weights)
    (cached / "refs").mkdir()

    def labeled(commit: str, shards: str | None = None) -> int:
        (cached / "refs" / "main").write_text(commit)
        return label(data, uri, out, device="cpu", check=False, progress=False, shards=shards)[0].labeled

    assert labeled(commits[0], "00000") == 1
    assert labeled(commits[1]) == 1
    (column,) = Store(out).columns()
    assert column.manifest.expert["revision"] == commits[0]
    assert not verify(out, data, deep=True)
    for commit, field in ((commits[2], "revision"), (commits[3], "weights_sha256")):
        fix = f"column: depth/hf-Intel-dpt-tiny.*earlier revision .*{uri}@{commits[0]}; otherwise give"
        with pytest.raises(StoreError, match=f"was made with {field} = .*{fix}"):
            labeled(commit)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?knid=metric", "has the unknown option 'knid'; options are: kind"),
        ("?dtype=int8", "one of float32, float16, bfloat16"),
        ("?batch_size=0", "at least 1"),
        ("?trust_remote_code=yes", "one of 0, 1"),
    ],
)
def test_wrong_options_are_told(query: str, message: str, tmp_path: Path) -> None:
    folder = save(zoo.segformer, tmp_path)
    with pytest.raises(ExpertError, match=message):
        experts.create(f"hf:{folder}{query}")


def test_models_that_do_not_fit_are_told(tmp_path: Path) -> None:
    folder = save(zoo.segformer, tmp_path)
    uri = f"hf:{folder}"
    with pytest.raises(ExpertError, match=r"not loaded; call load\(\)"):
        experts.create(uri).predict([])
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ExpertError, match=r"2 weights are missing, such as decode_head\.classifier\.bias"):
        experts.create(uri).load()
    changed(folder, id2label={"1": "a", "2": "b"})
    with pytest.raises(ExpertError, match="without gaps"):
        experts.create(uri)
    changed(folder, architectures=["ViTForImageClassification"])
    with pytest.raises(ExpertError, match="a ViTForImageClassification, which predicts neither"):
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
    folder = save(zoo.segformer, tmp_path)
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


def test_loading_draws_no_bars_and_leaves_them_as_they_were(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save(zoo.depth_anything, tmp_path / "model")
    t.utils.logging.enable_progress_bar()
    try:
        capfd.readouterr()
        loaded(f"hf:{folder}")
        assert "Loading" not in capfd.readouterr().err
        assert t.utils.logging.is_progress_bar_enabled()
        t.AutoModelForDepthEstimation.from_pretrained(folder)
        assert "Loading" in capfd.readouterr().err, "which they are, unasked"
    finally:
        t.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("fetched", [True, False])
def test_bars_of_downloads_stay_unless_nothing_is_left_to_fetch(fetched: bool) -> None:
    (huggingface_hub.utils.enable_progress_bars if fetched else huggingface_hub.utils.disable_progress_bars)()
    try:
        with no_bars():
            assert huggingface_hub.utils.are_progress_bars_disabled() is not fetched
        with no_bars(downloads=True):
            assert huggingface_hub.utils.are_progress_bars_disabled()
        assert huggingface_hub.utils.are_progress_bars_disabled() is not fetched
    finally:
        huggingface_hub.utils.enable_progress_bars()
        t.utils.logging.disable_progress_bar()


def test_the_outputs_of_one_image_are_laid_out_as_it_alone_would_have_them():
    from transformers.modeling_outputs import SemanticSegmenterOutput

    many = torch.rand(4, 3, 5, 6).to(memory_format=torch.channels_last)
    third = one(SemanticSegmenterOutput(logits=many), 2, 4)
    assert third.logits.is_contiguous()
    assert torch.equal(third.logits, many[2:3])


@pytest.mark.parametrize("size", [(40, 56), (97, 131), (13, 9), (11, 7), (1, 1)])
@pytest.mark.parametrize("coarse", [(13, 9), (5, 4), (2, 2)])
def test_classes_that_are_best_nowhere_are_not_enlarged(coarse: tuple[int, int], size: tuple[int, int]) -> None:
    def resized(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return torch.nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = resized(torch.randn(60, *coarse, generator=generator), (13, 9))
        logits[7] = logits[3]  # of equal ones the first is best
        able = contenders(logits)
        assert able.tolist() == sorted(able.tolist())
        assert torch.equal(able[resized(logits[able], size).argmax(0)], resized(logits, size).argmax(0))
        assert len(able) < 50 or coarse != (2, 2)


def test_only_what_can_win_between_four_neighbors_contends() -> None:
    logits = torch.tensor([[[4.0, 0.0]] * 2, [[0.0, 4.0]] * 2, [[3.0, 3.0]] * 2, [[-1.0, -1.0]] * 2])
    assert contenders(logits).tolist() == [0, 1, 2]  # the third is best half-way, at no neighbor
    assert contenders(logits[:, :1]).tolist() == [0, 1, 2, 3]
    assert contenders(torch.full((2, 3, 3), torch.nan)).tolist() == [0, 1]


def test_the_processor_is_that_of_transformers(tmp_path: Path) -> None:
    """transformers 5.24 prefers the nested settings of ``processor_config.json``; both files may exist."""
    for name, found in (
        ("preprocessor_config.json", {"do_pad": True}),
        ("processor_config.json", {"image_seq_length": 1}),
    ):
        (tmp_path / name).write_text(json.dumps(found))
    assert Source("m", tmp_path, "", {}).preprocessing == {"do_pad": True}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"do_pad": False}}))
    assert Source("m", tmp_path, "", {}).preprocessing == {"do_pad": False}


@pytest.mark.parametrize(("text", "license"), [("license: mit\ndate: 2024-02-30", "mit"), ("[" * 3000, "unknown")])
def test_the_license_of_a_strangers_readme(text: str, license: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    assert Source("m", tmp_path, "", {}).license == license
