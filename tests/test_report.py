"""The page: complete in itself, safe, and honest in words."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from clipzoo import tasks
from clipzoo.evaluation import arms, zero_shot
from clipzoo.evaluation.measure import Scored, rounded
from clipzoo.pages import PictureRow, cases, takeaways, words, write_page
from clipzoo.pages.pictures import data_uri
from clipzoo.tasks.base import Convention

ROOT = Path(__file__).parent.parent
METRES = Convention(kind="metric", along="z")
CLASSES = Convention(classes=("floor", "wall", "chair"))
LEVELS = {
    "position_prior": (0.2, 0.37, 22.3), "pixels_position": (0.22, 0.4, 24.0), "random_student": (0.2, 0.36, 25.0),
    "expert": (0.76, 0.9, 12.6), "clip": (0.23, 0.38, 24.8), "clip-ft": (0.24, 0.39, 24.3),
    "clipzoo": (0.33, 0.5, 15.6),
}  # fmt: skip


def scored_dense(rng, base, levels, n=200):
    """Segmentation, depth and normals around the given levels, images sharing their difficulty between rows."""
    keys = tuple(f"t{i:04d}" for i in range(n))
    miou, delta1, angle = levels
    hits = np.clip(base * 0.5 + miou + rng.normal(0, 0.05, n), 0.01, 0.99)
    areas = np.stack([100 * hits] * 3 + [200 - 100 * hits] * 3 + [np.full(n, 100.0)] * 3, 1)  # of three classes
    depth = np.stack([np.clip(delta1 + base + rng.normal(0, 0.05, n), 0, 1), 0.3 - 0.2 * delta1 + 0 * base,
                      1.2 - delta1 + 0 * base, *np.ones((3, n))], 1)  # fmt: skip
    degrees = angle + 10 * base + rng.normal(0, 1, n)
    normals = np.stack([degrees, *[0.5 * np.ones(n)] * 3, *np.ones((2, n))], 1)
    metrics = {"segmentation": tasks.get("segmentation").metric(CLASSES), "depth": tasks.get("depth").metric(METRES)}
    return {
        "segmentation": Scored("segmentation", keys, areas, metrics["segmentation"], CLASSES),
        "depth": Scored("depth", keys, depth, metrics["depth"], METRES),
        "normals": Scored("normals", keys, normals, tasks.get("normals").metric(Convention())),
    }


def guard(rng, base, level, n=200):
    hits = base + level + rng.normal(0, 0.1, n) > 0.5
    rows = np.stack([np.ones(n), hits, np.ones(n)], 1)
    return {"zero_shot": Scored("zero_shot", tuple(f"z{i}" for i in range(n)), rows, zero_shot.METRIC)}


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    base, ease = rng.normal(0, 0.1, 200), rng.random(200)
    seeds = {"clip": (0,), "clip-ft": (0, 1, 2), "clipzoo": (0, 1, 2)}
    return {
        arm: {
            s: {**scored_dense(rng, base, LEVELS[arm]), **(guard(rng, ease, 0.02) if arm in seeds else {})}
            for s in seeds.get(arm, (0,))
        }
        for arm in LEVELS
    }


@pytest.fixture(scope="module")
def results(runs):
    trained = {arm: runs[arm] for arm in ("clip", "clip-ft", "clipzoo")}
    rows = {row: run for row, run in runs.items() if row not in trained}
    held = arms.restrict(trained, [f"t{i:04d}" for i in range(60)])
    return arms.compare(
        trained, rows, recipe="quick", subsets={"heldout": (held, {})}, resamples=300,
        cost={
            "depth/demo-depth": {"seconds_per_image": 0.0123, "images_per_second": 81.3, "bytes_per_image": 2310},
            "machine": "2 cores",
        },
        protocol={"crop": "whole image", "resolution": [96, 96]}, versions={"torch": "2.14"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(results, runs, tmp_path_factory):
    rng = np.random.default_rng(1)
    pictures = [
        PictureRow(
            case, "depth", f"t{i}", '<script>alert("x")</script> a chair', blocks(rng), blocks(rng), blocks(rng),
            {"clip-ft": blocks(rng), "clipzoo": blocks(rng)}, {"clipzoo": "δ1 62.0 %"},
        )
        for case, i in cases(runs["clipzoo"][0]["depth"], runs["clip-ft"][0]["depth"])
    ]  # fmt: skip
    line = [{"step": t, "name": n, "value": 3 / (1 + t / 100)} for t in range(0, 500, 50) for n in ("loss", "top1")]
    curves = {"clip-ft": {0: line, 1: line}, "clipzoo": {0: line}}
    out = tmp_path_factory.mktemp("report") / "deep" / "index.html"
    recipe = "name: quick\ndata: {path: demo}\nnote: '</code><b>bold</b>'\n"
    return write_page(results, out, curves=curves, pictures=pictures, recipe=recipe).read_text("utf-8")


def blocks(rng):
    return np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def test_page_loads_nothing_from_outside(page):
    assert not re.search(r"https?://|//[a-z]+\.|@import|<link|<iframe|url\(", page)
    sources = re.findall(r'\b(?:src|href|srcset|poster|data)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)


def test_page_escapes_what_users_wrote(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>bold</b>" not in page
    assert page.count("<script>") == 1


def test_page_tells_all_three_depths(page, results):
    assert words.headline(results) in page.replace("&#39;", "'")
    for part in ("rows", "differences", "subsets", "pictures", "curves", "cost", "takeaways", "settings"):
        assert f'id="{part}"' in page
    for text in ("position prior", "random student", "worst", "0.0123", "s / image", "whole image", "96, 96", "torch"):
        assert text in page
    assert page.count("<h1>") == 1
    assert "None" not in page
    assert "nan" not in page


def test_every_picture_has_words(page):
    images = re.findall(r"<img [^>]*>", page)
    assert all("alt=" in image for image in images)
    assert all("aria-label" in svg for svg in re.findall(r"<svg [^>]*>", page))


def test_headline_counts_gains(results):
    text = words.headline(results)
    assert text.startswith("Pseudo-labels improved all 3 dense tasks over captions alone (segmentation +")
    assert "surface normals −8." in text
    assert "ero-shot top‑1 " in text


def test_headline_admits_a_gain_that_a_constant_reaches(results):
    worse = copy.deepcopy(results)
    worse["differences"]["clipzoo-vs-position_prior"]["depth/delta1"]["ci"] = [-0.01, 0.2]
    text = words.headline(worse)
    assert "2 of 3 dense tasks" in text
    assert "Depth improved" in text
    assert "does not clearly beat position prior, so the gain does not count" in text
    assert words.judge(worse, "depth/delta1").counts is False


def test_headline_admits_a_loss_and_an_unclear_change(results):
    worse = copy.deepcopy(results)
    cells = worse["differences"]["clipzoo-vs-clip-ft"]
    cells["depth/delta1"] |= {"mean": -0.02, "ci": [-0.03, -0.01]}
    cells["normals/mean_angle"] |= {"mean": -0.1, "ci": [-0.6, 0.4]}
    worse["differences"]["clipzoo-vs-clip"]["zero_shot/top1"] |= {"mean": -0.057, "ci": [-0.08, -0.03]}
    text = words.headline(worse)
    assert "1 of 3" in text
    assert "Depth got worse (−2.0 points δ1)" in text
    assert "No clear change of surface normals (−0.1°, 95 % interval −0.6 to +0.4)" in text
    assert "Zero-shot top‑1 fell relative to the pretrained model (−5.7 points" in text


def test_lower_is_better_is_understood(results):
    verdict = words.judge(results, "normals/mean_angle")
    assert verdict.state == "better"
    assert verdict.cell["mean"] < 0 < verdict.gain
    assert verdict.ci[0] < verdict.ci[1]


def test_an_expert_that_students_pass_is_not_an_upper_bound(results, tmp_path):
    assert words.gap(results, words.judge(results, "depth/delta1")) > 0
    passed = copy.deepcopy(results)
    passed["baselines"]["expert"]["depth/delta1"] |= {"mean": results["arms"]["clipzoo"]["depth/delta1"]["mean"] - 0.01}
    verdict = words.judge(passed, "depth/delta1")
    assert verdict.cell["gap_closed"] is not None, "as results of before have it"
    assert words.gap(passed, verdict) is None
    other = copy.deepcopy(results)  # an arm outside the pair passes the expert
    other["arms"]["clip"]["depth/delta1"]["mean"] = 0.99
    assert words.gap(other, words.judge(other, "depth/delta1")) is None
    told = {one["title"]: one for one in takeaways.takeaways(other)}["Depth, δ1"]
    assert "of the gap to the expert" not in told["sentence"]
    assert "not better than clip. It is not an upper bound, so no share" in " ".join(told["checks"])
    found = {one["title"]: one for one in takeaways.takeaways(passed)}["Depth, δ1"]
    assert "% of the gap" not in found["sentence"]
    assert "not better than clipzoo. It is not an upper bound" in " ".join(found["checks"])
    told, before = (write_page(r, tmp_path / "p.html").read_text("utf-8") for r in (passed, results))
    for said in ("expert (not an upper bound)", "the expert is not an upper bound", "<td>no upper bound</td>"):
        assert said in told
        assert said not in before
    assert told.count("expert (upper bound)") == before.count("expert (upper bound)") - 2


def test_no_share_of_a_gap_to_an_expert_that_is_passed(runs):
    short = {arm: runs[arm] for arm in ("clip", "clip-ft", "clipzoo")}
    for level, wanted in (("expert", False), ("clip-ft", True)):
        cells = arms.compare(short, {"expert": {0: runs[level][0]}}, resamples=10)["differences"]["clipzoo-vs-clip-ft"]
        assert (cells["depth/delta1"]["gap_closed"] is None) is wanted
        assert (cells["normals/mean_angle"]["gap_closed"] is None) is wanted


@pytest.mark.parametrize(
    ("number", "percent", "points"),
    [
        (0.1235, "12.4", "+12.4"),
        (0.6805, "68.1", "+68.1"),
        (-0.0005, "-0.1", "−0.1"),
        (0.00049, "0.0", "0.0"),
        (-0.00004, "0.0", "0.0"),
    ],
)
def test_equal_numbers_are_rounded_equally_wherever_they_stand(number, percent, points):
    assert rounded(number, 1, percent=True) == percent
    assert float(rounded(number, 3)) == pytest.approx(float(percent) / 100)
    assert words.change(number, "") == f"{points} points"
    assert words.value(number, "").removesuffix("\u202f%") == percent
    assert (words.value(0.5, "m"), words.change(0.5, "m"), words.spread(0.5, "m")) == ("0.500 m", "+0.500 m", "0.500")


def test_tables_of_the_docs_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "scripts" / "results_tables.py")
    tables = importlib.util.module_from_spec(spec)
    sys.modules["tables"] = tables
    spec.loader.exec_module(tables)
    for table in tables.TABLES:
        text = (ROOT / table.file).read_text()
        assert tables.written(table, text) == text, "run python scripts/results_tables.py"


def test_takeaways_tell_what_to_doubt(results):
    found = {one["title"]: one for one in takeaways.takeaways(results)}
    assert set(found) == {"Segmentation, mIoU", "Depth, δ1", "Surface normals, mean angle", "Zero-shot, top‑1"}
    checks = " ".join(found["Depth, δ1"]["checks"])
    assert "All 3 seeds agree in sign" in checks
    assert "On the subset “heldout” it improved" in checks
    assert "200 images" in checks


def test_rates_at_an_end_of_the_grid_are_told(results):
    protocol = {"learning_rates": {"clip-ft": 1e-3, "clipzoo": 2e-3}, "learning_rate_grid": [1e-3, 2e-3, 4e-3]}

    def checks(**change):
        found = takeaways.takeaways({**results, "protocol": {**protocol, **change}})
        return " ".join(next(one["checks"] for one in found if one["title"] == "Depth, δ1"))

    assert "The learning rate of clip-ft, 0.001, is the lowest of the grid. A lower one may be better." in checks()
    assert "The learning rate of clipzoo" not in checks()
    assert "The learning rate of" not in checks(learning_rate_grid=[1e-3])


def test_more_labels_that_do_as_well_are_told(results):
    rivals = copy.deepcopy(results)
    cell = copy.deepcopy(results["arms"]["clipzoo"]["depth/delta1"])
    rivals["baselines"]["more_labels"] = {"depth/delta1": cell}
    found = {one["title"]: " ".join(one["checks"]) for one in takeaways.takeaways(rivals)}
    assert "which clipzoo does not clearly beat" in found["Depth, δ1"]
    cell["mean"] -= 0.05
    found = {one["title"]: " ".join(one["checks"]) for one in takeaways.takeaways(rivals)}
    assert "clipzoo does not clearly beat" not in found["Depth, δ1"]


def test_seeds_are_those_of_trained_arms(runs):
    later = {"clip": runs["clip"], **{arm: {s + 1: runs[arm][s] for s in (0, 1)} for arm in ("clip-ft", "clipzoo")}}
    assert arms.compare(later, resamples=10)["seeds"] == [1, 2]
    assert arms.compare({"clip": runs["clip"]}, resamples=10)["seeds"] == [0]


def test_cases_are_chosen_by_the_scores(runs):
    ours, theirs = runs["clipzoo"][0]["depth"], runs["clip-ft"][0]["depth"]
    gain = ours.each("delta1") - theirs.each("delta1")
    chosen = dict(cases(ours, theirs))
    assert gain[chosen["best"]] == gain.max()
    assert gain[chosen["worst"]] == gain.min()
    assert gain[chosen["median"]] == pytest.approx(np.median(gain), abs=0.02)
    assert [case for case, _ in cases(ours, theirs, 2)] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2


def test_numbers_bear_units():
    assert words.value(0.328, "") == "32.8 %"
    assert words.value(24.31, "°") == "24.3°"
    assert words.value(None, "") == "–"
    assert words.change(-0.0571, "") == "−5.7 points"
    assert words.change(-0.00001, "") == "0.0 points"
    assert words.change(0.5, "m") == "+0.500 m"


def test_pictures_are_small_and_embedded():
    uri = data_uri(np.zeros((800, 600, 3), np.uint8), photo=True)
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 5000


def test_a_page_of_almost_nothing(tmp_path: Path):
    rng = np.random.default_rng(0)
    alone = arms.compare({"clip": {0: guard(rng, rng.random(50), 0, 50)}}, resamples=20)
    text = write_page(alone, tmp_path / "page.html").read_text("utf-8")
    assert re.search(r"The arm clip reaches \d+\.\d\u202f% zero-shot top‑1\. No pair of arms was measured\.", text)
