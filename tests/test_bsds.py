"""BSDS500: files of several annotators, matching one to one, and ODS, OIS and AP against plain loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from typer.testing import CliRunner

from clipzoo import probing, tasks
from clipzoo.benchmarks import open_benchmark
from clipzoo.cli import app
from clipzoo.errors import DatasetError, SampleError
from clipzoo.tasks._metrics.contours import BsdsMetric, matched, skeleton
from clipzoo.tasks.edges import AnnotatedEdges, Edges, thin
from test_encoders import models  # noqa: F401
from test_layouts import labels, picture

H, W = 24, 32


def largest_by_search(edges: np.ndarray, true: np.ndarray, reach: float) -> int:
    """Try every pair of the first pixel, and leaving it out: exponential, and independent of augmenting paths."""
    own, other = [*map(tuple, np.argwhere(edges))], [*map(tuple, np.argwhere(true))]
    near = [frozenset(j for j, q in enumerate(other) if math.dist(p, q) <= reach) for p in own]

    def best(i: int, used: frozenset[int]) -> int:
        if i == len(near):
            return 0
        return max([best(i + 1, used)] + [1 + best(i + 1, used | {j}) for j in near[i] - used])

    return best(0, frozenset())


@pytest.mark.parametrize("seed", range(40))
def test_the_matching_is_as_large_as_exhaustive_search_finds(seed):
    rng = np.random.default_rng(seed)
    edges, true = (rng.random((5, 5)) < 0.3 for _ in range(2))
    edges.ravel()[np.flatnonzero(edges)[8:]] = False
    reach = float(rng.choice([1.0, 1.5, 2.3]))
    own, other = matched(edges, true, reach)
    assert own.sum() == other.sum() == largest_by_search(edges, true, reach)
    assert not (own & ~edges).any()
    assert not (other & ~true).any()


def test_a_large_matching_equals_scipys_assignment():
    """Dense assignment on maps of 60×80 in which a pair within reach costs 0 and all others 1."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(0)
    edges, true = (rng.random((60, 80)) < 0.08 for _ in range(2))
    p, q = np.argwhere(edges), np.argwhere(true)
    far = np.hypot(*(p[:, None] - q[None]).transpose(2, 0, 1)) > 2.1
    rows, columns = linear_sum_assignment(far)
    assert matched(edges, true, 2.1)[0].sum() == (~far[rows, columns]).sum()


def test_a_longer_path_is_exchanged():
    """Pixels 1, 2, 3 and true ones 0, 1, 2 of a row: nearest pairs (1,1) and (2,2) leave 3 and 0 alone at first."""
    edges, true = np.zeros((1, 5), np.bool_), np.zeros((1, 5), np.bool_)
    edges[0, 1:4], true[0, :3] = True, True
    own, other = matched(edges, true, 1.0)
    assert (own.sum(), other.sum()) == (3, 3)


def line(column: int, *more: int) -> np.ndarray:
    mask = np.zeros((H, W), np.bool_)
    mask[:, [column, *more]] = True
    return mask


def values(prediction: np.ndarray, *annotators: np.ndarray) -> dict[str, float]:
    metric = tasks.get("edges").metrics(tasks.Convention())["bsds"]
    label = Edges(prediction.astype(np.float32), np.ones((H, W), np.bool_))
    return metric.of(metric.statistics(label, AnnotatedEdges.of(np.stack(annotators)))[None])


def test_cases_by_hand():
    assert values(line(10), line(10)) == pytest.approx({"ods": 1, "ois": 1, "ap": 0}), "a point has no area"
    assert values(line(11), line(10))["ods"] == pytest.approx(1), "one pixel is within reach of maps of any size"
    assert values(line(13), line(10))["ods"] == 0
    double = values(line(9, 11), line(10))
    assert double["ods"] == pytest.approx(2 * 0.5 / 1.5), "only one of two lines has a partner: precision 1/2"
    both = values(line(10), line(10), line(20))
    assert both["ods"] == pytest.approx(2 * 0.5 / 1.5), "recall counts the pixels of all annotators: 1/2"
    either = values(line(10, 20), line(10), line(20))
    assert either["ods"] == pytest.approx(1), "precision counts partners of either annotator"
    assert all(math.isnan(value) for value in values(line(10), np.zeros((H, W), np.bool_)).values())


def test_a_skeleton_has_lines_of_one_pixel():
    thick = np.zeros((12, 12), np.bool_)
    thick[3:6, 2:10] = True
    thinned = skeleton(thick)
    assert thinned.sum(0).max() == 1
    assert thinned[4, 3:9].all()
    assert (skeleton(line(4)) == line(4)).all()


def by_loops(pairs: list[tuple[Edges, AnnotatedEdges]], thresholds: list[float]) -> dict[str, float]:
    """``evaluation_bdry_image.m`` and ``collect_eval_bdry.m`` with dense assignments, per image and threshold."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((len(pairs), len(thresholds), 4))
    for i, (prediction, truth) in enumerate(pairs):
        suppressed, reach = thin(prediction.values), max(0.0075 * math.hypot(H, W), 1.0)
        for t, threshold in enumerate(thresholds):
            mine = np.argwhere(skeleton(suppressed >= threshold))
            hit = np.zeros(len(mine), bool)
            for person in truth.annotators:
                theirs = np.argwhere(person)
                if len(mine) and len(theirs):
                    distance = np.hypot(*(mine[:, None] - theirs[None]).transpose(2, 0, 1))
                    rows, columns = linear_sum_assignment(np.where(distance <= reach, distance, 1e4))
                    good = distance[rows, columns] <= reach
                    hit[rows[good]] = True
                    table[i, t, 0] += good.sum()
                table[i, t, 1] += len(theirs)
            table[i, t, 2:] = hit.sum(), len(mine)

    def rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        recall, precision = (
            counts[..., 0] / np.maximum(counts[..., 1], 1),
            counts[..., 2] / np.maximum(counts[..., 3], 1),
        )
        return recall, precision, 2 * recall * precision / np.maximum(recall + precision, 1e-12)

    recall, precision, _ = rates(table.sum(0))
    ods = 0.0
    for a in range(len(thresholds) - 1):
        for share in np.linspace(0, 1, 100):
            r, p = (x[a] * (1 - share) + x[a + 1] * share for x in (recall, precision))
            ods = max(ods, 2 * r * p / max(r + p, 1e-12))
    best = np.array([one[rates(one)[2].argmax()] for one in table]).sum(0)
    unique, at = np.unique(recall, return_index=True)
    ap = sum(np.interp(x / 100, unique, precision[at], left=0, right=0) for x in range(101)) / 100
    return {"ods": ods, "ois": float(rates(best)[2]), "ap": float(ap)}


def test_scores_agree_with_plain_loops():
    """The largest matching against the one of minimum cost, within 0.01."""
    rng, pairs = np.random.default_rng(3), []
    for _ in range(3):
        people = np.stack([line(8 + int(rng.integers(3)), 20 + int(rng.integers(3))) for _ in range(3)])
        noisy = np.clip(0.6 * people.mean(0) + 0.4 * rng.random((H, W)) ** 3, 0, 1).astype(np.float32)
        pairs.append((Edges(noisy, np.ones((H, W), np.bool_)), AnnotatedEdges.of(people)))
    thresholds = [0.1, 0.2, 0.3, 0.45, 0.6]
    # maps of 24×32 have a reach of 0.3 pixels by the code of BSDS500; at least one pixel is allowed here
    metric = BsdsMetric(thresholds)
    found = metric.of(np.stack([metric.statistics(*pair) for pair in pairs]))
    wanted = by_loops(pairs, thresholds)
    assert found == pytest.approx(wanted, abs=0.01)


# Layout and preset -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bsds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Landscape and portrait pictures with annotators in a cell array of MATLAB 5, as the release has them."""
    root = tmp_path_factory.mktemp("BSDS500") / "data"
    for split, names in (("train", ("100075", "100080")), ("test", ("2018", "3063"))):
        for i, name in enumerate(names):
            size = (H, W) if i else (W, H)
            picture(root / f"images/{split}/{name}.jpg", i, size)
            cells = np.empty((1, 1 + 4 * i), object)
            for person in range(cells.size):
                boundaries = np.zeros(size, np.uint8)
                boundaries[:, 10 + person % 2] = 1
                cells[0, person] = {"Segmentation": boundaries.astype(np.uint16) + 1, "Boundaries": boundaries}
            (root / f"groundTruth/{split}").mkdir(parents=True, exist_ok=True)
            savemat(root / f"groundTruth/{split}/{name}.mat", {"groundTruth": cells})
        (root / f"images/{split}/Thumbs.db").write_bytes(b"x")
    return root


def test_all_annotators_are_read(bsds):
    one, five = labels(open_benchmark(f"bsds:{bsds}?split=test"), "edges")
    assert (one.annotators.shape, five.annotators.shape) == ((1, W, H), (5, H, W))
    assert five.values[3, [9, 10, 11]].tolist() == pytest.approx([0, 0.6, 0.4])


def test_other_folders_and_files_are_explained(bsds, tmp_path):
    with pytest.raises(DatasetError, match=r"has no images, groundTruth; .* has this layout: use bsds:"):
        open_benchmark(f"bsds:{bsds.parent}")
    with pytest.raises(DatasetError, match="split=validation is unknown"):
        open_benchmark(f"bsds:{bsds}?split=validation")
    picture(tmp_path / "images/test/1.jpg")
    (tmp_path / "groundTruth/test").mkdir(parents=True)
    with pytest.raises(SampleError, match="is missing"):
        labels(open_benchmark(f"bsds:{tmp_path}"), "edges")
    savemat(tmp_path / "groundTruth/test/1.mat", {"groundTruth": np.zeros(3)})
    with pytest.raises(SampleError, match=r"has no groundTruth\{i\}\.Boundaries: it is not a file of BSDS500"):
        labels(open_benchmark(f"bsds:{tmp_path}"), "edges")


def test_the_preset_of_edges_runs_from_the_command_line(bsds, models, tmp_path, monkeypatch):  # noqa: F811
    module = probing.PLUGINS.load("bsds_dpt")
    small = replace(
        module.PRESET, crop=(32, 32), batch=2, short_side=(24, 40), test_short=32, stride=(16, 16),
        head_options={"width": 16},
    )  # fmt: skip
    monkeypatch.setattr(module, "PRESET", small)
    options = ["eval", "--model", f"timm:local-dir:{models / 'timm'}", "--preset", "bsds-dpt", "--steps", "2"]
    options += ["--probe", f"bsds:{bsds}?split=train", "--test", f"bsds:{bsds}", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, (done.output, done.exception)
    (arm,) = json.loads((tmp_path / "results.json").read_text())["arms"].values()
    assert {"edges_bsds/ods", "edges_bsds/ois", "edges_bsds/ap", "edges/ods"} <= set(arm)
