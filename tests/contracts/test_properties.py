"""The laws of geometry and codecs on random arrays, sizes and crops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same, facts
from scene import CASES, Case, flipped

from clipzoo import tasks
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import View

EVERY = [case for cases in CASES.values() for case in cases]
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
    """Whether no output pixel's centre falls on a border of source pixels."""
    x0, y0, x1, y1 = view.box(size)
    for start, end, count in ((x0, x1, view.size[1]), (y0, y1, view.size[0])):
        centres = start + (np.arange(count) + 0.5) * (end - start) / count
        if (np.abs(centres - np.rint(centres)) < 1e-6).any():
            return False
    return True


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.task}-{case.convention.kind}")
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


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.task}-{case.convention.kind}")
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


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.task}-{case.convention.kind}")
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
