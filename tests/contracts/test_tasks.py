"""What each task promises beyond the laws: stated errors, agreement with others, and what it refuses."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from scene import CASES, CLASSES, SCENE, seen

from clipzoo import tasks
from clipzoo.errors import LabelError
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth, Kind
from clipzoo.tasks.edges import THRESHOLDS, TOLERANCE, Edges, thin
from clipzoo.tasks.normals import Normals, normals_from_depth
from clipzoo.tasks.segmentation import Segmentation, palette
from clipzoo.types import Camera, View
from parity_records import record

SEGMENTATION, DEPTH, NORMALS, EDGES = (tasks.get(name) for name in ("segmentation", "depth", "normals", "edges"))
METRIC = Convention(kind="metric", along="z")
RNG = np.random.default_rng(7)


def depth(values: Any, valid: Any = None, kind: Kind = "metric") -> Depth:
    array = np.asarray(values, np.float32)
    return Depth(array, np.ones(array.shape, bool) if valid is None else np.asarray(valid), kind, "z")


def normals(*vector: float, size: tuple[int, int] = (2, 3)) -> Normals:
    vectors = np.broadcast_to(np.float32(vector)[:, None, None], (3, *size))
    return Normals(vectors.copy(), np.ones(size, bool))


def ids(values: Any, valid: Any = None) -> Segmentation:
    array = np.asarray(values, np.uint16)
    return Segmentation(array, np.ones(array.shape, bool) if valid is None else np.asarray(valid))


def edges(values: Any, valid: Any = None) -> Edges:
    array = np.asarray(values, np.float32)
    return Edges(array, np.ones(array.shape, bool) if valid is None else np.asarray(valid))


# Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "mode"), [(0, "L"), (254, "L"), (255, "I;16"), (65534, "I;16")])
def test_ids_take_the_fewest_bits_and_leave_void_free(top: int, mode: str) -> None:
    label = ids([[0, top, 3]], [[True, True, False]])
    data = SEGMENTATION.encode(label)
    assert Image.open(io.BytesIO(data)).mode == mode
    again = SEGMENTATION.decode(data)
    assert again.ids.dtype == np.uint16
    np.testing.assert_array_equal(again.ids, [[0, top, 0]])
    np.testing.assert_array_equal(again.valid, label.valid)


def test_an_id_that_is_the_mark_of_void_is_refused() -> None:
    with pytest.raises(LabelError, match="65535"):
        SEGMENTATION.encode(ids([[65535]]))
    with pytest.raises(LabelError, match="65536 classes"):
        SEGMENTATION.channels(Convention(tuple(map(str, range(65536)))))


def test_metric_depth_errs_by_less_than_a_ten_thousandth() -> None:
    values = np.geomspace(0.5, 80, 40_000, dtype=np.float32).reshape(200, 200)
    again = DEPTH.decode(DEPTH.encode(depth(values)))
    assert np.abs(again.values / values - 1).max() <= 1e-4
    assert (again.values.min(), again.values.max()) == (values.min(), values.max())


@pytest.mark.parametrize("kind", ["metric", "affine-depth", "affine-disparity"])
def test_constant_single_and_empty_depth_round_trip(kind: Kind) -> None:
    for label in (
        depth(np.full((3, 4), 2.5), kind=kind),
        depth([[1.5, 7.0], [3.0, 4.0]], [[False, True], [False, False]], kind),
        depth(np.full((2, 2), np.nan), np.zeros((2, 2), bool), kind),
    ):
        again = DEPTH.decode(DEPTH.encode(label))
        np.testing.assert_array_equal(again.values, label.values)
        np.testing.assert_array_equal(again.valid, label.valid)


def test_affine_values_may_be_negative() -> None:
    values = RNG.normal(size=(50, 60)).astype(np.float32)
    again = DEPTH.decode(DEPTH.encode(depth(values, kind="affine-disparity")))
    assert np.abs(again.values - values).max() <= np.ptp(values) / 131_000


def test_stored_normals_err_by_less_than_four_tenths_of_a_degree() -> None:
    vectors = RNG.normal(size=(3, 200, 300)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=0)
    label = Normals(vectors, np.ones((200, 300), bool))
    again = NORMALS.decode(NORMALS.encode(label))
    assert CASES["normals"][0].gap(again, label).max() <= 0.4


@pytest.mark.parametrize("vector", [(1, 0, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])
def test_axes_are_stored_exactly(vector: tuple[float, float, float]) -> None:
    label = normals(*vector)
    np.testing.assert_array_equal(NORMALS.decode(NORMALS.encode(label)).vectors, label.vectors)


def test_stored_edges_err_by_less_than_a_fifth_of_a_percent() -> None:
    label = edges(np.linspace(0, 1, 5000).reshape(50, 100), RNG.random((50, 100)) < 0.9)
    again = EDGES.decode(EDGES.encode(label))
    np.testing.assert_array_equal(again.valid, label.valid)
    assert np.abs(again.values - label.values).max() <= 0.002
    exact = edges([[0, 0.5, 1]])
    np.testing.assert_array_equal(EDGES.decode(EDGES.encode(exact)).values, exact.values)


def png(array: NDArray[Any], text: object) -> bytes:
    chunk, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    chunk.add_text("clipzoo", text if isinstance(text, str) else json.dumps(text))
    Image.fromarray(array).save(buffer, "PNG", pnginfo=chunk)
    return buffer.getvalue()


GREY, COLOR, DEEP = np.zeros((2, 2), np.uint8), np.full((2, 2, 3), 90, np.uint8), np.zeros((2, 2), np.uint16)
FACTS = {"task": "depth", "kind": "metric", "along": "z", "transform": "log", "low": 1.0, "high": 2.0}


@pytest.mark.parametrize(
    ("name", "array", "text", "message"),
    [
        ("segmentation", GREY, "{", "not a JSON object"),
        ("segmentation", GREY, [1], "not a JSON object"),
        ("segmentation", COLOR, {"task": "segmentation", "void": 255}, "mode RGB"),
        ("segmentation", GREY, {"task": "segmentation", "void": 0}, "void 0"),
        ("segmentation", GREY, {"task": "segmentation", "void": 255, "confidence": "x"}, "'x'"),
        ("depth", GREY, FACTS, "mode L"),
        ("depth", DEEP, {**FACTS, "low": 3.0}, "not written by"),
        ("depth", DEEP, {**FACTS, "low": 0.0}, "not written by"),
        ("depth", DEEP, {**FACTS, "low": None}, "not written by"),
        ("depth", DEEP, {**FACTS, "kind": "disparity"}, "not written by"),
        ("depth", DEEP, {**FACTS, "transform": "cubic"}, "not written by"),
        ("normals", COLOR, {"task": "normals"}, "not of length 1"),
        ("normals", COLOR, {"task": "depth"}, "'depth'"),
        ("edges", DEEP, {"task": "edges"}, "mode I;16"),
    ],
)
def test_damaged_labels_are_refused(name: str, array: NDArray[Any], text: object, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        tasks.get(name).decode(png(array, text))


# Checks -----------------------------------------------------------------------------------------------------

SPACE = Convention(CLASSES)
GOOD = np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("label", "convention", "message"),
    [
        (ids([[0, 5]]), SPACE, "class id 5 is outside of the label space of 5"),
        (ids([[0, 1]]), Convention(), "label space has 0 classes"),
        (Segmentation(np.zeros((2, 3), np.int64), GOOD), SPACE, "int64"),  # type: ignore[arg-type]
        (Segmentation(np.zeros((1, 2, 3), np.uint16), GOOD), SPACE, "shape"),
        (Segmentation(np.zeros((2, 3), np.uint16), GOOD.astype(np.uint8)), SPACE, "bool"),  # type: ignore[arg-type]
        (Segmentation(np.zeros((2, 3), np.uint16), GOOD, 1.5), SPACE, "confidence 1.5"),
        (Segmentation(np.zeros((0, 3), np.uint16), GOOD[:0]), SPACE, "empty"),
    ],
)
def test_broken_segmentation_is_refused(label: Segmentation, convention: Convention, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        SEGMENTATION.check(label, convention)


@pytest.mark.parametrize(
    ("label", "convention", "message"),
    [
        (depth([[1, 0]]), METRIC, "depth of 0 m"),
        (depth([[1, np.inf]]), METRIC, "1 of 2 known"),
        (depth([[1, 2]], kind="affine-depth"), METRIC, "affine-depth depth along z, but its column is metric"),
        (depth([[1, 2]]), Convention(kind="metric", along="ray"), "along ray"),
        (depth([[1, 2]]), Convention(), "state the kind"),
        (depth([[1, 2]]), Convention(kind="metric"), "state the direction"),
        (Depth(np.ones((2, 3)), GOOD, "metric", "z"), METRIC, "float64"),  # type: ignore[arg-type]
    ],
)
def test_broken_depth_is_refused(label: Depth, convention: Convention, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        DEPTH.check(label, convention)


def test_broken_normals_are_refused() -> None:
    for label, message in (
        (normals(0, 0, 0), "6 of 6 known normals"),
        (normals(0, np.nan, 1), "6 of 6 known normals"),
        (Normals(np.zeros((4, 2, 3), np.float32), GOOD), "shape"),
    ):
        with pytest.raises(LabelError, match=message):
            NORMALS.check(label, Convention())
    with pytest.raises(LabelError, match="the same H×W"):
        Normals(np.zeros((3, 2, 2), np.float32), GOOD)


def test_broken_edges_are_refused() -> None:
    for label, message in (
        (edges([[0, 1.5, -2]]), r"2 of 3 known edge probabilities are not in \[0, 1\], such as \[1.5\]"),
        (edges([[0, np.nan]]), "1 of 2"),
        (Edges(np.zeros((1, 2, 3), np.float32), GOOD), "shape"),
        (Edges(np.zeros((2, 3), np.uint8), GOOD), "uint8"),  # type: ignore[arg-type]
    ):
        with pytest.raises(LabelError, match=message):
            EDGES.check(label, Convention())


def test_labels_of_other_sizes_do_not_collate() -> None:
    with pytest.raises(LabelError, match="batch"):
        DEPTH.collate([depth(np.ones((2, 3)))], (4, 6))


# Metrics ----------------------------------------------------------------------------------------------------


def test_miou_is_that_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    K = len(CLASSES)
    truths = RNG.integers(0, K, (4, 20, 30))
    guesses = np.where(RNG.random(truths.shape) < 0.6, truths, RNG.integers(0, K, truths.shape))
    valid = RNG.random(truths.shape) < 0.8
    metric = SEGMENTATION.metric(SPACE)
    got = metric.compute(
        sum(metric.statistics(ids(p), ids(t, v)) for p, t, v in zip(guesses, truths, valid, strict=True))
    )
    marked = torch.from_numpy(np.where(valid, truths, 255))
    theirs = {
        "miou": classification.MulticlassJaccardIndex(K, ignore_index=255),
        "accuracy": classification.MulticlassAccuracy(K, average="micro", ignore_index=255),
    }
    values = {name: metric(torch.from_numpy(guesses), marked).item() for name, metric in theirs.items()}
    differences = {name: abs(got[name] - value) for name, value in values.items()}
    record("Segmentation", "4 images, with unknown pixels", "torchmetrics", differences, 1e-6)


def test_miou_counts_classes_of_the_truth_and_missing_predictions_as_wrong() -> None:
    metric = SEGMENTATION.metric(SPACE)
    got = metric.compute(metric.statistics(ids([[0, 0, 3, 1]], [[1, 1, 1, 0]]), ids([[0, 1, 1, 1]])))
    assert got == pytest.approx({"miou": (1 / 2 + 0) / 2, "accuracy": 1 / 4})
    with pytest.raises(LabelError, match="class id 9"):
        metric.statistics(ids([[9]]), ids([[0]]))


def test_depth_measures_by_hand() -> None:
    metric = DEPTH.metric(METRIC)
    share = metric.statistics(depth([[2, 2.3, 5, 9]], [[True, True, True, False]]), depth([[2, 3, 4.2, 1]]))
    got = metric.compute(share)
    assert got["delta1"] == pytest.approx(2 / 3)
    assert got["absrel"] == pytest.approx((0 + 0.7 / 3 + 0.8 / 4.2) / 3)
    assert got["rmse"] == pytest.approx(np.sqrt((0.7**2 + 0.8**2) / 3))
    assert got["coverage"] == pytest.approx(3 / 4)


def test_affine_predictions_are_fitted_but_not_turned_over() -> None:
    metric, truth = DEPTH.metric(METRIC), depth(RNG.uniform(1, 6, (20, 30)))
    for kind, values in (("affine-depth", 3 * truth.values - 9), ("affine-disparity", 5 / truth.values - 2)):
        fitted = metric.compute(metric.statistics(depth(values, kind=kind), truth))  # type: ignore[arg-type]
        assert fitted["delta1"] == 1
        assert fitted["rmse"] == pytest.approx(0, abs=1e-5)
        turned = metric.compute(metric.statistics(depth(-values, kind=kind), truth))  # type: ignore[arg-type]
        assert turned["delta1"] < 0.5


def test_incomparable_depths_are_refused() -> None:
    metric, one = DEPTH.metric(METRIC), np.ones((2, 2), np.float32)
    with pytest.raises(LabelError, match="metric predictions cannot be compared with affine-disparity"):
        metric.statistics(depth(one), depth(one, kind="affine-disparity"))
    with pytest.raises(LabelError, match="along z cannot be compared with depth along ray"):
        metric.statistics(depth(one), Depth(one, one > 0, "metric", "ray"))
    with pytest.raises(LabelError, match=r"View\.whole"):
        metric.statistics(depth(one), depth(np.ones((3, 2))))


def test_angles_by_hand() -> None:
    metric, c, s = NORMALS.metric(Convention()), np.cos(np.radians(20)), np.sin(np.radians(20))
    share = metric.statistics(normals(s, 0, c), normals(0, 0, 1)) + metric.statistics(
        normals(0, 1, 0), normals(0, 0, 1)
    )
    got = metric.compute(share)
    assert got == pytest.approx({"mean_angle": 55, "within_11": 0, "within_22": 0.5, "within_30": 0.5, "coverage": 1})
    images = NORMALS.metrics(Convention())["images"]
    both = normals(s, 0, c), normals(0, 1, 0)
    vectors, known = np.concatenate([one.vectors for one in both], -1), np.concatenate([one.valid for one in both], -1)
    ahead = Normals(np.zeros_like(vectors) + np.array([0, 0, 1], np.float32)[:, None, None], known)
    twice = images.statistics(Normals(vectors, known), ahead) + images.statistics(normals(s, 0, c), normals(0, 0, 1))
    rmse = (np.sqrt((20**2 + 90**2) / 2) + 20) / 2
    assert images.compute(twice) == pytest.approx({"rmse": rmse, "within_11": 0, "within_22": 0.75, "within_30": 0.75})
    unknown = Normals(np.zeros_like(vectors), np.zeros_like(known))
    assert np.array_equal(images.statistics(unknown, ahead), np.zeros(5))


def scored(prediction: Edges, truth: Edges) -> dict[str, float]:
    metric = EDGES.metric(Convention())
    return metric.compute(metric.statistics(prediction, truth))


def line(column: int, value: float = 1.0, size: tuple[int, int] = (20, 30)) -> Edges:
    values = np.zeros(size, np.float32)
    values[:, column] = value
    return edges(values)


def test_average_precision_by_hand() -> None:
    """A line that is right with 0.9, one that is wrong with 0.6, and a true one that nobody saw."""
    truth = edges(line(5).values + line(25).values)
    prediction = edges(line(5, 0.9).values + line(15, 0.6).values)
    assert scored(prediction, truth) == pytest.approx({"ap": 0.5, "ods": 2 / 3})
    turned = edges(line(5, 0.6).values + line(15, 0.9).values)
    assert scored(turned, truth) == pytest.approx({"ap": 0.25, "ods": 0.5})
    four = edges(sum(line(column).values for column in (1, 5, 9, 13)))
    late = edges(line(20, 0.9).values + line(5, 0.8).values + line(9, 0.7).values)  # 0/1, 1/2, 2/3 are right
    assert scored(late, four)["ap"] == pytest.approx(1 / 2 * 2 / 3)
    assert scored(truth, truth) == {"ap": 1, "ods": 1}
    assert scored(edges(np.zeros((20, 30))), truth) == {"ap": 0, "ods": 0}
    assert np.isnan(list(scored(truth, edges(np.zeros((20, 30)))).values())).all()


def test_tolerance_is_a_pixel_or_a_share_of_the_diagonal() -> None:
    assert scored(line(6), line(5))["ap"] == 1
    assert scored(line(7), line(5))["ap"] == 0
    wide = (300, 400)
    assert TOLERANCE * 500 == 3.75
    assert scored(line(53, size=wide), line(50, size=wide))["ap"] == 1
    assert scored(line(54, size=wide), line(50, size=wide))["ap"] == 0


def test_a_band_is_thinned_to_its_ridge_whatever_its_direction() -> None:
    y, x = np.mgrid[:40, :40].astype(np.float32)
    for across in (x - 20, y - 20, (x - y) / np.sqrt(2), (x + y - 39) / np.sqrt(2), (2 * x - y - 20) / np.sqrt(5)):
        band = np.exp(-((across / 4) ** 2))
        ridge = (thin(band) > 0.1)[2:-2, 2:-2]
        assert (np.abs(across)[2:-2, 2:-2][ridge] < 1).all()
        assert 36 <= np.count_nonzero(ridge) <= 80
        assert scored(edges(0.8 * band), edges(np.abs(across) < 0.5))["ap"] > 0.95
    hard = edges(RNG.random((40, 40)) < 0.1)
    np.testing.assert_array_equal(thin(hard.values), hard.values)


def by_matching_one_to_one(prediction: Edges, truth: Edges) -> dict[str, float]:
    """The measures with a largest matching of predicted and true pixels at every threshold, as BSDS500 asks."""
    sparse = pytest.importorskip("scipy.sparse")
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    lines, true = thin(prediction.values), np.argwhere(thin(truth.values) >= 0.5)
    counts = []
    for threshold in THRESHOLDS:
        pixels = np.argwhere(lines >= threshold)
        near = np.linalg.norm(pixels[:, None] - true[None], axis=-1) <= max(1, TOLERANCE * np.hypot(*lines.shape))
        partner = csgraph.maximum_bipartite_matching(sparse.csr_matrix(near), perm_type="column")
        counts.append([len(pixels), (partner >= 0).sum(), (partner >= 0).sum()])
    return EDGES.metric(Convention()).compute(np.append(np.transpose(counts).ravel(), len(true)).astype(float))


def test_matching_by_dilation_is_near_matching_one_to_one() -> None:
    """On lines of the scene, moved and noisier and noisier: never lower, by 12 points at most, same order."""
    shown = seen((40, 50)).edges.astype(np.float32)
    truth = edges(thin(shown) > 0.7)
    raw = torch.from_numpy(shown).logit(eps=0.01).roll(1, 1)
    pairs = []
    for strength in (0.3, 1, 2, 4):
        wild = raw + strength * torch.randn(raw.shape, generator=torch.Generator().manual_seed(0))
        prediction = EDGES.predict(wild[None, None], Convention())[0]
        pairs.append((scored(prediction, truth), by_matching_one_to_one(prediction, truth)))
    for name in ("ap", "ods"):
        ours, theirs = np.transpose([(a[name], b[name]) for a, b in pairs])
        assert (ours >= theirs).all()
        assert (ours <= theirs + 0.12).all()
        assert (np.diff(ours) < -0.05).all()
        assert (np.diff(theirs) < -0.05).all()
    double = edges(line(4).values + line(6).values)
    assert scored(double, line(5))["ap"] == 1
    assert by_matching_one_to_one(double, line(5))["ap"] == pytest.approx(0.5)


def test_unknown_is_no_edge_that_was_missed() -> None:
    truth = edges(line(5).values + line(25).values, np.arange(30) < 20 * np.ones((20, 1)))
    assert scored(line(5), truth) == {"ap": 1, "ods": 1}
    unsaid = edges(line(5).values, np.arange(30) > 10 * np.ones((20, 1)))
    assert scored(unsaid, truth) == {"ap": 0, "ods": 0}


# Geometry, predictions, pictures ----------------------------------------------------------------------------


def test_a_small_map_shows_the_strongest_edge_and_a_large_one_the_nearest() -> None:
    values = RNG.random((6, 9)).astype(np.float32)
    small = EDGES.crop_resize(edges(values), View.whole((3, 3)))
    np.testing.assert_array_equal(small.values, values.reshape(3, 2, 3, 3).max((1, 3)))
    large = EDGES.crop_resize(edges(values), View.whole((18, 27)))
    np.testing.assert_array_equal(large.values, values.repeat(3, 0).repeat(3, 1))
    known = np.zeros((6, 9), bool)
    known[0] = known[2, 0] = known[2:4, 1] = known[3, 3:5] = known[5, 8] = True
    view = EDGES.crop_resize(edges(values, known), View.whole((3, 3)))
    np.testing.assert_array_equal(view.valid, [[True, True, True], [True, False, False], [False, False, False]])
    assert view.values[1, 0] == values[2:4, :3][known[2:4, :3]].max()


def test_normals_that_cancel_out_are_unknown() -> None:
    label = Normals(np.concatenate([normals(1, 0, 0).vectors, normals(-1, 0, 0).vectors], 2), np.ones((2, 6), bool))
    assert not NORMALS.crop_resize(label, View.whole((1, 1))).valid.any()


@pytest.mark.parametrize("along", ["z", "ray"])
def test_normals_from_depth_are_those_of_the_scene(along: Any) -> None:
    shown = seen((240, 320))
    values = (shown.z if along == "z" else shown.distance).astype(np.float32)
    found = normals_from_depth(Depth(values, shown.valid, "metric", along), SCENE.camera)
    gap = CASES["normals"][0].gap(found, CASES["normals"][0].label(shown))
    assert np.quantile(gap, 0.95) < 0.1
    assert np.mean(gap > 5) < 0.01, "normals across edges"
    assert not found.valid[~shown.valid].any()
    NORMALS.check(found, Convention())


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2), (3, 3)])
def test_a_map_that_is_all_border_has_no_normals(size: tuple[int, int]) -> None:
    found = normals_from_depth(depth(np.ones(size)), Camera(1, 1))
    NORMALS.check(found, Convention())
    assert (found.valid.shape, found.valid.any()) == (size, size == (3, 3))


def test_normals_need_metric_depth() -> None:
    with pytest.raises(LabelError, match="affine-depth"):
        normals_from_depth(depth(np.ones((4, 4)), kind="affine-depth"), Camera(1, 1))


def test_wild_outputs_still_give_labels() -> None:
    wild = torch.tensor([-1e9, 1e9]).view(1, 1, 1, 2)
    DEPTH.check(DEPTH.predict(wild, METRIC)[0], METRIC)
    NORMALS.check(NORMALS.predict(torch.zeros(1, 3, 2, 2), Convention())[0], Convention())
    EDGES.check(EDGES.predict(wild, Convention())[0], Convention())


def test_half_precision_is_learned_in_float32() -> None:
    for name, cases in CASES.items():
        target = tasks.get(name).collate([cases[0].label(seen((8, 9)))], (8, 9))
        right = tasks.get(name).oracle(target, cases[0].convention)
        assert tasks.get(name).loss(right.bfloat16(), target, cases[0].convention).dtype == torch.float32


def test_colors_are_distinct_and_near_is_warm() -> None:
    colors = palette(np.arange(200))
    assert len(np.unique(colors, axis=0)) == 200
    near, far = DEPTH.render(depth([[1, 9]]), METRIC)[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]
    np.testing.assert_array_equal(NORMALS.render(normals(0, 0, 1), Convention())[0, 0], [128, 128, 255])
