"""The scripts of examples/export use exported students without clipzoo, and their output is the student's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clipzoo
from clipzoo import model_schemes
from clipzoo.export import Source, export_student
from clipzoo.export.base import transform_of
from clipzoo.models import HeadSpec, Student
from clipzoo.tasks import Convention
from clipzoo.types import View
from making import image
from test_export_targets import VIT, narrowed, student

EXAMPLES = Path(__file__).parent.parent / "examples" / "export"
TEXTS = ["red square", "a photo of a green square"]
SQUASH = {"resize_mode": "squash"}


def printed(name: str, *words: object) -> list[str]:
    """Run a script where clipzoo cannot be imported. Returns the lines that it prints."""
    blocked = "import sys; sys.modules['clipzoo'] = None; import runpy; sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-W", "ignore", "-c", f"{blocked}runpy.run_path(sys.argv[0], run_name='__main__')"]
    given = [str(EXAMPLES / name), *map(str, words)]
    ended = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file of a picture."""
    Image.fromarray(image(1, (80, 60))).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def export(made: Student, to: str, picture: Path, **options: Any) -> Path:
    """Export a student. Returns the folder."""
    folder = picture.with_name(to)
    export_student(to, Source(made, [np.asarray(Image.open(picture))], TEXTS, **options), folder)
    return folder


def scores(made: Student, picture: Path) -> list[float]:
    """Return the similarities of the student itself."""
    pixels = View.whole(made.image_size).image(np.asarray(Image.open(picture)))
    with torch.no_grad():
        return (made.encode_image(torch.tensor(pixels)[None]) @ made.encode_text(TEXTS).T)[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "siglip-small"])
def test_transformers(family: str, tiny_clip: str, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"vision": VIT, "preprocess": SQUASH} if family == "vit" else narrowed(family, monkeypatch)
    made = student(tiny_clip, picture.with_name("student"), **options)
    lines = printed("with_transformers.py", export(made, "hf", picture), picture, *TEXTS)
    assert [float(line.split()[0]) for line in lines] == pytest.approx(scores(made, picture), abs=1e-5)


@pytest.mark.slow
def test_timm(tiny_clip: str, picture: Path) -> None:
    made = student(tiny_clip, picture.with_name("student"), VIT, preprocess=SQUASH)
    (line,) = printed("with_timm.py", export(made, "timm", picture), picture)
    own = clipzoo.models.loaded.Loaded(made).embed_images([Image.open(picture)])[0]
    assert [float(value) for value in line.split()] == pytest.approx(own.tolist(), abs=1e-5)


def test_onnxruntime_with_the_demos_model(picture: Path) -> None:
    specs = {"depth/a": HeadSpec("depth", Convention(kind="metric", along="z"), "linear")}
    made = Student.create(model_schemes.resolve("demo:clip"), specs=specs)
    folder = export(made, "onnx", picture, heads=True)
    lines = printed("with_onnxruntime.py", folder, picture, *TEXTS)
    assert [float(line.split()[0]) for line in lines] == pytest.approx(scores(made, picture), abs=1e-5)
    (line,) = printed("depth_with_onnxruntime.py", folder / "head-depth-a.onnx", picture)
    size = made.image_size
    pixels = View.whole(size).image(np.asarray(Image.open(picture)))
    (label,) = clipzoo.models.loaded.Loaded(made).predict([pixels], "depth")
    assert float(line.removesuffix(" m")) == pytest.approx(label.values[size[0] // 2, size[1] // 2], rel=1e-3)


def test_scripts_are_short_and_do_not_import_clipzoo() -> None:
    paths = sorted(EXAMPLES.glob("*.py"))
    assert len(paths) == 4
    for path in paths:
        text = path.read_text()
        code = [line for line in text.split('"""')[2].splitlines() if line.strip()]
        assert len(code) <= 15, path.name
        assert not re.search(r"^\s*(import|from) clipzoo", text, re.MULTILINE)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_the_readme_of_onnx_resizes_as_the_student_does(
    mode: str, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess = {"resize_mode": mode, "interpolation": "bilinear", "fill_color": 90}
    made = student(tiny_clip, tmp_path / "student", VIT, preprocess=preprocess)
    rows, columns = np.mgrid[:480, :640]
    pixels = np.stack([rows / 2, columns / 3, (rows + columns) / 5], 2).astype(np.uint8)
    folder = export_student("onnx", Source(made, [pixels], TEXTS), tmp_path / "out") and tmp_path / "out"
    Image.fromarray(pixels).save(folder / "picture.jpg", quality=95)
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    variables: dict[str, Any] = {}
    exec(code, variables)
    assert capsys.readouterr().out
    with torch.no_grad():
        picture = transform_of(made)(Image.open("picture.jpg"))[None]
        expected = made.clip.encode_image(picture, normalize=True)
    assert variables["pictures"][0] == pytest.approx(expected[0].numpy(), abs=0.01)
    resized = np.asarray(variables["picture"]).astype(float)
    shown = (picture[0] * made.std[0] + made.mean[0]).permute(1, 2, 0).numpy() * 255
    assert np.abs(resized - shown).max() < 6
