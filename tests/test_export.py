"""Home again: what OpenCLIP loads is the student, and ``clipzoo.load`` predicts at any image's size."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import clipzoo
from clipzoo import model_schemes, recipe, tasks
from clipzoo import runs as workspace
from clipzoo.benchmarks import view_of
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, ImageError, PluginError, RecipeError
from clipzoo.export import Source, export_student
from clipzoo.export.base import transform_of
from clipzoo.models import HeadSpec, Student
from clipzoo.models._folder import WEIGHTS
from clipzoo.runs import verbs as pipeline
from clipzoo.tasks import Convention
from clipzoo.types import ImageArray, View, to_rgb
from making import encoded, image

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the demo's tiny CLIP on rooms: two steps, two experts."""
    out = tmp_path_factory.mktemp("run")
    experts = [{"expert": "demo:depth", "head": "linear"}, {"expert": "demo:normals", "head": "dpt", "loss": "angmf"}]
    experts[1]["head_options"] = {"width": 16}  # type: ignore[assignment]
    made = recipe.parse(
        {
            "name": "tiny rooms",
            "data": "demo:captioned",
            "max_samples": 40,
            "columns": experts,
            "student": {"model": "demo:clip", "layers": [-3, -2]},
            "training": {"steps": 2, "batch_size": 16},
        }
    )
    pipeline.train(workspace.Run(made, out), "clipzoo", 0)
    return out


@pytest.fixture(scope="module")
def exported(finished: Path) -> Path:
    result = CliRunner().invoke(app, ["export", str(finished), "--heads"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "differ from those of the trained student by at most" in result.output.replace("\n", " ")
    return finished / "export" / "open_clip" / "clipzoo-0"


# To OpenCLIP -------------------------------------------------------------------------------------------------


def test_open_clip_loads_the_student(finished: Path, exported: Path) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    student = Student.load(finished / "arms" / "clipzoo" / "0" / "student").eval()
    picture = Image.fromarray(image(0, (96, 96)))
    texts = ["a red chair", "two lamps"]
    with torch.no_grad():
        mine = student.encode_image(torch.from_numpy(np.array(picture))[None])
        theirs = model.eval().encode_image(preprocess(picture)[None], normalize=True)
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
        tokens = open_clip.get_tokenizer(f"local-dir:{exported}")(texts)
        torch.testing.assert_close(
            student.encode_text(texts), model.encode_text(tokens, normalize=True), atol=1e-5, rtol=0
        )
    start = Student.create(model_schemes.resolve("demo:clip")).eval()
    assert (start.encode_text(texts) - student.encode_text(texts)).abs().max() > 1e-4, "training changed nothing"


def test_the_parity_is_kept_and_the_card_tells_arms_experts_and_licenses(exported: Path) -> None:
    parity = json.loads((exported / "parity.json").read_text())
    assert max(parity["image_embeddings"], parity["text_embeddings"]) <= 1e-5
    assert parity["images"] == parity["captions"] == 32
    assert parity["preprocessing_levels"] < 1
    assert parity["preprocessing_cosine"] > 0.999
    card = (exported / "README.md").read_text()
    assert "tiny rooms: clipzoo, seed 0" in card
    assert "| depth/demo-depth | demo:depth | " in card
    assert f"{parity['text_embeddings']:.1e} (texts)" in card
    assert "{" not in card.replace("{ ", "")


def test_results_are_on_the_card(finished: Path, tmp_path: Path) -> None:
    cell = {"mean": 0.5, "ci": [0.4, 0.6], "direction": "higher", "unit": ""}
    arms = {"clip": {"depth/delta1": cell}, "clipzoo": {"depth/delta1": {**cell, "mean": 0.75}, "x/y": {**cell}}}
    run = workspace.Run(recipe.load(finished / "recipe.yaml"), finished)
    (finished / "results.json").write_text(json.dumps({"arms": arms}))
    try:
        pipeline.export(run, arm="clip", out=tmp_path / "out")
    finally:
        (finished / "results.json").unlink()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| depth/delta1 | 0.500 (0.400 to 0.600) ↑ | 0.750 (0.400 to 0.600) ↑ |" in card
    assert "| x/y | – | 0.500" in card
    assert "unchanged" in card
    assert "## Experts" not in card


def test_the_heads_are_left_out_unless_asked_for(finished: Path, exported: Path, tmp_path: Path) -> None:
    run = workspace.Run(recipe.load(finished / "recipe.yaml"), finished)
    bare, _ = pipeline.export(run, out=tmp_path / "bare")
    assert {p.name for p in exported.iterdir()} - {p.name for p in bare.iterdir()} == {
        "clipzoo_heads.json",
        "clipzoo_heads.safetensors",
    }
    assert clipzoo.load(exported).columns == ("depth/demo-depth", "normals/demo-normals")
    with pytest.raises(CheckpointError, match="the student has no heads: `clipzoo export RUN --heads` keeps them"):
        clipzoo.load(bare).predict([image(0)], "depth")


def test_the_demos_student_is_exported_to_onnx_and_refused_by_timm(finished: Path, tmp_path: Path) -> None:
    words = ["export", str(finished), "--to", "onnx", "--heads", "--out", str(tmp_path / "onnx")]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "loaded by onnxruntime" in result.output
    assert {path.name for path in (tmp_path / "onnx").glob("head-*")} == {
        "head-depth-demo-depth.onnx",
        "head-normals-demo-normals.onnx",
    }
    result = CliRunner().invoke(app, ["export", str(finished), "--to", "timm", "--out", str(tmp_path / "timm")])
    assert isinstance(result.exception, CheckpointError)
    assert "a ResNet of 1-1-2-1 blocks" in str(result.exception)
    assert not (tmp_path / "timm").exists()


def test_a_student_that_comes_back_another_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Student.save

    def damaged(student: Student, folder: Path, heads: bool = True) -> None:
        save(student, folder, heads)
        weights = load_file(folder / WEIGHTS)
        name = next(n for n in weights if n.startswith("visual") and weights[n].ndim > 1)
        save_file({**weights, name: weights[name] * 1.05}, folder / WEIGHTS)

    monkeypatch.setattr(Student, "save", damaged)
    run = workspace.Run(recipe.load(finished / "recipe.yaml"), finished)
    with pytest.raises(CheckpointError, match=r"is not the student: loaded by open_clip_torch"):
        pipeline.export(run, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_preprocessing_of_a_model_that_crops_is_compared_with_its_crop(tiny_clip: str, tmp_path: Path) -> None:
    student = Student.create(tiny_clip)
    assert student.preprocess_cfg["resize_mode"] == "shortest"
    pictures = [np.asarray(Image.fromarray(image(i, (6, 9))).resize((90, 60), 2)) for i in range(3)]
    found = export_student("open_clip", Source(student, pictures, ["red square"]), tmp_path / "out")
    assert found["preprocessing_levels"] < 3
    squashed = [View.whole((32, 32)).image(one) for one in pictures]
    centered = [view_of(one, (32, 32), "center").image(one) for one in pictures]
    assert np.abs(np.float32(squashed) - np.float32(centered)).mean() > 10


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (300, 7)])
def test_a_model_that_pads_sees_the_pixels_of_openclip(size: tuple[int, int], tiny_clip: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_clip.removeprefix("local-dir:"), tmp_path / "padded")
    config = json.loads((tmp_path / "padded" / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    (tmp_path / "padded" / "open_clip_config.json").write_text(json.dumps(config))
    student = Student.create(f"local-dir:{tmp_path / 'padded'}").eval()
    assert student.crop == "padded"
    picture = np.asarray(Image.fromarray(image(0, (6, 9))).resize(size[::-1], 2))
    source = Source(student, [picture], ["red square"])
    theirs = transform_of(student)(Image.fromarray(picture))
    ours = student.normalize(torch.from_numpy(source.views[0])[None])[0]
    assert (ours - theirs).abs().max() < 0.01
    assert export_student("open_clip", source, tmp_path / "out")["preprocessing_cosine"] > 0.9999


def test_what_cannot_be_exported_is_told(finished: Path, tmp_path: Path) -> None:
    run = workspace.Run(recipe.load(finished / "recipe.yaml"), finished)
    with pytest.raises(CheckpointError, match=r"clipzoo train .* --arm clip-ft --seed 3"):
        pipeline.export(run, arm="clip-ft", seed=3, out=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(CheckpointError, match="not empty"):
        pipeline.export(run, out=tmp_path / "b")
    with pytest.raises(PluginError, match="open_clip"):
        pipeline.export(run, "openclip", out=tmp_path / "c")


# clipzoo.load ------------------------------------------------------------------------------------------------


def test_labels_have_the_size_of_their_images(exported: Path) -> None:
    student = clipzoo.load(exported)
    pictures: list[Any] = [image(0, (50, 131)), Image.fromarray(image(1, (200, 90))), image(2, (96, 96))]
    for name in ("depth", "normals/demo-normals"):
        labels = student.predict(pictures, name)
        assert [label.valid.shape for label in labels] == [(50, 131), (200, 90), (96, 96)]
        spec = student.student.specs[name if "/" in name else "depth/demo-depth"]
        for label in labels:
            tasks.get(spec.task).check(label, spec.convention)
    one = student.predict(pictures[1:2], "depth")[0]
    np.testing.assert_allclose(one.values, student.predict(pictures, "depth")[1].values, rtol=1e-4)


def test_a_prediction_lies_where_the_image_shows_it(tiny_clip: str) -> None:
    """A head that gives red as depth: its label is the picture's red, whatever the size."""

    class Red(torch.nn.Module):
        def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
            return self.seen

    student = Student.create(tiny_clip, specs={"depth/x": HeadSpec("depth", Convention(kind="affine-depth"), "linear")})
    red = Red()
    student.heads["depth/x"] = red
    normalize = student.normalize

    def spy(images: torch.Tensor) -> torch.Tensor:
        red.seen = images[..., :1].permute(0, 3, 1, 2).float()
        return normalize(images)

    student.normalize = spy  # type: ignore[method-assign]
    picture = np.asarray(Image.fromarray(image(0, (3, 4))).resize((80, 48), Image.Resampling.BILINEAR))
    (label,) = clipzoo.models.loaded.Loaded(student).predict([picture], "depth")
    assert np.abs(label.values - picture[..., 0]).mean() < 4
    assert np.abs(label.values[:, ::-1] - picture[..., 0]).mean() > 20


def test_embeddings_are_open_clips(exported: Path) -> None:
    student = clipzoo.load(exported)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    picture = image(3, (70, 110))
    turned = Image.open(io.BytesIO(encoded(np.ascontiguousarray(np.rot90(picture)), "JPEG", quality=95)))
    turned.getexif()[0x0112] = 6  # the camera was held upright
    with torch.no_grad():
        theirs = model.eval().encode_image(preprocess(Image.fromarray(picture))[None], normalize=True)
    mine = student.embed_images([picture, Image.fromarray(picture), Image.fromarray(picture).convert("RGBA")])
    torch.testing.assert_close(mine, theirs.expand(3, -1))
    assert turned.size == (70, 110)
    assert student.predict([turned], "depth")[0].values.shape == (70, 110)
    assert [label.values.shape for label in student.predict(picture, "depth")] == [picture.shape[:2]]
    assert to_rgb(turned).shape == (70, 110, 3)
    assert student.embed_texts(["a", "b"]).norm(dim=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (image(0).astype(np.float32), "float32"),
        (image(0)[..., 0], r"\(12, 16\)"),
        ("a.jpg", "str is not an image"),
    ],
)
def test_what_is_no_picture_is_told(picture: ImageArray, message: str, exported: Path) -> None:
    with pytest.raises(ImageError, match=message):
        clipzoo.load(exported).predict([picture], "depth")


def test_heads_that_are_not_there_and_folders_that_are_no_students_are_told(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no head is named 'edges'; the student has depth/demo-depth"):
        clipzoo.load(exported).predict([image(0)], "edges")
    with pytest.raises(ImageError, match="no images"):
        clipzoo.load(exported).predict([], "depth")
    with pytest.raises(CheckpointError, match=r"holds no open_clip_config\.json"):
        clipzoo.load(tmp_path)


def test_the_documented_example_runs(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # it saves a picture
    block = re.findall(r"```python\n(.*?)```", (DOCS / "api.md").read_text(), re.DOTALL)[1]
    Image.fromarray(image(0, (60, 100))).save(tmp_path / "a.png")
    exec(block, {"folder": exported, "path": tmp_path / "a.png"})
    assert "True metric" in capsys.readouterr().out


def test_an_arm_that_does_not_exist_is_told_with_those_that_do(finished: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(finished), "--arm", "clipzo"])
    assert isinstance(result.exception, RecipeError)
    assert "there is no arm 'clipzo' to export; did you mean clipzoo" in str(result.exception)
