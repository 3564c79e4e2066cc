"""A column of features from labels to pages: gallery, run, report, predictions and ONNX graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo.cli import app
from test_features import saved
from test_pipeline import world

__all__ = ["world"]


def clipzoo(*words: object) -> str:
    """Run a command. Returns its output."""
    ended = CliRunner().invoke(app, [*map(str, words)])
    assert ended.exit_code == 0, ended.output + repr(ended.exception)
    return ended.output


@pytest.fixture(scope="module")
def run(world: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose student learns features of a DINOv2 and segmentation."""
    root = tmp_path_factory.mktemp("features")
    values = world.model_dump(mode="json")
    dino = {"expert": saved("dinov2", root / "dino"), "head": "linear", "head_options": {"upscale": 1}, "stride": 8}
    values |= {"columns": [*values["columns"], dino], "seeds": [0]}
    values["training"] |= {"steps": 4, "learning_rates": [1e-3], "tracking": []}
    (root / "recipe.yaml").write_text(recipe.parse(values).to_yaml())
    clipzoo("run", root / "recipe.yaml", "--out", root / "run", "--device", "cpu", "--trust")
    return root / "run"


def test_a_run_has_a_report(run: Path, world: recipe.Recipe) -> None:
    page = (run / "page.html").read_text()
    assert "features/" in page
    results = json.loads((run / "results.json").read_text())
    assert any(name.startswith("features/") for name in results["cost"])


def test_the_gallery_shows_features(run: Path, world: recipe.Recipe, tmp_path: Path) -> None:
    shown = clipzoo("inspect", run / "labels", "--data", world.location, "--out", tmp_path / "page.html", "--count", 2)
    assert "features/" in shown
    page = (tmp_path / "page.html").read_text()
    assert page.count('src="data:image/jpeg') == 6
    assert page.count("100% known") == 4


def test_predictions_show_features(run: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    clipzoo("predict", run / "arms" / "clipzoo" / "0" / "student", tmp_path / "a.png", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "features/" in page
    assert "principal component 3" in page


def test_the_graph_of_features_gives_unit_vectors(run: Path, tmp_path: Path) -> None:
    clipzoo("export", run, "--to", "onnx", "--heads", "--out", tmp_path / "onnx", "--trust")
    described = json.loads((tmp_path / "onnx" / "preprocess.json").read_text())
    (column,) = [name for name in described["heads"] if name.startswith("features/")]
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / described["heads"][column]["file"])
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (vectors,) = session.run(None, {"images": pictures})
    assert vectors.shape == (3, 32, 32, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    parity = json.loads((tmp_path / "onnx" / "parity.json").read_text())
    assert parity["heads"][column]["features"] <= 1e-4
