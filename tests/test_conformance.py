"""The kit that judges experts: right ones pass, and each deliberately wrong one is told what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from clipzoo import experts, tasks
from clipzoo.conformance import check, meaning
from clipzoo.conformance.scenes import scenes
from clipzoo.demo.render import conventions
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray, View
from oracles import Oracle, checked, pictures, thumb


@pytest.mark.parametrize(
    "task",
    ["depth", *(pytest.param(t, marks=pytest.mark.slow) for t in ("normals", "edges", "segmentation", "detection"))],
)
def test_the_truth_passes_every_line(task: str) -> None:
    report = checked(Oracle(task))
    assert {v.line: str(v) for v in report.lines if v.status != "pass"} == {}
    assert report.ok


@pytest.mark.parametrize("task", ["depth", "normals", "edges", "segmentation", "detection"])
@pytest.mark.parametrize("own", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_demo_experts_raise_no_alarm(task: str, own: bool) -> None:
    """On scenes of the kit, of which they have never seen the like, and on rooms; some lines may be unsure."""
    report = check(experts.create(f"demo:{task}"), [room.image for room in pictures()] if own else None, seconds=0.5)
    assert [str(v) for v in report.lines if v.status not in ("pass", "unsure")] == []
    assert sum(v.status == "unsure" for v in report.lines) <= 2, [str(v) for v in report.lines]


# Wrong experts ---------------------------------------------------------------------------------------------


def turned(*rows: Sequence[int]) -> Callable[[Normals], Normals]:
    matrix = np.array(rows, np.float32)
    return lambda n: Normals(np.tensordot(matrix, n.vectors, 1), n.valid)


def valued(change: Callable[[np.ndarray], np.ndarray], **said: Any) -> Callable[[Depth], Depth]:
    return lambda d: replace(d, values=change(d.values).astype(np.float32), **said)


AXES = [
    ("x points left", turned((-1, 0, 0), (0, 1, 0), (0, 0, 1))),
    ("y points down", turned((1, 0, 0), (0, -1, 0), (0, 0, 1))),
    ("z points away from the viewer", turned((1, 0, 0), (0, 1, 0), (0, 0, -1))),
    ("x points left and y points down and z points away from the viewer", turned((-1, 0, 0), (0, -1, 0), (0, 0, -1))),
    ("y points down and z points away from the viewer", turned((1, 0, 0), (0, -1, 0), (0, 0, -1))),
    ("y and z are swapped", turned((1, 0, 0), (0, 0, 1), (0, 1, 0))),
    ("x and y are swapped", turned((0, 1, 0), (1, 0, 0), (0, 0, 1))),
]


@pytest.mark.parametrize(("cause", "wrong"), AXES, ids=[cause for cause, _ in AXES])
def test_wrong_axes_of_normals_are_named(cause: str, wrong: Callable[[Normals], Normals]) -> None:
    report = checked(Oracle("normals", wrong))
    assert (report["normals' axes"].status, report["normals' axes"].cause) == ("fail", cause)
    assert not report.ok
    swapped = "x is in the second channel: x and y are swapped" if cause == "x and y are swapped" else ""
    assert report["mirror"].cause == swapped, "the mirror sees x in another channel, and no sign"
    assert (report["facing"].status == "fail") == ("z" in cause)


@cache
def answers(task: str) -> list[Any]:
    """What the demo's expert says of the kit's scenes."""
    expert = experts.create(f"demo:{task}")
    expert.load()
    return [expert.predict([scene.image])[0] for scene in scenes()]


@pytest.mark.parametrize(("cause", "wrong"), AXES, ids=[cause for cause, _ in AXES])
def test_wrong_axes_of_a_network_that_errs_are_named_too(cause: str, wrong: Callable[[Normals], Normals]) -> None:
    truths = [meaning.truth_of(scene) for scene in scenes()]
    assert meaning.axes("axes", answers("normals"), truths).status == "pass"
    verdict = meaning.axes("axes", [wrong(label) for label in answers("normals")], truths)
    assert (verdict.status, verdict.cause) == ("fail", cause)


def test_normals_that_are_mirrored_like_a_picture() -> None:
    class Flipped(Oracle):
        def truth(self, image: ImageArray) -> Any:
            nearest, flipped = divmod(int(np.square(self.thumbs - thumb(image)).sum((1, 2)).argmin()), 2)
            place, crop = self.seen[nearest]
            seen = tasks.get("normals").view(self.known[place][1], View(crop, image.shape[:2]))
            return replace(seen, vectors=seen.vectors[..., ::-1].copy()) if flipped else seen

    verdict = checked(Flipped("normals"))["mirror"]
    assert (verdict.status, verdict.cause) == ("fail", "mirroring negates none of the channels")


AFFINE, DISPARITY = Convention(kind="affine-depth", along="z"), Convention(kind="affine-disparity", along="z")
DEPTHS = [
    ("depth kind", "values are disparities, not depths", valued(lambda z: 1 / z), None),
    ("depth kind", "values are disparities, not depths",
     valued(lambda z: 3 / z - 1, kind="affine-depth"), AFFINE),
    ("depth kind", "values are negated", valued(lambda z: 2 - z, kind="affine-depth"), AFFINE),
    ("depth kind", "values are depths, not disparities", valued(lambda z: z, kind="affine-disparity"), DISPARITY),
    ("depth kind", "values are negated", valued(lambda z: -1 / z, kind="affine-disparity"), DISPARITY),
    ("depth along", "values are negated depths, not disparities",
     valued(lambda z: 9 - z, kind="affine-disparity"), DISPARITY),
    ("depth along", "values are negated disparities", valued(lambda z: 9 - 5 / z, kind="affine-depth"), AFFINE),
    ("depth scale", "values are millimeters", valued(lambda z: 1000 * z), None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "cause", "wrong", "convention"), DEPTHS)
def test_wrong_depth_is_named(line: str, cause: str, wrong: Any, convention: Convention | None) -> None:
    report = checked(Oracle("depth", wrong, convention))
    assert (report[line].status, report[line].cause) == ("fail", cause)
    assert [v.line for v in report.lines if v.status == "fail"] == [line]


def test_wrong_depth_of_a_network_that_errs_is_named_too() -> None:
    turned = [replace(d, values=1 / d.values) for d in answers("depth")]
    kind, *_ = meaning.depth(turned, scenes(), Convention(kind="metric", along="z"))
    assert (kind.status, kind.cause) == ("fail", "values are disparities, not depths")
    small = [replace(d, values=d.values * 1000) for d in answers("depth")]
    kind, along, scale = meaning.depth(small, scenes(), Convention(kind="metric", along="z"))
    assert (kind.status, along.status) == ("pass", "unsure"), "it errs by more than z and ray differ"
    assert (scale.status, scale.cause) == ("fail", "values are millimeters")


@pytest.mark.parametrize("declared", ["z", "ray"])
def test_depth_along_the_ray_is_told_from_depth_along_z(declared: str) -> None:
    expert = Oracle("depth", convention=Convention(kind="metric", along=declared))
    given = [s.depth * s.stretch if declared == "z" else s.depth for s in scenes()]
    expert.known = [
        (s.image, Depth(d, np.ones(d.shape, bool), "metric", declared)) for s, d in zip(scenes(), given, strict=True)
    ]
    verdict = checked(expert)["depth along"]
    assert verdict.status == "fail"
    assert verdict.cause.startswith(
        f"depth is measured along {'the line of sight' if declared == 'z' else 'the optical axis'}"
    )


def boxed(convert: Callable[[np.ndarray], np.ndarray], clip: bool = False) -> Callable[[Any], Any]:
    """Boxes [4,N] in another form; ``clip``: what is no box then is dropped, as a careless adapter does."""

    def wrong(label: Any) -> Any:
        H, W = label.size
        b = np.asarray(convert(label.boxes.T), np.float32).T
        if clip:
            b = np.clip(b, 0, [W, H, W, H])
        spoilt = replace(label, boxes=b)
        return spoilt.take((b[:, 2:] > b[:, :2]).all(1)) if clip else spoilt

    return wrong


BOXES = [
    ("sound", "boxes are (x, y, width, height)", boxed(lambda b: [b[0], b[1], b[2] - b[0], b[3] - b[1]])),
    ("mirror", "boxes are (y0, x0, y1, x1)", boxed(lambda b: b[[1, 0, 3, 2]])),
    ("sound", "boxes are (center x, center y, width, height)",
     boxed(lambda b: [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]])),
    ("mirror", "boxes are shares of the picture, not pixels", boxed(lambda b: b / 64)),
    ("mirror", "boxes are in a frame 0.5 times as large as their label says", boxed(lambda b: b / 2)),
    ("sound", "boxes are in a frame 2 times as large as their label says", boxed(lambda b: b * 2)),
]  # fmt: skip


@pytest.mark.parametrize(("line", "cause", "wrong"), BOXES, ids=[cause for _, cause, _ in BOXES])
def test_boxes_of_another_form_are_named(line: str, cause: str, wrong: Any) -> None:
    report = checked(Oracle("detection", wrong))
    assert (report[line].status, report[line].cause) == ("fail", cause), str(report[line])


def padded(label: Segmentation, centered: bool) -> Segmentation:
    """A label of the square that the picture was padded to."""
    (H, W), side = label.ids.shape, max(label.ids.shape)
    top, left = ((side - H) // 2, (side - W) // 2) if centered else (0, 0)
    ids = np.pad(label.ids, ((top, side - H - top), (left, side - W - left)))
    return Segmentation(ids, np.ones((side, side), bool))


def central(label: Segmentation) -> Segmentation:
    view = View.center(label.ids.shape, (min(label.ids.shape),) * 2)
    return tasks.get("segmentation").crop_resize(label, view)


CLASSES = conventions()["segmentation"].classes
MAPS = [
    ("frame", "labels cover padding below or right of the picture", lambda s: padded(s, False), None),
    ("frame", "labels cover padding on both sides of the picture", lambda s: padded(s, True), None),
    ("frame", "labels show only the picture's central square", central, None),
    ("mirror", "rows and columns of labels are exchanged",
     lambda s: Segmentation(s.ids.T.copy(), s.valid.T.copy()), None),
    ("sound", "ids start at 1", lambda s: replace(s, ids=(s.ids % len(CLASSES) + 1).astype(np.uint16)), None),
    ("sound", "void (255) is given as a class",
     lambda s: replace(s, ids=np.where(s.ids == 1, 255, s.ids).astype(np.uint16)), None),
    ("sound", "ids are outside of the label space", lambda s: s, Convention(classes=CLASSES[:5])),
    ("label space", "'void' is given as a class, though it means 'unknown'",
     lambda s: s, Convention(classes=("void", *CLASSES[1:]))),
    ("label space", "classes have no names", lambda s: s, Convention(tuple(f"LABEL_{i}" for i in range(len(CLASSES))))),
    ("label space", "pictures have one class or none", lambda s: replace(s, ids=0 * s.ids), None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "cause", "wrong", "convention"), MAPS, ids=[cause for _, cause, *_ in MAPS])
def test_wrong_maps_of_classes_are_named(line: str, cause: str, wrong: Any, convention: Convention | None) -> None:
    report = checked(Oracle("segmentation", wrong, convention))
    assert report[line].cause == cause, str(report[line])
    assert report[line].status in ("fail", "warn")
