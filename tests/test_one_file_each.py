"""An importer, a scheme of experts, an export format of labels and one of students are one module each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import clipzoo
from clipzoo.cli import app
from clipzoo.errors import ExpertError
from clipzoo.recipe import Recipe
from clipzoo.runs import Run, export
from clipzoo.store import Store
from installing import installed

PROJECT = """
[project]
name = "one-file-each"
version = "0"
[project.entry-points."clipzoo.importers"]
flat = "flat_importer"
[project.entry-points."clipzoo.experts"]
gray = "gray_zoo"
[project.entry-points."clipzoo.labeling.exports"]
names = "names_format"
[project.entry-points."clipzoo.export"]
note = "note_format"
[tool.setuptools]
py-modules = ["flat_importer", "gray_zoo", "names_format", "note_format"]
"""
IMPORTER = '''
"""Planes at one depth: ``flat:NAME?meters=2``."""
import numpy as np
from pydantic import Field
from clipzoo.experts.options import split
from clipzoo.importers import Importer
from clipzoo.importers.base import ImportOptions, card, parse
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth

class FlatOptions(ImportOptions):
    meters: float = Field(gt=0, description="the depth of the plane")

def create(name):
    given = split(name.partition("?")[2])
    return Flat(f"flat:{name}", given, parse(FlatOptions, given, "flat", "labels of depth"))

class Flat(Importer):
    def __init__(self, uri, given, options):
        super().__init__()
        self.meters, self.card = options.meters, card(uri, "depth", given, options, Convention((), "metric", "z"))

    def place(self, key):
        return key

    def look_up(self, key, size):
        return Depth(np.full(size, self.meters, np.float32), np.ones(size, bool), "metric", "z")
'''
ZOO = '''
"""Edges of gray pictures: ``gray:RADIUS``."""
import numpy as np
from clipzoo.experts import Expert, ExpertCard
from clipzoo.tasks import Convention
from clipzoo.tasks.edges import Edges

def create(name):
    return Gray(name)

class Gray(Expert):
    def __init__(self, name):
        self.card = ExpertCard(f"gray:{name}", "edges", Convention(), revision="1")

    def load(self, device="cpu"):
        pass

    def predict(self, images):
        return [Edges(np.zeros(one.shape[:2], np.float32), np.ones(one.shape[:2], bool)) for one in images]
'''
FORMAT = '''
"""Names of labeled images, one per line."""
TASKS = ("depth",)

def write(labels, column, out):
    out.write_text("".join(f"{label.name} {label.label.values.max():g}\\n" for label in labels))
'''
STUDENT = '''
"""A note in place of a model."""
LIBRARY, LIMIT = "notes", 1e-5

def check(source):
    pass

def write(source, folder):
    (folder / "note.txt").write_text(f"{len(source.images)} pictures")
    return "Read note.txt."

def compare(source, folder):
    return {
        "library": "notes 1", "image_embeddings": 0.0, "text_embeddings": 0.0, "preprocessing_levels": 0.0,
        "preprocessing_cosine": 1.0, "transform_levels": 0.0, "transform_embeddings": 0.0, "images": 1, "captions": 1,
        "other_tokens": 0,
    }
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    files = {"pyproject.toml": PROJECT, "flat_importer.py": IMPORTER, "gray_zoo.py": ZOO}
    files |= {"names_format.py": FORMAT, "note_format.py": STUDENT}
    with installed(tmp_path_factory.mktemp("package"), files) as folder:
        yield folder


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_an_importer_is_one_module(package: Path, dataset: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "labels")
    answers = ["--format", "flat", "--set", "meters=2", "--as", "truth"]
    run("labels", "import", str(dataset), "wall", *answers, "--out", out)
    column = Store(out).column("depth", "truth")
    assert column.card.preprocessing == {"meters": "2"}
    with pytest.raises(ExpertError, match=r"flat:PATH\?meters=…(.|\n)*--set meters=…(.|\n)*meters is missing: the"):
        clipzoo.import_labels(str(dataset), "wall", "flat", {}, out)
    with pytest.raises(ExpertError, match="did you mean flat"):
        clipzoo.import_labels(str(dataset), "wall", "flut", {}, out)


def test_a_scheme_of_experts_is_one_module(package: Path, dataset: Path, tmp_path: Path) -> None:
    run("label", str(dataset), "--expert", "gray:3", "--out", str(tmp_path), "--shards", "00000", "--no-check")
    assert Store(tmp_path).column("edges", "gray-3").committed() == {"00000"}


def test_an_export_format_of_labels_is_one_module(package: Path, dataset: Path, tmp_path: Path) -> None:
    clipzoo.import_labels(str(dataset), "wall", "flat", {"meters": "3"}, tmp_path / "labels", progress=False)
    file = str(tmp_path / "names.txt")
    run("labels", "export", str(tmp_path / "labels"), "--data", str(dataset), "--to", "names", "--out", file)
    lines = Path(file).read_text().splitlines()
    assert (lines[0], len(lines)) == ("0000.png 3", 48)


def test_an_export_format_of_students_is_one_module(package: Path, dataset: Path, tmp_path: Path) -> None:
    recipe = {
        "name": "mine", "data": str(dataset), "columns": [{"expert": "gray:3"}], "arms": ["clipzoo"],
        "student": {"model": "demo:clip", "layers": [3, 4]}, "training": {"steps": 1, "batch_size": 2},
    }  # fmt: skip
    folder, sentence = export(Run(Recipe.model_validate(recipe), tmp_path / "run"), "note", "clip")
    assert "notes 1" in sentence
    assert (folder / "note.txt").read_text().endswith("pictures")
