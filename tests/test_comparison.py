"""Intervals, differences, and the shape of ``results.json``."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from clipzoo import tasks
from clipzoo.errors import CheckpointError, DatasetError, PlanError
from clipzoo.evaluation import arms, bootstrap, zero_shot
from clipzoo.evaluation.measure import Scored
from clipzoo.runs.comparing import compare_runs
from clipzoo.tasks.base import Convention

METRES = Convention(kind="metric", along="z")
CLASSES = Convention(classes=("floor", "chair", "lamp"))


def guard(hits, keys=None):
    hits = np.asarray(hits, np.float64)
    keys = keys or tuple(f"k{i}" for i in range(len(hits)))
    return Scored("zero_shot", keys, np.stack([np.ones_like(hits), hits, np.ones_like(hits)], 1), zero_shot.METRIC)


def test_interval_covers_the_known_mean():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        scored = guard(rng.random(150) < 0.4)
        draws = bootstrap.resample({"a": scored.statistics}, scored.metric, 300)["a"]["top1"]
        low, high = bootstrap.interval(draws)
        covered += low <= 0.4 <= high
    assert 51 <= covered <= 60


def detections(rng, images=60, classes=3, given=5):
    """Of each image one true box, and detections of its class of which at most one is right at all bounds."""
    rows = np.zeros((images, 4 * 100 + classes))
    of = rng.integers(classes, size=images)
    rows[np.arange(images), 400 + of] = 1
    cells = rows[:, :400].reshape(images, 100, 4)
    cells[:, :given, 0], cells[:, :given, 1] = of[:, None] + 1, rng.random((images, given))
    cells[:, 0, 2] = np.where(rng.random(images) < 0.6, 2**10 - 1, 0)
    rows[:, :400] = cells.reshape(images, 400)
    metric = tasks.get("detection").metric(Convention(classes=tuple("abc")))
    return Scored("detection", tuple(f"b{i}" for i in range(images)), rows, metric, CLASSES)


def test_intervals_of_average_precision_lie_around_what_was_measured():
    scored = detections(np.random.default_rng(0))
    value = scored.compute()["detection/ap50"]
    draws = bootstrap.resample({"a": scored.statistics}, scored.metric, 500)["a"]["ap50"]
    assert draws.mean() > value + 0.2 * draws.std()  # copies of an image tie, and precision is made to fall
    found = arms.comparison({"clip": {0: {"detection": scored}}}, {})["arms"]["clip"]["detection/ap50"]
    low, high = found["ci"]
    assert (low + high) / 2 == pytest.approx(value, abs=0.15 * draws.std())
    assert high - low == pytest.approx(np.diff(np.quantile(draws, [0.025, 0.975]))[0], rel=0.1)


def test_intervals_do_not_leave_the_range_of_a_score():
    scored = detections(np.random.default_rng(12), images=8, given=1)
    value = scored.compute()["detection/ap50"]
    draws = bootstrap.resample({"a": scored.statistics}, scored.metric, 500)["a"]["ap50"]
    assert bootstrap.interval(bootstrap.centered(draws, value))[1] > 1
    found = arms.comparison({"clip": {0: {"detection": scored}}}, {})["arms"]["clip"]["detection/ap50"]
    assert 0 <= found["ci"][0] < value < found["ci"][1] == 1


def test_draws_that_are_not_numbers_are_left_alone():
    found = bootstrap.centered(np.array([1.0, np.nan, 3.0]), 5.0)
    np.testing.assert_array_equal(found, [4.0, np.nan, 6.0])
    assert np.isnan(bootstrap.centered(np.array([np.nan]), 1.0)).all()


def test_paired_difference_is_tighter_than_unpaired():
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    a, b = guard(easy + rng.normal(0, 0.05, 400) > 0.45), guard(easy + rng.normal(0, 0.05, 400) > 0.5)
    draws = bootstrap.resample({"a": a.statistics, "b": b.statistics}, a.metric)
    paired = draws["a"]["top1"] - draws["b"]["top1"]
    unpaired = draws["a"]["top1"] - rng.permutation(draws["b"]["top1"])
    assert paired.std() < 0.5 * unpaired.std()
    assert bootstrap.p_value(paired) < 0.05
    assert bootstrap.p_value(paired - paired.mean()) > 0.5


def depths(rng, level):
    """30 images whose δ1 lies around half of ``level``."""
    shares = np.stack([rng.random(30) * level, *rng.random((2, 30)), *np.ones((3, 30))], 1)
    return Scored("depth", tuple(f"d{i}" for i in range(30)), shares, tasks.get("depth").metric(METRES), METRES)


def made_runs(n=60):
    rng = np.random.default_rng(1)
    levels = {"clip": (1.0, (0,)), "clip-ft": (1.1, (0, 1)), "clipzoo": (1.3, (0, 1)), "expert": (2.0, (0,))}
    depth = {arm: {seed: depths(rng, level) for seed in seeds} for arm, (level, seeds) in levels.items()}
    runs = {a: {s: {"depth": v, "zero_shot": guard(rng.random(n) < 0.5)} for s, v in depth[a].items()} for a in depth}
    baselines_ = {"expert": {0: {"depth": runs.pop("expert")[0]["depth"]}}}
    return runs, baselines_


def test_results_have_the_agreed_shape():
    runs, rows = made_runs()
    held = arms.restrict(runs, [f"k{i}" for i in range(0, 60, 2)])
    results = arms.compare(
        runs,
        rows,
        recipe="quick",
        subsets={"heldout": (held, {})},
        cost={"depth/x": {"seconds_per_image": 0.1}},
        resamples=200,
    )
    json.dumps(results, allow_nan=False)
    assert {"recipe", "seeds", "arms", "baselines", "cost", "differences", "subsets"} <= set(results)
    cell = results["arms"]["clipzoo"]["depth/delta1"]
    assert set(cell) == {"mean", "std", "n", "values", "ci", "direction", "unit"}
    assert cell["n"] == 2
    assert cell["ci"][0] < cell["mean"] < cell["ci"][1]
    assert results["arms"]["clip"]["depth/delta1"]["std"] is None
    ours, theirs, top = (results[k][a]["depth/delta1"]["mean"] for k, a in
                         (("arms", "clipzoo"), ("arms", "clip-ft"), ("baselines", "expert")))  # fmt: skip
    difference = results["differences"]["clipzoo-vs-clip-ft"]["depth/delta1"]
    assert difference["mean"] == pytest.approx(ours - theirs)
    assert difference["gap_closed"] == pytest.approx((ours - theirs) / (top - theirs))
    assert len(difference["values"]) == 2
    assert results["differences"]["clipzoo-vs-clip"]["zero_shot/top1"]["gap_closed"] is None
    assert "clipzoo-vs-expert" in results["differences"]
    assert results["images"] == {"depth": 30, "zero_shot": 60}
    assert results["subsets"]["heldout"]["images"] == {"zero_shot": 30}
    assert arms.compare(runs, rows, resamples=50) == arms.compare(runs, rows, resamples=50)


def test_rows_of_different_images_are_refused():
    with pytest.raises(PlanError, match="one test set"):
        arms.compare({"clip": {0: {"zero_shot": guard([1, 0])}}, "clipzoo": {0: {"zero_shot": guard([1, 0, 1])}}})


def test_nothing_valid_is_null_and_not_nan():
    empty = Scored("depth", ("a",), np.zeros((1, 6)), tasks.get("depth").metric(METRES), METRES)
    results = arms.compare({"clipzoo": {0: {"depth": empty}}}, resamples=10)
    assert results["arms"]["clipzoo"]["depth/delta1"]["mean"] is None
    json.dumps(results, allow_nan=False)


def made_saved(scores):
    """A stand-in for saved runs: folder -> scores of the arm clip."""
    return lambda letter, path: SimpleNamespace(
        letter=letter, path=path, folder=None, recipe=SimpleNamespace(name=path.name),
        results={"arms": {"clip": {}}, "seeds": [0], "cost": {}}, settings=dict,
        scores=lambda split: {"clip": {0: scores[path.name]}}, protocol=lambda group, split: {},
    )  # fmt: skip


def test_runs_without_a_common_measure_are_not_called_equal(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    empty = Scored("depth", ("a",), np.zeros((1, 6)), tasks.get("depth").metric(METRES), METRES)
    scores = {
        "a": {"depth": depths(rng, 1)},
        "b": {"zero_shot": guard([1, 0])},
        "c": {"depth": empty},
        "d": {"depth": empty},
    }
    scores["e"] = scores["a"]
    monkeypatch.setattr("clipzoo.runs.comparing.runs.Saved", made_saved(scores))
    with pytest.raises(CheckpointError, match="no arm has a common measure"):
        compare_runs([tmp_path / "a", tmp_path / "b"], tmp_path)
    page = compare_runs([tmp_path / "a", tmp_path / "b", tmp_path / "e"], tmp_path).read_text()
    assert "C clip and A clip have equal scores" in page
    assert "B clip and A clip have equal scores" not in page
    assert "have equal scores" not in compare_runs([tmp_path / "c", tmp_path / "d"], tmp_path).read_text()


def test_scores_survive_the_disk(tmp_path):
    shares = np.random.default_rng(0).integers(1, 9, (5, 9)).astype(np.float64)
    scored = Scored("segmentation", tuple("abcde"), shares, tasks.get("segmentation").metric(CLASSES), CLASSES)
    scored.save(tmp_path / "a" / "segmentation.npz")
    again = Scored.load(tmp_path / "a" / "segmentation.npz")
    assert again.compute() == scored.compute()
    assert (again.keys, again.convention) == (scored.keys, scored.convention)
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(DatasetError, match="holds no scores"):
        Scored.load(tmp_path / "other.npz")
