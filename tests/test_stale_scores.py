"""Scores know what they were measured on: a benchmark that was replaced in place is measured anew, and it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clipzoo
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.scores import kept_scores
from clipzoo.evaluation.zero_shot import METRIC
from clipzoo.progress import Silent
from clipzoo.runs import verbs as pipeline
from test_paths import SPLITS, recipe_of
from test_pipeline import write_benchmark


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)

    @property
    def anew(self) -> list[str]:
        return [text for text in self.said if "measured again" in text]


def measured(world: Path, model: str) -> tuple[str, Listener]:
    """The results of a run, and what it said."""
    heard = Listener()
    run = clipzoo.Run(recipe_of(world / "data", model, world / "bench"), world / "run", heard)
    return pipeline.evaluate(run).read_text(), heard


@pytest.fixture
def world(tmp_path: Path, dataset: Path) -> Path:
    shutil.copytree(dataset, tmp_path / "data")
    for seed, split in enumerate(SPLITS):
        write_benchmark(tmp_path / "bench" / split, 24, seed)
    return tmp_path


@pytest.mark.slow
def test_a_benchmark_that_was_replaced_in_place_is_measured_anew(world: Path, tiny_clip: str) -> None:
    first, heard = measured(world, tiny_clip)
    assert heard.anew == []
    again, heard = measured(world, tiny_clip)
    assert (again, heard.anew) == (first, [])
    shutil.rmtree(world / "bench" / "test")
    write_benchmark(world / "bench" / "test", 24, 7)
    other, heard = measured(world, tiny_clip)
    assert other != first
    assert heard.anew == [
        f"the scores in {world / 'run' / 'scores' / where} are measured again: test has changed"
        for where in ("clip/0", "baselines/test")
    ]
    shutil.rmtree(world / "run")
    assert measured(world, tiny_clip)[0] == other


def replace_class(world: Path) -> None:
    path = world / "bench" / "test" / "images" / "classnames.txt"
    path.write_text(path.read_text()[::-1])


def replace_truth(world: Path) -> None:
    """The labels of another split: of the same keys, but not of the same masks."""
    (path,) = (world / "bench" / "test" / "truth").rglob("*.tar")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 8] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("change", [replace_class, replace_truth])
def test_whatever_is_measured_on_counts(change: Callable[[Path], None], world: Path, tiny_clip: str) -> None:
    run = clipzoo.Run(recipe_of(world / "data", tiny_clip, world / "bench"), world / "run")
    before = run.suite.identities
    change(world)
    run = clipzoo.Run(recipe_of(world / "data", tiny_clip, world / "bench"), world / "run")
    assert [split for split in SPLITS if run.suite.identities[split] != before[split]] == ["test"]


def test_a_run_of_before_is_measured_once_more(world: Path, tiny_clip: str) -> None:
    """Its mark is an empty file, and its recipe names no layout and no preset."""
    first, _ = measured(world, tiny_clip)
    for mark in (world / "run" / "scores").rglob("done"):
        mark.write_bytes(b"")
    path = world / "run" / "recipe.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.strip().startswith(("layout:", "preset:"))]
    path.write_text("\n".join(lines))
    again, heard = measured(world, tiny_clip)
    assert again == first
    assert len(heard.anew) == 2
    assert all(text.endswith("their benchmark is not recorded") for text in heard.anew)
    assert measured(world, tiny_clip)[1].anew == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"PK", b"XX")),
        lambda path: path.unlink(),
        lambda path: (path.parent.parent / "done").write_text("{}"),
        lambda path: (path.parent.parent / "done").write_bytes(b"\xff"),
    ],
)
def test_a_damaged_score_file_is_measured_anew(damage: Callable[[Path], object], tmp_path: Path) -> None:
    scored = Scored("zero_shot", ("a",), np.array([[1.0, 1.0, 1.0]]), METRIC)
    said: list[str] = []
    measured = []

    def measure() -> dict[str, dict[str, Scored]]:
        measured.append(1)
        return {"test": {"zero_shot": scored}}

    for _ in range(2):
        kept_scores(tmp_path / "s", measure, {"test": "1"}, said.append)
    assert (len(measured), said) == (1, [])
    damage(tmp_path / "s" / "test" / "zero_shot.npz")
    found = kept_scores(tmp_path / "s", measure, {"test": "1"}, said.append)
    assert found["test"]["zero_shot"].compute() == scored.compute()
    assert (len(measured), len(said)) == (2, 1)
    assert json.loads((tmp_path / "s" / "done").read_text())["scores"] == ["test/zero_shot"]
