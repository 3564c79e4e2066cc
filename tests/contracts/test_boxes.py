"""What detection promises beyond the laws: COCO's own numbers, files that are refused, and that it can be learned."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scene import CASES, SCENE, THINGS, seen

from clipzoo import heads, plugins, tasks
from clipzoo.errors import LabelError
from clipzoo.tasks import Convention, rle
from clipzoo.tasks.detection import Detection, DetectionMetric
from clipzoo.types import View
from parity_records import record

TASK = tasks.get("detection")
SPACE = Convention(THINGS)
CASE = CASES["detection"][0]
Pair = tuple[Detection, Detection]


def boxes(*rows: tuple[float, ...], size: tuple[int, int] = (40, 60), ids: Any = 0, **fields: Any) -> Detection:
    """One class and full scores unless said otherwise."""
    N = len(rows)
    label = Detection(
        size,
        np.array(rows, np.float32).reshape(-1, 4),
        np.broadcast_to(np.uint16(ids), N).copy(),
        np.ones(N, np.float32),
        np.zeros(N, np.bool_),
    )
    return replace(label, **fields)


# Average precision ------------------------------------------------------------------------------------------


def random_pairs(rng: np.random.Generator, K: int) -> list[Pair]:
    """Predictions that are near the truth, with wrong classes, false alarms, crowds, ties and empty images."""
    pairs = []
    for _ in range(int(rng.integers(3, 30))):
        H, W = rng.integers(20, 70, 2).tolist()
        truth = scattered(rng, (H, W), K, int(rng.integers(0, 8)))
        truth = replace(truth, ignored=rng.random(len(truth.ids)) < 0.25)
        moved = truth.boxes + rng.normal(0, rng.choice([0, 1, 4]), truth.boxes.shape)
        ids = np.where(rng.random(len(moved)) < 0.8, truth.ids, rng.integers(0, K, len(moved))).astype(np.uint16)
        more = scattered(rng, (H, W), K, int(rng.integers(0, 6)))
        every = np.concatenate([np.clip(moved, 0, [W, H, W, H]).astype(np.float32), more.boxes])
        scores = rng.random(len(every)).round(int(rng.integers(1, 4))).astype(np.float32)
        made = Detection((H, W), every, np.concatenate([ids, more.ids]), scores, np.zeros(len(every), np.bool_))
        pairs.append((made.take((made.boxes[:, 2:] > made.boxes[:, :2]).all(1)), truth))
    return pairs


def scattered(rng: np.random.Generator, size: tuple[int, int], K: int, count: int) -> Detection:
    H, W = size
    low = rng.uniform(0, [W - 3, H - 3], (count, 2))
    made = np.concatenate([low, np.minimum(low + rng.uniform(2, 30, (count, 2)), [W, H])], 1)
    made = np.rint(made) if rng.random() < 0.4 else made
    return boxes(*made.tolist(), size=size, ids=rng.integers(0, K, count))


def coco(pairs: list[Pair], K: int, module: Literal["pycocotools", "faster_coco_eval"]) -> dict[str, float]:
    """The same measures by an evaluation that is not ours."""
    if module == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    truths, found, images = [], [], []
    for number, (prediction, truth) in enumerate(pairs, 1):
        images.append({"id": number, "height": truth.size[0], "width": truth.size[1]})
        for rows, label in ((truths, truth), (found, prediction)):
            for (x0, y0, x1, y1), kind, score, crowd in zip(
                label.boxes.tolist(), label.ids.tolist(), label.scores.tolist(), label.ignored.tolist(), strict=True
            ):
                w, h = x1 - x0, y1 - y0
                row = {"image_id": number, "category_id": kind, "bbox": [x0, y0, w, h], "score": score}
                rows.append({**row, "id": len(rows) + 1, "iscrowd": int(crowd), "area": w * h})
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {"info": {}, "images": images, "annotations": truths}
        gold.dataset["categories"] = [{"id": i, "name": str(i)} for i in range(K)]
        gold.createIndex()
        evaluation = Evaluation(gold, gold.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"ap50": float(evaluation.stats[1]), "ap": float(evaluation.stats[0])}


@pytest.mark.parametrize("module", ["pycocotools", "faster_coco_eval"])
def test_average_precision_is_that_of_coco(module: Any) -> None:
    seen_crowds, differences = 0, {"ap50": 0.0, "ap": 0.0}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        K = int(rng.integers(1, 5))
        pairs, metric = random_pairs(rng, K), DetectionMetric(K)
        rows = np.stack([metric.statistics(*pair) for pair in pairs])
        ours, theirs = metric.of(rows), coco(pairs, K, module)
        differences = {name: max(value, abs(ours[name] - theirs[name])) for name, value in differences.items()}
        seen_crowds += int(sum(truth.ignored.sum() for _, truth in pairs))
    assert seen_crowds > 50
    record("Detection", "12 sets of images, with crowds and ties", module.replace("_", "-"), differences, 1e-9)


def test_a_resample_is_the_set_that_it_names() -> None:
    rng = np.random.default_rng(3)
    pairs = random_pairs(rng, 3)
    pairs = [(replace(p, scores=rng.random(len(p.ids)).astype(np.float32)), t) for p, t in pairs]  # no ties
    metric = DetectionMetric(3)
    rows = np.stack([metric.statistics(*pair) for pair in pairs])
    weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), 4)
    drawn = metric.resampled(rows, weights.astype(np.float64))
    for i, times in enumerate(weights):
        repeated = [pair for pair, count in zip(pairs, times, strict=True) for _ in range(count)]
        theirs = coco(repeated, 3, "pycocotools")
        assert {name: values[i] for name, values in drawn.items()} == pytest.approx(theirs, abs=1e-9)


def test_average_precision_by_hand() -> None:
    """Two objects; a hit, a false alarm, the other hit at an overlap of 0.6: precision 1 to half, then 2/3."""
    truth = boxes((0, 0, 10, 10), (20, 20, 30, 30))
    scores = np.float32([0.9, 0.8, 0.7])
    found = boxes((0, 0, 10, 10), (40, 0, 50, 10), (20, 20, 30, 26), scores=scores)
    metric = DetectionMetric(1)
    got = metric.of(metric.statistics(found, truth)[None])
    upper = (51 * 1 + 50 * 2 / 3) / 101
    assert got == pytest.approx({"ap50": upper, "ap": (3 * upper + 7 * 51 / 101) / 10})


def test_only_the_hundred_best_count_and_ignored_guesses_are_none() -> None:
    truth = boxes((5, 5, 15, 15))
    alarms = [(20 + i / 8, 20, 30 + i / 8, 30) for i in range(100)]
    sure = np.append(np.full(100, 0.5), 0.4).astype(np.float32)
    metric, guess = DetectionMetric(1), boxes(*alarms, (5, 5, 15, 15), scores=sure)
    assert metric.of(metric.statistics(guess, truth)[None])["ap50"] == 0
    guess = replace(guess, ignored=np.arange(101) < 3)
    assert metric.of(metric.statistics(guess, truth)[None])["ap50"] == pytest.approx(1 / 98)


def test_incomparable_boxes_are_refused() -> None:
    metric = DetectionMetric(2)
    with pytest.raises(LabelError, match=r"View\.whole"):
        metric.statistics(boxes(), boxes(size=(41, 60)))
    with pytest.raises(LabelError, match="class id 2"):
        metric.statistics(boxes((0, 0, 2, 2), ids=2), boxes())


# Labels -----------------------------------------------------------------------------------------------------

GOOD = boxes((1, 2, 3, 4), (5, 6, 7, 8))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (boxes((0, 0, 2, 2), ids=3), "class id 3 is outside of the label space of 3"),
        (boxes((10, 10, 5, 20)), "1 of 1 boxes"),
        (boxes((10, 10, 20, 41)), "clip them"),
        (boxes((10, 10, np.nan, 20)), "1 of 1 boxes"),
        (replace(GOOD, scores=np.float32([0.5, 1.5])), "not logits"),
        (replace(GOOD, scores=np.ones(2)), "float64"),
        (replace(GOOD, ids=np.zeros(2, np.int64)), "int64"),
        (replace(GOOD, ignored=np.zeros(3, np.bool_)), r"\(3,\)"),
        (replace(GOOD, masks=("0",)), "1 masks for 2 boxes"),
        (replace(GOOD, masks=("0", "5")), "not a mask of 40×60"),
        (replace(GOOD, asked=np.array([0, 3], np.uint16)), "class id 3 is outside of the label space of 3"),
        (replace(GOOD, asked=np.array([0, 1])), "asked is int64"),
        (replace(GOOD, size=(0, 60)), "0×60"),
        (replace(GOOD, size=(10**5, 10**5)), "100000"),
    ],
)
def test_broken_detection_is_refused(label: Detection, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        TASK.check(label, SPACE)


def test_a_label_space_is_needed() -> None:
    with pytest.raises(LabelError, match="label space has 0"):
        TASK.check(boxes(), Convention())


FILE = json.loads(TASK.encode(GOOD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "depth"}, "'depth'"),
        ({"boxes": [[1, 2], [3, 4]]}, "reshape"),
        ({"boxes": [[1, 2, 3, 4], [5, 6, 7, 1e300]]}, "1 of 2 boxes"),
        ({"boxes": [[1, 2, 3, 4], [5, 6, 7, "x"]]}, "'x'"),
        ({"ids": [0, -1]}, "-1"),
        ({"ids": [0, 70000]}, "70000"),
        ({"ids": [0, 1.5]}, "float"),
        ({"scores": [1]}, "scores"),
        ({"scores": [1, float("nan")]}, "not logits"),
        ({"ignored": None}, "ignored"),
        ({"size": [40]}, "ValueError"),
        ({"size": [40, -60]}, "40×-60"),
        ({"masks": ["0"]}, "1 masks"),
        ({"asked": [-1]}, "-1"),
        ({"asked": 3}, "TypeError"),
    ],
)
def test_damaged_files_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        TASK.decode(json.dumps({**FILE, **change}).encode())


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[]", b"null", b'{"task": "detection"}', b"\xff\xfe"])
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(LabelError, match="cannot read"):
        TASK.decode(data)


def test_run_lengths_that_are_damaged_never_give_a_mask_of_another_size() -> None:
    rng = np.random.default_rng(0)
    text = rle.encode(SCENE.things[0].mask(seen((40, 60)).u, seen((40, 60)).v))
    refused = 0
    for _ in range(2000):
        codes = list(text[: rng.integers(0, len(text) + 1)])
        for place in rng.integers(0, len(codes), 2) if codes else ():
            codes[place] = chr(rng.integers(0, 300))
        try:
            assert rle.decode("".join(codes), (40, 60)).shape == (40, 60)
        except LabelError:
            refused += 1
    assert refused > 1500
    for text in ("", "o" * 5000 + "0", "oooooo?" * 40_000):  # nothing, a number without end, runs without end
        with pytest.raises(LabelError, match="not a mask"):
            rle.decode(text, (40, 60))


def test_confidence_is_the_mean_score_of_what_is_known() -> None:
    label = replace(GOOD, scores=np.float32([0.25, 0.75]), ignored=np.array([False, True]))
    assert label.confidence == 0.25
    assert boxes().confidence is None


# Geometry ---------------------------------------------------------------------------------------------------


def test_a_cut_off_box_is_ignored_below_a_quarter_and_dropped_outside() -> None:
    label = boxes((0, 0, 8, 8), (6, 0, 14, 8), (6.5, 0, 14.5, 8), (1, 10, 9, 20), size=(20, 20))
    seen_ = TASK.crop_resize(label, View((0.4, 0, 1, 1), (40, 24)))  # from x = 8 on, twice as large
    np.testing.assert_allclose(seen_.boxes, [[0, 0, 12, 16], [0, 0, 13, 16], [0, 20, 2, 40]])
    assert seen_.ignored.tolist() == [False, False, True]
    np.testing.assert_array_equal(seen_.valid[:, :2], np.broadcast_to(np.arange(40)[:, None] < 20, (40, 2)))


def test_masks_of_boxes_that_a_view_does_not_show_are_left_alone() -> None:
    masks = ("no mask", rle.encode(np.ones((20, 20), bool)))
    label = boxes((0, 0, 8, 8), (10, 0, 20, 20), size=(20, 20), masks=masks)
    (text,) = TASK.crop_resize(label, View((0.5, 0, 1, 1), (20, 10))).masks
    assert rle.decode(text, (20, 10)).all()


def test_training_needs_no_masks() -> None:
    label = boxes((0, 0, 8, 8), size=(20, 20), masks=("no mask",))
    taught = TASK.view(TASK.taught(label), View((0, 0, 1, 1), (10, 10), flip=True))
    assert taught.masks is None
    assert taught.boxes.tolist() == [[6, 0, 10, 4]]


# Learning ---------------------------------------------------------------------------------------------------


def test_the_head_learns_a_picture_by_heart() -> None:
    torch.manual_seed(0)
    label = CASE.label(seen((32, 48)))
    maps = [torch.randn(1, 8, 8, 12), torch.randn(1, 6, 4, 6)]
    head = heads.create(TASK.head, [8, 6], TASK.channels(SPACE), width=32, upscale=4)
    target, metric = TASK.collate([label], (32, 48)), DetectionMetric(3)
    adam = torch.optim.Adam(head.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        raw = head(maps)
        assert raw.shape == (1, 8, 32, 48)
        loss = TASK.loss(raw, target, SPACE)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    assert metric.of(metric.statistics(TASK.predict(head(maps), SPACE)[0], label)[None])["ap50"] > 0.9


def test_the_first_guess_of_the_head_is_that_nothing_is_there() -> None:
    torch.manual_seed(0)
    raw = heads.create("fcos", [8], 3 + 5)([torch.randn(2, 8, 7, 9)])
    assert raw.shape == (2, 8, 14, 18)
    assert raw[:, :3].sigmoid().mean().item() == pytest.approx(0.01, abs=0.01)


def test_outputs_of_every_kind_give_labels() -> None:
    for fill in (-1e9, 0.0, 1e9):
        found = TASK.predict(torch.full((2, 8, 5, 7), fill), SPACE)
        for label in found:
            TASK.check(label, SPACE)
            assert len(label.ids) <= 100


def test_a_class_that_was_not_asked_for_is_taught_where_it_is_and_nowhere_that_it_is_not() -> None:
    label = boxes((2, 2, 9, 9), (20, 20, 30, 30), ids=(0, 2))
    for asked, unknown in ((None, ()), ((0, 1), (2,)), ((1,), (0, 2)), ((), (0, 1, 2)), ((2, 0), (1,))):
        ids = None if asked is None else np.array(asked, np.uint16)
        labels = [replace(label, asked=ids), None, label]
        raw = torch.zeros((3, 8, 40, 60), requires_grad=True)
        target = TASK.collate(labels, (40, 60))
        TASK.loss(raw, target, SPACE).backward()
        taught = raw.grad[:, :3] != 0
        there = (target["ids"][:, None] == torch.arange(3).view(3, 1, 1)) & (target["distances"][:, :1] > 0)
        assert taught[2].all()
        assert not taught[1].any()
        for kind in range(3):
            assert torch.equal(taught[0, kind], there[0, kind] if kind in unknown else torch.ones_like(there[0, kind]))


def test_labels_of_all_classes_and_of_some_share_a_batch() -> None:
    narrow, wide = boxes((0, 0, 9, 9), asked=np.array([1], np.uint16)), boxes((0, 0, 9, 9))
    asked = TASK.collate([narrow, wide, None], (4, 6))["asked"].tolist()
    assert asked == [[False, False, True], [True] * 3, [True] * 3]
    assert TASK.collate([wide], (4, 6))["asked"].tolist() == [[True]]


def test_what_the_truth_was_not_asked_for_is_not_judged() -> None:
    metric, guess = DetectionMetric(2), boxes((0, 0, 9, 9), (20, 20, 30, 30), ids=(0, 1), scores=np.float32([0.5, 0.9]))
    truth = boxes((0, 0, 9, 9))
    for ids, right in ((None, 1.0), ((0,), 1.0), ((), 1.0)):
        asked = None if ids is None else np.array(ids, np.uint16)
        rows = metric.statistics(guess, replace(truth, asked=asked))[None]
        assert metric.of(rows)["ap50"] == right
        assert np.count_nonzero(rows[0, :400].reshape(100, 4)[:, 0]) == (2 if ids is None else 1)


def test_every_head_fits() -> None:
    for name in plugins.names("heads"):
        raw = heads.create(name, [8], TASK.channels(SPACE))([torch.randn(1, 8, 6, 6)])
        assert TASK.loss(raw, TASK.collate([CASE.label(seen((24, 24)))], raw.shape[-2:]), SPACE).isfinite()
