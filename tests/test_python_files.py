"""Experts of Python files (``python:PATH/file.py:Class``), and recipes that overwrite."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clipzoo import experts, recipe
from clipzoo.cli import app
from clipzoo.errors import ExpertError, RecipeError
from clipzoo.experts.base import sha256
from clipzoo.runs.before.preflight import check_places

CODE = """
import helper_of_the_file
from clipzoo.experts import Expert, ExpertCard
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
import numpy as np


class Mine(Expert):
    card = ExpertCard("", "depth", Convention(kind="metric", along="z"), license="mine")

    def load(self, device="cpu"):
        pass

    def predict(self, images):
        return [Depth(np.full(i.shape[:2], helper_of_the_file.DEPTH, np.float32), np.ones(i.shape[:2], bool), "metric",
                      "z") for i in images]


class Other:
    pass
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "some code").mkdir()
    (tmp_path / "some code" / "helper_of_the_file.py").write_text("DEPTH = 2.5")
    (tmp_path / "some code" / "my-expert.py").write_text(CODE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield Path("some code/my-expert.py")
    for name in [name for name in sys.modules if name.startswith(("clipzoo_expert_", "helper_of_the_file"))]:
        del sys.modules[name]


def test_a_file_is_an_expert_with_a_revision_and_a_canonical_uri(file: Path) -> None:
    made = experts.create(f"python:./{file}:Mine")
    assert made.card.uri == f"python:{file}:Mine"
    assert made.card.column == "depth/python-some-code-my-expert.py-Mine"
    assert made.card.revision.startswith("source ")
    assert type(made) is type(experts.create(f"python:{file.resolve()}:Mine"))
    made.load()
    (label,) = made.predict([np.zeros((4, 4, 3), np.uint8)])
    assert label.values[0, 0] == 2.5


def test_an_edited_file_runs_its_new_code_in_the_same_process(file: Path) -> None:
    values, revisions = [], []
    for number in (2, 3):  # of one length: Python's cache tells versions apart by time and length
        file.write_text(CODE.replace("helper_of_the_file.DEPTH", f"{number}.125"))
        made = experts.create(f"python:{file}:Mine")
        revisions.append(made.card.revision)
        assert made.card.revision == f"source {sha256(file)[:16]}"
        values.append(made.predict([np.zeros((4, 4, 3), np.uint8)])[0].values[0, 0])
    assert values == [2.125, 3.125]
    assert revisions[0] != revisions[1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("some code/none.py:Mine", "the file some code/none.py does not exist in "),
        ("some code/my-expert.py:Absent", "my-expert.py defines no Absent"),
        ("some code/my-expert.py:Other", "my-expert.py:Other is .*make it a subclass"),
        ("some code/my-expert.py", "names no class: .*or python:<path>.py:<Class>"),
        ("bad.py:Mine", "bad.py raises ZeroDivisionError"),
    ],
)
def test_mistakes_are_told_with_the_file(file: Path, name: str, says: str) -> None:
    Path("bad.py").write_text("1 / 0")
    with pytest.raises(ExpertError, match=says):
        experts.create(f"python:{name}")


def test_a_recipe_that_names_a_file_needs_trust_and_the_folder(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "name": "x", "data": "demo:captioned", "student": {"model": "demo:clip"}, "training": {"steps": 1},
        "columns": [{"expert": f"python:{file}:Mine"}],
    }  # fmt: skip
    made = recipe.parse(values)
    assert made.code == (f"python:{file}:Mine",)
    Path("r.yaml").write_text(made.to_yaml())
    with pytest.raises(RecipeError, match="names Python code"):
        recipe.load("r.yaml")
    home = Path.cwd()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(RecipeError, match=r"columns\.0\.expert: .*my-expert\.py does not exist"):
        check_places(made, home / "r.yaml")


def test_force_overwrites_a_recipe(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("mine")
    run = ["new", "--yes", "--data", str(dataset), "--out", "r.yaml", "--expert", "demo:depth"]
    refused = CliRunner().invoke(app, run)
    assert "r.yaml exists; give another --out, or --force to overwrite it" in str(refused.exception)
    assert Path("r.yaml").read_text() == "mine"
    done = CliRunner().invoke(app, [*run, "--force"], catch_exceptions=False)
    assert done.exit_code == 0
    assert recipe.load("r.yaml").data == str(dataset)
    Path("folder").mkdir()
    assert "folder is a folder" in str(CliRunner().invoke(app, ["new", "--out", "folder", "--force"]).exception)


def test_the_first_question_has_no_default_for_an_existing_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = CliRunner().invoke(app, ["new", "--out", "x.yaml", "--store", "labels"], input="nowhere\n").output
    assert "demo:captioned" not in asked
    assert "demo:captioned" in CliRunner().invoke(app, ["new", "--out", "x.yaml"], input="nowhere\n").output
