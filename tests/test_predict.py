"""``clipzoo predict`` and ``clipzoo.show``: overlays of all heads, probabilities, start beside trained."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import clipzoo
from clipzoo import recipe
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, ImageError, RecipeError
from clipzoo.models import HeadSpec, Student
from clipzoo.progress import Silent
from clipzoo.runs import showing
from clipzoo.tasks import Convention
from clipzoo.tasks.segmentation import Segmentation

SPECS = {
    "segmentation/x": HeadSpec("segmentation", Convention(("floor", "red <b>chair</b>")), "linear"),
    "depth/x": HeadSpec("depth", Convention(kind="metric", along="z"), "linear"),
    "normals/x": HeadSpec("normals", Convention(), "linear"),
    "edges/x": HeadSpec("edges", Convention(), "linear"),
    "detection/x": HeadSpec("detection", Convention(("lamp", "toy")), "fcos"),
}


@pytest.fixture(scope="module")
def student(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    Student.create(tiny_clip, specs=SPECS).save(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("wide.png", (30, 70)), ("tall.jpg", (90, 40))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def run(tiny_clip: str, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose arm clipzoo has the student of `student`, with seed 3."""
    root = tmp_path_factory.mktemp("run")
    values = {"name": "x", "data": str(root), "columns": [], "arms": ["clip", "clip-ft"], "seeds": [3]}
    made = recipe.parse({**values, "student": {"model": tiny_clip}, "training": {"steps": 1}})
    (root / "recipe.yaml").write_text(made.to_yaml())
    shutil.copytree(student, root / "arms" / "clipzoo" / "3" / "student")
    return root


def test_every_head_is_shown_with_its_legend(student: Path, pictures: Path) -> None:
    shown = clipzoo.show(student, pictures)
    assert [Path(one.name).name for one in shown.pictures] == ["tall.jpg", "wide.png"]
    assert [(Path(name).name, "cannot decode" in reason) for name, reason in shown.failures] == [("broken.png", True)]
    overlays = {one.column: one for one in shown.pictures[1].overlays}
    assert sorted(overlays) == sorted(SPECS)
    for one in overlays.values():
        assert one.image.shape == (206, 480, 3)
    texts = {column: " ".join(mark.text for mark in one.legend) for column, one in overlays.items()}
    assert "floor" in texts["segmentation/x"] or "chair" in texts["segmentation/x"]
    assert texts["depth/x"].count(" m") == 5
    assert texts["normals/x"] == "right up toward the viewer"
    assert texts["edges/x"] == "edge no edge"
    assert "lamp 0." in texts["detection/x"] or "toy 0." in texts["detection/x"]
    page = shown.html().decode()
    assert 'src="data:image/jpeg' in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<b>chair" not in page


def test_probabilities_are_a_softmax_at_the_models_scale(student: Path, pictures: Path) -> None:
    loaded = clipzoo.load(student)
    picture = Image.open(pictures / "wide.png")
    prompts = ["a red square", "a photo of green"]
    cosines = (loaded.embed_images([picture]) @ loaded.embed_texts(prompts).T)[0]
    wanted = (loaded.model.logit_scale.exp() * cosines).softmax(-1)
    shown = clipzoo.show(loaded, picture, "a red square, a photo of green,")
    values = [value for (value,) in shown.pictures[0].probabilities.values()]
    np.testing.assert_allclose(values, wanted.numpy(), rtol=1e-5)
    assert list(shown.pictures[0].probabilities) == prompts
    loaded.model.logit_bias = torch.tensor(-2.0)
    try:
        shown = clipzoo.show(loaded, picture, prompts)
    finally:
        del loaded.model.logit_bias
    values = [value for (value,) in shown.pictures[0].probabilities.values()]
    np.testing.assert_allclose(values, (loaded.model.logit_scale.exp() * cosines - 2).sigmoid().numpy(), rtol=1e-5)
    assert shown.independent


def test_predictions_of_all_heads_equal_those_of_each(student: Path, pictures: Path) -> None:
    loaded, picture = clipzoo.load(student), Image.open(pictures / "tall.jpg")
    (together,) = loaded.predict_all([picture])["depth/x"]
    (alone,) = loaded.predict([picture], "depth")
    np.testing.assert_array_equal(together.values, alone.values)


def test_a_run_shows_its_start_beside_the_trained_student(run: Path, pictures: Path) -> None:
    shown = clipzoo.show(run, pictures / "wide.png", ["red", "green"])
    assert shown.models == ["start", "clipzoo"]
    assert [len(values) for values in shown.pictures[0].probabilities.values()] == [2, 2]
    assert shown.notes == ["start: no heads, only probabilities and heat maps of prompts"]
    assert {one.model for one in shown.pictures[0].heads} == {"clipzoo"}
    heat = [(one.title, one.model) for one in shown.pictures[0].overlays if one.column == "cosine"]
    assert heat == [("red", "start"), ("red", "clipzoo"), ("green", "start"), ("green", "clipzoo")]


@pytest.mark.parametrize("start", [{"model": "ViT-B-16", "pretrained": "moved.pt"}, {"model": "local-dir:moved"}])
def test_a_run_is_shown_without_a_start_that_cannot_be_loaded(
    start: dict[str, str], run: Path, pictures: Path, tmp_path: Path
) -> None:
    """Its weights may have been moved, or be on a hub that cannot be reached."""
    moved = shutil.copytree(run, tmp_path / "run")
    made = recipe.load(moved / "recipe.yaml")
    student = recipe.StudentRecipe.model_validate(start)
    (moved / "recipe.yaml").write_text(made.model_copy(update={"student": student}).to_yaml())
    shown = clipzoo.show(moved, pictures / "wide.png")
    assert shown.models == ["clipzoo"]
    (note,) = shown.notes
    assert note.startswith("the start of the run is not shown, because it cannot be loaded: ")
    assert "moved" in note
    with pytest.raises(CheckpointError, match=r"gone does not exist"):
        clipzoo.show(moved, pictures / "wide.png", start=tmp_path / "gone")


def test_a_heat_map_is_the_cosine_of_patches_and_prompt(student: Path, pictures: Path) -> None:
    loaded, picture = clipzoo.load(student), Image.open(pictures / "wide.png")
    (heat,) = [one for one in clipzoo.show(loaded, picture, ["red"]).pictures[0].overlays if one.column == "cosine"]
    picture.thumbnail((480, 480), Image.Resampling.LANCZOS)
    cosines = loaded.segment(picture, ["red"], ["{c}"]).similarities
    assert [heat.legend[0].text, heat.legend[-1].text] == [f"{cosines.min():.2f}", f"{cosines.max():.2f}"]


def test_segmentation_by_prompts_is_the_most_similar_prompt_of_each_pixel(student: Path, pictures: Path) -> None:
    loaded, picture = clipzoo.load(student), Image.open(pictures / "wide.png")
    prompts = ["red", "a <b>photo</b> of green"]
    shown = clipzoo.show(loaded, picture, [*prompts, "red"])
    (segments,) = [one for one in shown.pictures[0].prompted if one.title == "segmentation by prompts"]
    assert isinstance(segments.label, Segmentation)
    np.testing.assert_array_equal(segments.label.ids, loaded.segment(picture, prompts, ["{c}"]).ids)
    assert {mark.text.rpartition(" ")[0] for mark in segments.legend} <= set(prompts)
    assert list(shown.pictures[0].probabilities) == prompts
    assert "<b>photo" not in shown.html().decode()
    assert len(clipzoo.show(loaded, picture, ["red"]).pictures[0].prompted) == 1


def test_two_students_stand_side_by_side(student: Path, pictures: Path) -> None:
    shown = clipzoo.show(student, pictures / "wide.png", start=student)
    first, second = shown.pictures[0].overlays[:2]
    assert (first.column, first.model, second.column, second.model) == ("depth/x", "start", "depth/x", "trained")


def test_unknown_and_untrained_arms_are_refused(run: Path, student: Path, pictures: Path) -> None:
    with pytest.raises(RecipeError, match="no arm 'clipzo' to show; did you mean clipzoo"):
        clipzoo.show(run, pictures, arm="clipzo")
    with pytest.raises(CheckpointError, match="the arm 'clip-ft' with seed 3; it has clipzoo"):
        clipzoo.show(run, pictures, arm="clip-ft")
    with pytest.raises(CheckpointError, match=r"any arm with seed 0; it has clipzoo \(seed 3\)"):
        clipzoo.show(run, pictures, seed=0)
    with pytest.raises(CheckpointError, match="not a run folder"):
        clipzoo.show(student, pictures, arm="clipzoo")


def test_patterns_and_counts_choose_the_pictures(student: Path, pictures: Path) -> None:
    found = clipzoo.show(student, [str(pictures / "*.jpg"), str(pictures / "no*.gif"), pictures / "gone.png"])
    assert [Path(one.name).name for one in found.pictures] == ["tall.jpg"]
    assert [Path(name).name for name, _ in found.failures] == ["no*.gif", "gone.png"]
    assert len(clipzoo.show(student, [np.zeros((9, 9, 3), np.uint8)] * 9, count=2).pictures) == 2
    with pytest.raises(ImageError, match=r"no picture can be read: .*broken.png: cannot"):
        clipzoo.show(student, pictures / "broken.png")
    with pytest.raises(ImageError, match="contain no pictures"):
        clipzoo.show(student, [])


def test_the_command_writes_a_page_or_a_sheet(student: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("out/look.html", "look.PNG"):
        out = tmp_path / name
        given = [str(student), str(pictures), "--prompts", "red,green", "--out", str(out), "--device", "cpu"]
        result = CliRunner().invoke(app, ["predict", *given], catch_exceptions=False)
        assert "2 pictures, 1 failed" in result.output
        assert "broken.png: cannot decode" in result.output
        assert out.read_bytes().startswith(b"<!doctype" if out.suffix == ".html" else b"\x89PNG")
    with Image.open(tmp_path / "look.PNG") as sheet:
        assert sheet.size[0] > 6 * 320
    with pytest.raises(ImageError, match=r"--out .*look.pdf does not end in .html"):
        CliRunner().invoke(app, ["predict", "gone", "x", "--out", "look.pdf"], catch_exceptions=False)


def test_a_notebook_shows_the_page_in_a_frame(student: Path, pictures: Path) -> None:
    text = clipzoo.show(student, pictures / "wide.png")._repr_html_()
    assert text.startswith('<iframe sandbox srcdoc="&lt;!doctype html&gt;')
    assert text.count("<") == 2


def test_a_missing_file_is_named_whatever_the_count(student: Path, pictures: Path) -> None:
    given = [pictures / "wide.png", pictures / "tall.jpg", pictures / "no.jpg"]
    shown = clipzoo.show(student, given, count=1)
    assert len(shown.pictures) == 1
    assert [Path(name).name for name, _ in shown.failures] == ["no.jpg"]


def test_prompts_without_text_are_refused(student: Path, pictures: Path) -> None:
    with pytest.raises(RecipeError, match=r"the prompts ' , ' have no text"):
        clipzoo.show(student, pictures / "wide.png", " , ")


def test_choosing_of_many_pictures_takes_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "predict", lambda name, pixels, models, texts: name)
    given, began = [np.zeros((2, 2, 3), np.uint8)] * 60_000, time.process_time()
    shown, failures = showing._predicted(given, {}, [], 2, Silent())
    assert (len(shown), failures) == (2, [])
    assert time.process_time() - began < 5  # a search in a list takes more than 20 seconds
