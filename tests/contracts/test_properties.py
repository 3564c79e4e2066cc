"""The laws of geometry and codecs on random arrays, sizes and crops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same, facts
from pycocotools import mask as coco_mask
from scene import CASES, Boxes, Case, flipped

from clipzoo import tasks
from clipzoo.tasks import rle
from clipzoo.tasks._objects import STEPS
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.features import unit
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import View

MAPS = [case for cases in CASES.values() for case in cases if not isinstance(case, Boxes)]
BOXES = CASES["detection"][1]
BOUNDED = settings(max_examples=25, deadline=None, derandomize=True)

sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)


def random_label(case: Case, size: tuple[int, int], seed: int) -> Any:
    """Noise in every value that the convention allows; about a third unknown, or all, or nothing."""
    rng = np.random.default_rng(seed)
    valid = rng.random(size) < rng.choice([0.0, 0.7, 1.0])
    if case.task == "segmentation":
        return Segmentation(rng.integers(0, len(case.convention.classes), size).astype(np.uint16), valid)
    if case.task == "normals":
        vectors = rng.normal(size=(3, *size))
        return Normals((vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32), valid)
    if case.task == "features":
        return unit(rng.normal(size=(case.convention.channels, *size)).astype(np.float32), valid)
    if case.task == "edges":
        return Edges(rng.random(size, np.float32), valid)
    kind, along = case.convention.kind, case.convention.along
    values = np.exp(rng.normal(0, 3, size)) if kind == "metric" else rng.normal(0, 10 ** rng.uniform(-3, 3), size)
    assert kind is not None
    return Depth(values.astype(np.float32), valid, kind, along)


@st.composite
def views(draw: st.DrawFn) -> View:
    (x0, x1), (y0, y1) = (
        (start, start + draw(st.floats(0.05, 1)) * (1 - start))
        for start in (draw(st.floats(0, 0.9)), draw(st.floats(0, 0.9)))
    )
    return View((x0, y0, x1, y1), draw(sizes), draw(st.booleans()))


def off_ties(view: View, size: tuple[int, int]) -> bool:
    """Whether no output pixel's center falls on a border of source pixels."""
    x0, y0, x1, y1 = view.box(size)
    for start, end, count in ((x0, x1, view.size[1]), (y0, y1, view.size[0])):
        centers = start + (np.arange(count) + 0.5) * (end - start) / count
        if (np.abs(centers - np.rint(centers)) < 1e-6).any():
            return False
    return True


@pytest.mark.parametrize("case", MAPS, ids=lambda case: f"{case.task}-{case.convention.kind}")
@BOUNDED
@given(size=sizes, seed=seeds)
def test_codec(case: Case, size: tuple[int, int], seed: int) -> None:
    task, label = tasks.get(case.task), random_label(case, size, seed)
    task.check(label, case.convention)
    again = task.decode(task.encode(label))
    task.check(again, case.convention)
    assert facts(again) == facts(label)
    np.testing.assert_array_equal(again.valid, label.valid)
    values = getattr(label, case.field)[..., label.valid]
    span = float(np.ptp(values)) if values.size else 0.0
    affine = str(case.convention.kind).startswith("affine")
    assert (case.gap(again, label) <= (span / 1e5 if affine else 2 * case.quantum)).all()


@pytest.mark.parametrize("case", MAPS, ids=lambda case: f"{case.task}-{case.convention.kind}")
@BOUNDED
@given(size=sizes, seed=seeds, view=views())
def test_geometry(case: Case, size: tuple[int, int], seed: int, view: View) -> None:
    task, label = tasks.get(case.task), random_label(case, size, seed)
    out = task.view(label, view)
    task.check(out, case.convention)
    assert out.valid.shape == view.size
    if not label.valid.any():
        assert not out.valid.any()
    if label.valid.all() and case.task != "normals":  # random normals may cancel out
        assert out.valid.all()
    assert_same(case, task.hflip(task.hflip(out)), out)
    poison = np.where(label.valid, getattr(label, case.field), 1)
    assert_same(case, task.view(replace(label, **{case.field: poison}), view), out)


@pytest.mark.parametrize("case", MAPS, ids=lambda case: f"{case.task}-{case.convention.kind}")
@BOUNDED
@given(size=sizes, seed=seeds, view=views())
def test_flip_and_crop_commute(case: Case, size: tuple[int, int], seed: int, view: View) -> None:
    task, label = tasks.get(case.task), random_label(case, size, seed)
    mirrored = View(flipped(view.crop), view.size)
    one, other = task.hflip(task.crop_resize(label, view)), task.crop_resize(task.hflip(label), mirrored)
    if case.task == "segmentation":
        if off_ties(view, size):
            assert_same(case, one, other)
        return
    np.testing.assert_array_equal(one.valid, other.valid)
    if case.task == "depth":
        scale = np.abs(label.values).max(initial=1)
        np.testing.assert_allclose(one.values, other.values, atol=1e-5 * scale)


# Boxes ------------------------------------------------------------------------------------------------------


def random_boxes(size: tuple[int, int], seed: int) -> Detection:
    """Up to six boxes anywhere, on pixel borders or not, some of them ignored, with noise for masks."""
    rng = np.random.default_rng(seed)
    (H, W), N = size, int(rng.integers(0, 7))
    ends = np.sort(rng.random((N, 2, 2)), 1) * [W, H]
    low = np.clip(ends[:, 0] - 1 / STEPS, 0, None)
    boxes = np.concatenate([low, np.clip(ends[:, 1] + 1 / STEPS, None, [W, H])], 1)
    if rng.random() < 0.3:
        boxes = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1)
    masks = tuple(rle.encode(rng.random(size) < rng.choice([0, 0.1, 0.5, 1])) for _ in range(N))
    return Detection(
        size,
        boxes.astype(np.float32),
        rng.integers(0, len(BOXES.convention.classes), N).astype(np.uint16),
        rng.random(N).astype(np.float32),
        rng.random(N) < 0.3,
        masks if rng.random() < 0.7 else None,
    )


@BOUNDED
@given(size=sizes, seed=seeds)
def test_codec_of_boxes(size: tuple[int, int], seed: int) -> None:
    task, label = tasks.get("detection"), random_boxes(size, seed)
    task.check(label, BOXES.convention)
    again = task.decode(task.encode(label))
    assert_same(BOXES, again, label)
    assert again.masks == label.masks
    assert task.encode(again) == task.encode(label)


@BOUNDED
@given(size=sizes, seed=seeds, view=views())
def test_geometry_of_boxes(size: tuple[int, int], seed: int, view: View) -> None:
    task, label = tasks.get("detection"), random_boxes(size, seed)
    out = task.view(label, view)
    task.check(out, BOXES.convention)
    assert out.size == out.valid.shape == view.size
    assert_same(BOXES, task.hflip(task.hflip(out)), out)
    whole = task.crop_resize(label, View.whole((2 * size[0], 4 * size[1])))
    np.testing.assert_array_equal(whole.boxes, label.boxes * [4, 2, 4, 2])
    np.testing.assert_array_equal(whole.ignored, label.ignored)
    mirrored = View(flipped(view.crop), view.size)
    one, other = task.hflip(task.crop_resize(label, view)), task.crop_resize(task.hflip(label), mirrored)
    assert len(one.ids) == len(other.ids)
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.ignored, other.ignored)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1 / STEPS)
    if off_ties(view, size):
        assert one.masks == other.masks


@BOUNDED
@given(size=sizes, seed=seeds, target=sizes)
def test_targets_of_boxes_mirror(size: tuple[int, int], seed: int, target: tuple[int, int]) -> None:
    """Dense targets of the mirrored label are the mirrored targets, left and right exchanged."""
    task, label = tasks.get("detection"), random_boxes(size, seed)
    one, other = task.collate([label], target), task.collate([task.hflip(label)], target)
    same = one["distances"].flip(3)[:, [2, 1, 0, 3]]
    close = (same - other["distances"]).abs().amax(1) < 1e-5
    assert close.float().mean() > 0.98  # a pixel's center may fall on a side, to a rounding
    assert (one["valid"].flip(2) == other["valid"])[close].all()
    assert (one["ids"].flip(2) == other["ids"])[close].all()


@BOUNDED
@given(size=sizes, seed=seeds)
def test_run_lengths_are_those_of_pycocotools(size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < rng.choice([0, 0.01, 0.5, 0.99, 1])
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert rle.encode(mask) == theirs
    np.testing.assert_array_equal(rle.decode(theirs, size), mask)
