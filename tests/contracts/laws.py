"""The laws of a label: each takes a task and a case of it, and asserts. Faulty tasks must break one of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scene import CASES, SCENE, WHOLE, Boxes, Case, flipped, seen

from clipzoo import tasks
from clipzoo.errors import LabelError
from clipzoo.tasks._objects import STEPS
from clipzoo.tasks.base import Task
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import normals_from_depth
from clipzoo.types import View

Law = Callable[[Task[Any], Case], None]

SIZE = (60, 80)
LARGE = (180, 240)
CROPS = (WHOLE, (0.07, 0.13, 0.78, 0.91), (0.313, 0.021, 0.977, 0.602))
"""Crops without ties of sampling."""

VIEWS = [View(crop, (47, 61), flip) for crop in CROPS for flip in (False, True)]


# Comparing --------------------------------------------------------------------------------------------------


def facts(label: Any) -> dict[str, Any]:
    """The fields of a label that are no arrays, nor masks."""
    values = {f.name: getattr(label, f.name) for f in fields(label) if f.name != "masks"}
    return {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}


def assert_near(case: Case, a: Any, b: Any, tolerance: float, outliers: float = 0.0) -> None:
    """The gap of all but a share of ``outliers`` is within ``tolerance``; so many other values may differ."""
    assert facts(a) == facts(b)
    ours, theirs = case.arrays(a), case.arrays(b)
    for name, values in ours.items():
        assert (values.shape, values.dtype) == (theirs[name].shape, theirs[name].dtype)
        if name != case.field:
            assert np.count_nonzero(values != theirs[name]) <= outliers * values.size
    gap = case.gap(a, b)
    assert np.count_nonzero(gap > tolerance) <= outliers * gap.size
    if is_map(case):
        assert not ours[case.field][..., ~a.valid].any(), "something hides under the mask"


def assert_same(case: Case, a: Any, b: Any, tolerance: float = 0.0) -> None:
    """Equal arrays, to a relative ``tolerance`` in the values, and boxes to the step of their coordinates."""
    assert facts(a) == facts(b)
    ours, theirs = case.arrays(a), case.arrays(b)
    for name, values in ours.items():
        assert values.dtype == theirs[name].dtype
        slack = tolerance if name == case.field else 0
        step = slack if is_map(case) else np.sign(slack) / STEPS
        np.testing.assert_allclose(values, theirs[name], rtol=slack, atol=step)


def is_map(case: Case) -> bool:
    return not isinstance(case, Boxes)


def poisoned(case: Case, label: Any) -> Any:
    """The label made anew from values that are nonsense wherever they are not valid."""
    values = getattr(label, case.field)
    nonsense = values.dtype.type(np.nan if values.dtype.kind == "f" else 65535)
    return replace(label, **{case.field: np.where(label.valid, values, nonsense)})


def noise(like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def seed_raw(task: Task[Any], case: Case, images: int = 1) -> torch.Tensor:
    return full_raw(task, case, noise(torch.empty(images, task.channels(case.convention), *SIZE)))


def full_raw(task: Task[Any], case: Case, raw: torch.Tensor) -> torch.Tensor:
    """``raw`` with the channels that the case's loss adds, all 0.5."""
    extra = task.raw_channels(case.convention, case.loss) - raw.shape[1]
    return torch.cat([raw, torch.full((len(raw), extra, *raw.shape[2:]), 0.5)], 1)


def of_maps(law: Law) -> Law:
    """A law of labels that are maps; others need not keep it."""
    return wraps(law)(lambda task, case: law(task, case) if is_map(case) else None)


def of_boxes(law: Law) -> Law:
    """A law of labels that are boxes; others need not keep it."""
    return wraps(law)(lambda task, case: None if is_map(case) else law(task, case))


# Label ------------------------------------------------------------------------------------------------------


def codec_round_trips(task: Task[Any], case: Case) -> None:
    for crop in CROPS:
        label = case.label(seen(SIZE, crop))
        assert_near(case, task.decode(task.encode(label)), label, case.quantum)
    empty = case.blank(label)
    assert_near(case, task.decode(task.encode(empty)), empty, 0)


def codec_commutes_with_flip(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    stored, mirrored = (task.decode(task.encode(one)) for one in (label, task.hflip(label)))
    assert_same(case, task.hflip(stored), mirrored, 1e-6)


def foreign_files_are_refused(task: Task[Any], case: Case) -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    data = task.encode(case.label(seen(SIZE)))
    others = [CASES[name][0] for name in CASES if name != case.task]
    wrong = [tasks.get(other.task).encode(other.label(seen(SIZE))) for other in others]
    for file in (b"", b"no file", data[: len(data) // 2], buffer.getvalue(), *wrong):
        with pytest.raises(LabelError):
            task.decode(file)


def checks_pass(task: Task[Any], case: Case) -> None:
    label = case.label(seen(LARGE))
    for one in (label, task.decode(task.encode(label)), *(task.view(label, view) for view in VIEWS)):
        task.check(one, case.convention)
        assert task.valid_share(one) == pytest.approx(one.valid.mean())


# Geometry ---------------------------------------------------------------------------------------------------


def flip_twice_is_identity(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    assert_same(case, task.hflip(task.hflip(label)), label)


def flip_is_the_mirrored_scene(task: Task[Any], case: Case) -> None:
    for crop in CROPS:
        mirrored = case.label(seen(SIZE, flipped(crop), mirrored=True))
        assert_near(case, task.hflip(case.label(seen(SIZE, crop))), mirrored, 1e-4, outliers=1e-3)


def flip_and_crop_commute(task: Task[Any], case: Case) -> None:
    label = case.label(seen(LARGE))
    for crop in CROPS:
        one = task.hflip(task.crop_resize(label, View(crop, (47, 61))))
        other = task.crop_resize(task.hflip(label), View(flipped(crop), (47, 61)))
        assert_same(case, one, other, 1e-5)
        assert_same(case, task.view(label, View(crop, (47, 61), flip=True)), one)


@of_maps
def crop_on_pixel_borders_is_a_slice(task: Task[Any], case: Case) -> None:
    label, (H, W) = case.label(seen(SIZE)), SIZE
    for y0, x0, y1, x1 in ((0, 0, H, W), (6, 8, 42, 53), (17, 0, 60, 79)):
        cut = (..., slice(y0, y1), slice(x0, x1))
        whole = replace(label, **{case.field: getattr(label, case.field)[cut], "valid": label.valid[cut]})
        view = View((x0 / W, y0 / H, x1 / W, y1 / H), (y1 - y0, x1 - x0))
        assert_same(case, task.crop_resize(label, view), whole, 1e-5)


def views_show_the_scene(task: Task[Any], case: Case) -> None:
    """But for pixels on an edge, where a label averages two surfaces and a ray meets one."""
    label = case.label(seen(LARGE))
    for view in VIEWS:
        crop = flipped(view.crop) if view.flip else view.crop
        truth = case.label(seen(view.size, crop, mirrored=view.flip))
        assert_near(case, task.view(label, view), truth, case.sampling, outliers=0.1)


@of_maps
def holes_move_with_the_view(task: Task[Any], case: Case) -> None:
    label = case.label(seen(LARGE))
    thinnest = min(min(hole.rx, hole.ry) for hole in SCENE.holes)
    for view in VIEWS:
        crop = flipped(view.crop) if view.flip else view.crop
        reach = seen(view.size, crop, mirrored=view.flip).reach
        margin = 1.5 / min(*view.size, *LARGE) / thinnest
        valid = task.view(label, view).valid
        assert not valid[reach < 1 - margin].any(), "a hole was filled"
        assert valid[reach > 1 + margin].all(), "a hole grew, or stayed behind"


@of_maps
def constant_labels_stay_constant(task: Task[Any], case: Case) -> None:
    """Unknown pixels do not bleed into known ones."""
    label = case.label(seen(LARGE))
    values = getattr(label, case.field)
    everywhere = np.broadcast_to(values[..., -1:, -1:], values.shape)
    for crop in CROPS:
        for size in ((47, 61), (200, 260)):
            view = View(crop, size)
            got = task.crop_resize(replace(label, **{case.field: everywhere}), view)
            same = np.broadcast_to(values[..., -1:, -1:], (*values.shape[:-2], *size))
            assert_same(case, got, replace(got, **{case.field: same}), 1e-5)


@of_maps
def ids_are_not_blended(task: Task[Any], case: Case) -> None:
    label = case.label(seen(LARGE))
    ids = getattr(label, case.field)
    if ids.dtype.kind == "f":
        return
    two = replace(label, **{case.field: np.where(ids == 0, 0, 4).astype(ids.dtype)})
    for view in VIEWS:
        assert set(np.unique(getattr(task.view(two, view), case.field))) == {0, 4}


def thin_edges_survive_a_view(task: Task[Any], case: Case) -> None:
    """A line of one pixel is one of full strength, a pixel wide, at any size: averaging would wipe it out."""
    if case.task != "edges":
        return
    for at in (3, 77, 130):
        values = np.zeros(LARGE, np.float32)
        values[:, at] = 1
        for size in ((45, 60), (60, 80), (47, 61), (180, 240)):
            seen = task.crop_resize(Edges(values, np.ones(LARGE, bool)), View.whole(size)).values
            assert (np.count_nonzero(seen == 1, axis=1) == 1).all()
            assert (np.count_nonzero(seen, axis=1) == 1).all()


@of_maps
def nonsense_under_the_mask_stays_there(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    for view in VIEWS:
        assert_same(case, task.view(poisoned(case, label), view), task.view(label, view))


def normals_agree_with_depth(task: Task[Any], case: Case) -> None:
    if case.task not in ("depth", "normals") or case.convention.kind not in (None, "metric"):
        return
    near = case if case.task == "depth" else CASES["depth"][0]
    depth_task = task if case.task == "depth" else tasks.get("depth")
    normals_task = task if case.task == "normals" else tasks.get("normals")
    facing = CASES["normals"][0]
    depth, normals = near.label(seen(LARGE)), facing.label(seen(LARGE))
    for view in VIEWS:
        found = normals_from_depth(depth_task.view(depth, view), view.camera(SCENE.camera))
        gap = facing.gap(found, normals_task.view(normals, view))
        assert found.valid.mean() > 0.6
        assert np.median(gap) < 0.3
        assert np.quantile(gap, 0.8) < 1


# Learning ---------------------------------------------------------------------------------------------------


def loss_and_gradient(task: Task[Any], case: Case, raw: torch.Tensor, target: Any) -> tuple[float, torch.Tensor]:
    raw = raw.clone().requires_grad_()
    loss = task.loss(raw, target, case.convention, *filter(None, [case.loss]))
    assert loss.shape == ()
    assert loss.requires_grad, "the graph is detached"
    loss.backward()
    assert raw.grad is not None
    return loss.item(), raw.grad


def unknown_pixels_are_inert(task: Task[Any], case: Case) -> None:
    target, raw = task.collate([case.label(seen(SIZE))], SIZE), seed_raw(task, case)
    value, gradient = loss_and_gradient(task, case, raw, target)
    unknown = ~target["valid"][:, None]
    assert value > 0
    assert not gradient[unknown.expand_as(gradient)].any(), "unknown pixels are taught"
    nonsense = {
        name: torch.where(
            unknown.view(1, *(1,) * (x.ndim - 3), *SIZE), torch.nan if x.is_floating_point() else 60000, x
        )
        for name, x in target.items()
        if name != "valid" and x.ndim > 2  # what is said of pixels
    }
    poison = torch.where(unknown, torch.nan, raw)
    again, same = loss_and_gradient(task, case, poison, {**target, **nonsense})
    assert again == value
    assert torch.equal(same, gradient)


def nothing_valid_teaches_nothing(task: Task[Any], case: Case) -> None:
    target = task.collate([None, None], SIZE)
    raw = seed_raw(task, case, images=2)
    wild = raw.clone()
    wild[0, :, 0], wild[1, :, 1], wild[1, :, 2] = torch.nan, torch.inf, -torch.inf
    for one in (raw, wild, torch.zeros_like(raw)):
        value, gradient = loss_and_gradient(task, case, one, target)
        assert value == 0
        assert not gradient.any()  # NaN would be true


def missing_labels_are_masked(task: Task[Any], case: Case) -> None:
    label, raw = case.label(seen(SIZE)), seed_raw(task, case, images=2)
    target = task.collate([label, None], SIZE)
    assert target["valid"].shape == (2, *SIZE)
    assert target["valid"].dtype == torch.bool
    assert target["valid"][0].equal(torch.from_numpy(label.valid))
    assert not target["valid"][1].any()
    both, gradient = loss_and_gradient(task, case, raw, target)
    alone, _ = loss_and_gradient(task, case, raw[:1], task.collate([label], SIZE))
    assert both == pytest.approx(alone, rel=1e-5)
    assert not gradient[1].any()


def gradients_are_finite(task: Task[Any], case: Case) -> None:
    target = task.collate([case.label(seen(SIZE))], SIZE)
    right = task.oracle(target, case.convention)
    for raw in (right, torch.zeros_like(right), torch.full_like(right, 3.0)):
        value, gradient = loss_and_gradient(task, case, full_raw(task, case, raw), target)
        assert np.isfinite(value)
        assert gradient.isfinite().all()


def oracle_is_predicted_back(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    target = task.collate([label, None], SIZE)
    right = task.oracle(target, case.convention)
    assert right.shape == (2, task.channels(case.convention), *SIZE)
    known = target["valid"][:, None].expand_as(right)
    assert not right[~known].any()
    first, second = task.predict(right, case.convention)
    assert first.valid.all()
    assert second.valid.all()
    task.check(first, case.convention)
    assert case.error(first, label) < 1e-2


def oracle_is_the_best(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    target = task.collate([label], SIZE)
    right = task.oracle(target, case.convention)
    best, _ = loss_and_gradient(task, case, full_raw(task, case, right), target)
    for seed in range(12):
        worse = right + (0.3, 1.0, 5.0)[seed % 3] * noise(right, seed)
        assert best <= loss_and_gradient(task, case, full_raw(task, case, worse), target)[0]
        assert_no_better(task, case, worse, right, label)
    assert_no_better(task, case, right.flip(3), right, label, worse=True)


def assert_no_better(
    task: Task[Any], case: Case, raw: torch.Tensor, right: torch.Tensor, label: Any, worse: bool = False
) -> None:
    metric = task.metric(case.convention)
    found, best = (
        metric.of(metric.statistics(task.predict(one, case.convention)[0], label)[None]) for one in (raw, right)
    )
    assert list(best) == list(metric.measures)
    for name, measure in metric.measures.items():
        sign = 1 if measure.direction == "higher" else -1
        assert sign * best[name] >= sign * found[name] - 1e-9, f"{name} of noise is better than of the truth"
    headline = next(iter(metric.measures))
    assert not worse or best[headline] != found[headline]


# Judgment --------------------------------------------------------------------------------------------------


def guesses(task: Task[Any], case: Case) -> list[tuple[Any, Any]]:
    """(prediction, truth) of two unlike images of one height."""
    pairs = []
    for seed, (size, crop) in enumerate(((SIZE, WHOLE), ((SIZE[0], 31), CROPS[1]))):
        label = case.label(seen(size, crop))
        right = task.oracle(task.collate([label], size), case.convention)
        raw = right + (0.4, 4.0)[seed] * noise(right, seed)
        pairs.append((task.predict(raw, case.convention)[0], label))
    return pairs


def side_by_side(case: Case, a: Any, b: Any) -> Any:
    """One label of two, with something unknown between them: neighbors across the seam would be none."""
    joined = {}
    for name in (case.field, "valid"):
        p, q = getattr(a, name), getattr(b, name)
        joined[name] = np.concatenate([p, np.zeros_like(p[..., :4]), q], -1)
    return replace(a, **joined)


@of_maps
def merged_metric_is_the_whole(task: Task[Any], case: Case) -> None:
    metric, pairs = task.metric(case.convention), guesses(task, case)
    shares = np.stack([metric.statistics(*pair) for pair in pairs])
    if case.pooled == "pixels":
        (p, t), (q, u) = pairs
        whole = metric.of(metric.statistics(side_by_side(case, p, q), side_by_side(case, t, u))[None])
    else:
        each = [metric.of(share[None]) for share in shares]
        whole = {name: np.mean([one[name] for one in each]) for name in each[0]}
    assert metric.of(shares) == pytest.approx(whole)


def weights_are_repetitions(task: Task[Any], case: Case) -> None:
    metric = task.metric(case.convention)
    rows = np.stack([metric.statistics(*pair) for pair in guesses(task, case)])
    assert rows.dtype == np.float64
    weights = np.array([[1, 1], [2, 0], [0, 1], [1, 3]], np.float64)
    drawn = metric.resampled(rows, weights)
    assert list(drawn) == list(metric.measures)
    for i, times in enumerate(weights.astype(int)):
        repeated = metric.of(np.repeat(rows, times, 0))
        assert {name: values[i] for name, values in drawn.items()} == pytest.approx(repeated)
    with_nothing = metric.of(np.concatenate([rows, np.zeros_like(rows)]))
    assert with_nothing == pytest.approx(metric.of(rows))


def unknown_truth_is_not_judged(task: Task[Any], case: Case) -> None:
    metric, (prediction, truth) = task.metric(case.convention), guesses(task, case)[0]
    nothing = metric.statistics(prediction, case.blank(truth))
    assert np.isnan(list(metric.of(nothing[None]).values())).all()
    if not is_map(case):
        return
    assert not nothing.any()
    share = metric.statistics(prediction, truth)
    other = task.hflip(prediction)
    values = np.where(truth.valid, *(getattr(x, case.field) for x in (prediction, other)))
    changed = replace(prediction, **{case.field: values})
    np.testing.assert_array_equal(metric.statistics(changed, truth), share)


@of_maps
def pictures_show_what_is_known(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    for one in (label, case.blank(label)):
        picture = task.render(one, case.convention)
        assert (picture.shape, picture.dtype) == ((*SIZE, 3), np.uint8)
        np.testing.assert_array_equal(picture.any(-1), one.valid)


# Boxes ------------------------------------------------------------------------------------------------------


@of_boxes
def targets_are_of_the_smallest_box(task: Task[Any], case: Case) -> None:
    """Pixel by pixel, in grids that are not the label's."""
    label = case.label(seen(SIZE))
    for H, W in (SIZE, (21, 43)):
        target = {name: x[0].numpy() for name, x in task.collate([label], (H, W)).items()}
        sides = label.boxes / np.tile(SIZE[::-1], 2)
        for row, column in np.ndindex(H, W):
            x, y = (column + 0.5) / W, (row + 0.5) / H
            around = np.stack([x - sides[:, 0], y - sides[:, 1], sides[:, 2] - x, sides[:, 3] - y], 1)
            over = np.flatnonzero((around > 0).all(1))
            owner = min(over, key=lambda i: np.prod(sides[i, 2:] - sides[i, :2]), default=None)
            known = owner is None or not label.ignored[owner]
            right = around[owner] if owner is not None and known else np.zeros(4)
            assert target["valid"][row, column] == known
            np.testing.assert_allclose(target["distances"][:, row, column], right, atol=1e-6)
            assert not right.any() or target["ids"][row, column] == label.ids[owner]


@of_boxes
def predictions_do_not_depend_on_the_grid(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    for size in (SIZE, (90, 40)):
        found = task.predict(task.oracle(task.collate([label], size), case.convention), case.convention)[0]
        assert found.size == size
        assert case.error(found, task.crop_resize(label, View.whole(size))) < 1e-2


@of_boxes
def ignored_boxes_excuse_what_lies_in_them(task: Task[Any], case: Case) -> None:
    label, metric = case.label(seen(SIZE)), task.metric(case.convention)
    right = replace(label, scores=np.where(label.ignored, 0.1, label.scores).astype(np.float32), masks=None)
    for surest in (0.05, 1.0):
        guess = replace(right, ignored=np.zeros_like(right.ignored))
        guess.scores[right.ignored] = surest
        assert metric.of(metric.statistics(guess, label)[None]) == dict.fromkeys(metric.measures, 1)
        away = replace(guess, boxes=np.where(right.ignored[:, None], [2, 40, 5, 59], guess.boxes))
        assert (metric.of(metric.statistics(away, label)[None])["ap"] < 1) == (surest == 1)


@of_boxes
def pictures_show_boxes(task: Task[Any], case: Case) -> None:
    label = case.label(seen(SIZE))
    picture = task.render(label, case.convention)
    assert (picture.shape, picture.dtype) == ((*SIZE, 3), np.uint8)
    np.testing.assert_array_equal(task.render(task.hflip(label), case.convention), picture[:, ::-1])
    inside = np.zeros(SIZE, np.bool_)
    for (x0, y0, x1, y1), ignored in zip(label.boxes, label.ignored, strict=True):
        rows, columns = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        inside[rows, columns] = True
        corner = picture[rows, columns][0, 0]
        assert corner.any()
        assert (np.ptp(corner) == 0) == ignored, "ignored boxes are gray, others are not"
    assert not picture[~inside].any()
    assert (picture[30, 28].any()) == bool(label.masks), "the first object's mask"


LAWS: tuple[Law, ...] = (
    codec_round_trips,
    codec_commutes_with_flip,
    foreign_files_are_refused,
    checks_pass,
    flip_twice_is_identity,
    flip_is_the_mirrored_scene,
    flip_and_crop_commute,
    crop_on_pixel_borders_is_a_slice,
    views_show_the_scene,
    holes_move_with_the_view,
    constant_labels_stay_constant,
    ids_are_not_blended,
    thin_edges_survive_a_view,
    nonsense_under_the_mask_stays_there,
    normals_agree_with_depth,
    unknown_pixels_are_inert,
    nothing_valid_teaches_nothing,
    missing_labels_are_masked,
    gradients_are_finite,
    oracle_is_predicted_back,
    oracle_is_the_best,
    merged_metric_is_the_whole,
    weights_are_repetitions,
    unknown_truth_is_not_judged,
    pictures_show_what_is_known,
    targets_are_of_the_smallest_box,
    predictions_do_not_depend_on_the_grid,
    ignored_boxes_excuse_what_lies_in_them,
    pictures_show_boxes,
)
"""Every task of the folder keeps every law."""

LEARNING: tuple[Law, ...] = (
    unknown_pixels_are_inert,
    nothing_valid_teaches_nothing,
    missing_labels_are_masked,
    gradients_are_finite,
    oracle_is_the_best,
)
"""Those that a loss can break."""
