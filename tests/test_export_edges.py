"""Exports: where they are written, students at the limits of a target, and probabilities without clipzoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForImageClassification, AutoTokenizer, CLIPTextModelWithProjection

from clipzoo.errors import CheckpointError
from clipzoo.export import PLUGINS, Source, export_student
from clipzoo.export._hub import STALE
from clipzoo.models import Student
from clipzoo.models.loaded import Loaded
from making import image
from test_export_targets import FAMILIES, HEADS, VIT, narrowed, student

TEXTS = ["red square", "a photo of a green square", "dark"]


@pytest.fixture
def small(tiny_clip: str, tmp_path: Path) -> Source:
    """A student that `timm` exports, with a picture."""
    return Source(student(tiny_clip, tmp_path / "student", VIT), [image(0, (32, 32))], TEXTS)


# Where -------------------------------------------------------------------------------------------------------


def test_folders_beside_an_export_are_kept(small: Source, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "notes.txt").write_text("mine")
    export_student("timm", small, tmp_path / "out")
    assert (tmp_path / "out.partial" / "notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"student", "out", "out.partial"}


@pytest.mark.parametrize("out", [".", "x/..", "../here"])
def test_an_empty_folder_is_filled_and_stays_the_same_folder(
    out: str, small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    before = here.stat().st_ino
    monkeypatch.chdir(here)
    export_student("timm", small, Path(out))
    assert here.stat().st_ino == before, "it may be a mount point, or the current folder of a shell"
    assert {path.name for path in here.iterdir()} == {"README.md", "config.json", "model.safetensors", "parity.json"}
    with pytest.raises(CheckpointError, match="here is not empty"):
        export_student("timm", small, Path(out))


def test_a_failed_export_leaves_an_empty_folder_empty(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(PLUGINS.load("timm"), "LIMIT", -1.0)
    with pytest.raises(CheckpointError, match="is not the student"):
        export_student("timm", small, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_appears_during_an_export_is_not_overwritten(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin: Any = PLUGINS.load("timm")
    compare, out = plugin.compare, tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(plugin, "compare", lambda *given: (out / "config.json").write_text("mine") and compare(*given))
    with pytest.raises(CheckpointError, match="out is not empty"):
        export_student("timm", small, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"config.json": "mine"}


def test_links_and_files_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    source = Source(cast(Student, None), [], [])  # nothing can be done with it
    for name, says in (("link", "is a link to empty"), ("dangling", "is a link to nowhere"), ("file", "is a file")):
        with pytest.raises(CheckpointError, match=f"{name} {says}"):
            export_student("timm", source, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "file", "link", "dangling"}


# Which students ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vision",
    [
        pytest.param({**VIT, "width": 44, "head_width": 22, "mlp_ratio": 49.5 / 44}, id="a truncated ratio"),
        pytest.param({**VIT, "norm_kwargs": {"eps": 1e-6}}, id="a smaller eps"),
        pytest.param({**VIT, "patch_size": [8, 16]}, id="wide patches"),
    ],
)
def test_timm_expresses_widths_norms_and_patches(vision: dict[str, Any], tiny_clip: str, tmp_path: Path) -> None:
    made = student(tiny_clip, tmp_path / "student", vision)
    parity = export_student("timm", Source(made, [image(0, (32, 32))], TEXTS), tmp_path / "out")
    assert cast(float, parity["image_embeddings"]) < 1e-6


@pytest.mark.parametrize(("family", "size"), [("siglip-small", (16, 64)), ("timm-vit", (80, 320))])
def test_open_clip_is_refused_for_a_size_with_as_many_patches_as_the_towers(
    family: str, size: tuple[int, int], tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student(tiny_clip, tmp_path / "student", **(FAMILIES.get(family) or narrowed(family, monkeypatch)))
    made = Student.create(f"local-dir:{tmp_path / 'student'}", random=True, size=size)
    with pytest.raises(CheckpointError, match=f"--to open_clip cannot .*: its images have {size[0]}×{size[1]} pixels"):
        export_student("open_clip", Source(made, [image(0, (32, 32))], TEXTS), tmp_path / "out")


def test_all_records_what_happened_to_a_target_that_fails(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Source, folder: Path) -> str:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(PLUGINS.load("timm"), "write", fail)
    monkeypatch.setattr(PLUGINS.load("onnx"), "write", fail)
    monkeypatch.setattr(PLUGINS.load("hf"), "write", fail)
    parity = export_student("all", small, tmp_path / "out")
    assert list(cast(dict[str, object], parity["targets"])) == ["open_clip"]
    reasons = json.loads((tmp_path / "out" / "refused.json").read_text())
    assert reasons["timm"].startswith("--to timm failed: RuntimeError: size mismatch. This is an error of clipzoo")


# Uploads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "target", "some"),
    [
        ("vit", "all", {"refused.json", "open_clip/clipzoo_heads.json", "onnx/head-edges-a.onnx", "hf/config.json"}),
        ("resnet", "hf", {"image/config.json", "text/tokenizer.json", "logits.json"}),
    ],
)
def test_a_later_upload_deletes_every_file_of_an_export(
    family: str, target: str, some: set[str], tiny_clip: str, tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", **FAMILIES[family], specs={"edges/a": HEADS["edges/a.b"]})
    whole = target == "all"
    export_student(target, Source(made, [image(0, (32, 32))], TEXTS, heads=whole), tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert some <= found
    found |= {name.partition("/")[2] for name in found if "/" in name} if whole else {f"hf/{name}" for name in found}
    assert found - set(filter_repo_objects(found, allow_patterns=STALE)) == {"README.md"}


def test_an_upload_keeps_files_that_no_export_writes() -> None:
    kept = [
        "lora/adapter.safetensors", "lora/config.json", "adapter_model.safetensors", "text/notes.md", "other.onnx",
        "head-shot.onnx", "image/picture.png", "config/config.json", "train.py", ".gitattributes",
    ]  # fmt: skip
    assert not list(filter_repo_objects(kept, allow_patterns=STALE))


# Probabilities -----------------------------------------------------------------------------------------------


def probabilities(cosines: torch.Tensor, path: Path) -> torch.Tensor:
    """Return what the model card says of probabilities."""
    numbers = json.loads(path.read_text())
    if numbers["logit_bias"] is None:
        assert "softmax of `logit_scale *" in (path.parent / "README.md").read_text()
        return (numbers["logit_scale"] * cosines).softmax(-1)
    assert "sigmoid of `logit_scale *" in (path.parent / "README.md").read_text()
    return (numbers["logit_scale"] * cosines + numbers["logit_bias"]).sigmoid()


@pytest.mark.parametrize("bias", [{}, {"init_logit_bias": -10}])
def test_probabilities_follow_from_onnx(bias: dict[str, int], tiny_clip: str, tmp_path: Path) -> None:
    made = student(tiny_clip, tmp_path / "student", VIT, **bias).eval()
    pixels, out = image(1, (32, 32)), tmp_path / "out"
    export_student("onnx", Source(made, [pixels], TEXTS), out)
    ids = [one.ids for one in Tokenizer.from_file(str(out / "tokenizer.json")).encode_batch(TEXTS)]
    (pictures,) = onnxruntime.InferenceSession(out / "image.onnx").run(None, {"images": pixels[None]})
    (texts,) = onnxruntime.InferenceSession(out / "text.onnx").run(None, {"tokens": np.array(ids)})
    found = probabilities(torch.from_numpy(pictures @ texts.T), out / "preprocess.json")
    torch.testing.assert_close(found, Loaded(made).probabilities([pixels], TEXTS), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("family", "bias"), [("resnet", {}), ("vit", {}), ("vit", {"init_logit_bias": -10})])
def test_probabilities_follow_from_transformers(
    family: str, bias: dict[str, int], tiny_clip: str, tmp_path: Path
) -> None:
    made = student(tiny_clip, tmp_path / "student", **FAMILIES[family], **bias).eval()
    pixels, out = image(1, made.image_size), tmp_path / "out"
    export_student("hf", Source(made, [pixels], TEXTS), out)
    whole = family == "vit"
    tokenizer = AutoTokenizer.from_pretrained(out if whole else out / "text")
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    inputs = made.normalize(torch.from_numpy(pixels)[None])
    with torch.no_grad():
        if whole:
            outputs = AutoModel.from_pretrained(out)(pixel_values=inputs, **tokens)
            pictures, texts = outputs.image_embeds, outputs.text_embeds
        else:
            pictures = AutoModelForImageClassification.from_pretrained(out / "image")(inputs).logits
            texts = CLIPTextModelWithProjection.from_pretrained(out / "text")(**tokens).text_embeds
    if whole and not bias:
        assert "`outputs.logits_per_image.softmax(-1)`" in (out / "README.md").read_text()
        found = outputs.logits_per_image.softmax(-1)
    else:
        cosines = torch.cosine_similarity(pictures[:, None], texts[None], dim=-1)
        found = probabilities(cosines, out / "logits.json")
    expected = Loaded(made).probabilities([Image.fromarray(pixels)], TEXTS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
