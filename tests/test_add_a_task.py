"""docs/add-a-task.md from end to end: a task of one's own, its expert, its labels, a student, its measures."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import clipzoo
from clipzoo import plugins
from clipzoo.cli import app
from clipzoo.readers.webdataset import write_shard
from installing import commands, installed, written
from making import samples

PAGE = "add-a-task.md"


@pytest.fixture
def place(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's package, installed where its commands are run; shards, and pictures whose heights are known."""
    monkeypatch.chdir(tmp_path)
    Path("shards").symlink_to(dataset)
    rng = np.random.default_rng(0)
    for number, split in enumerate(("probe", "validation", "test")):
        write_shard(tmp_path / "bench" / split / "images" / "0.tar", samples(12, 100 * number, (24, 32)))
        (tmp_path / "heights" / split).mkdir(parents=True)
        for key, _ in samples(12, 100 * number):
            heights = rng.normal(size=(24, 32)).cumsum(0)
            heights[:3] = np.nan
            np.save(tmp_path / "heights" / split / f"{key}.npy", heights)
    with installed(tmp_path, written(PAGE)) as folder:
        yield folder
    assert "elevation" not in plugins.names("tasks")


@pytest.mark.slow
def test_the_page_goes_all_the_way(place: Path) -> None:
    runpy.run_path("elevation_truth.py")
    for arguments in commands(PAGE):
        short = ["--set", "training.steps=2", "--device", "cpu"] if arguments[0] in ("train", "run") else []
        result = CliRunner().invoke(app, [*arguments, *short])
        assert result.exit_code == 0, result.output
    results = json.loads((place / "runs" / "elevation" / "results.json").read_text())
    for rows, names in (("arms", ("clip", "clip-ft", "clipzoo")), ("baselines", ("expert", "position_prior"))):
        for name in names:
            cell = results[rows][name]["elevation/error"]
            assert (cell["direction"], cell["unit"]) == ("lower", "m")
            assert cell["mean"] > 0
    assert results["protocol"]["averaging"] == "elevation: over pixels of the whole set"
    page = (place / "runs" / "elevation" / "page.html").read_text()
    assert "All numbers: elevation" in page
    assert page.count('alt="elevation of ') > 3
    told = CliRunner().invoke(app, ["tasks", "elevation"]).output
    assert "error in m, lower is better" in told
    (label,) = clipzoo.load("runs/elevation/arms/clipzoo/0/student").predict(
        [np.zeros((20, 30, 3), np.uint8)], "elevation"
    )
    assert type(label).__name__ == "Elevation"
    assert label.values.shape == (20, 30)
