"""Conformance tests of how an expert runs, of comparisons with a partner, and of cases without a clear verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipzoo import conformance
from clipzoo.cli import app
from clipzoo.conformance import check, hypotheses, meaning, quick_check, running, spaces
from clipzoo.conformance.agreement import difference
from clipzoo.conformance.scenes import scenes
from clipzoo.errors import ClipzooError, DatasetError, ExpertError
from clipzoo.experts import Expert, ExpertInput
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.types import ImageArray, View
from making import image, make_dataset
from oracles import Oracle, checked, pictures, thumb

Labels = list[Any]


class Odd(Oracle):
    """An oracle of which ``answer`` takes (images, the truth of each) and gives what it answers."""

    def __init__(self, task: str, answer: Callable[[Sequence[ImageArray], Labels], Labels]) -> None:
        super().__init__(task)
        self.answer, self.asked = answer, 0

    def predict(self, images: Sequence[ImageArray]) -> Labels:
        self.asked += len(images)
        return self.answer(images, super().predict(images))


def scaled(label: Depth, factor: float) -> Depth:
    return replace(label, values=(label.values * factor).astype(np.float32))


def noisy(strength: float) -> Callable[[Sequence[ImageArray], Labels], Labels]:
    rng = np.random.default_rng()
    return lambda images, truth: [scaled(d, 1 + strength * rng.random()) for d in truth]


def by_batch(images: Sequence[ImageArray], truth: Labels) -> Labels:
    """As BatchNorm does that was left in training mode."""
    mean = np.mean([d.values.mean() for d in truth])
    return [scaled(d, 3 / mean) for d in truth]


def refusing(refused: Callable[[int, int], bool]) -> Callable[[Sequence[ImageArray], Labels], Labels]:
    def answer(images: Sequence[ImageArray], truth: Labels) -> Labels:
        if refused(*images[0].shape[:2]):
            raise RuntimeError("kernel larger than input")
        return truth

    return answer


RUNS = [
    ("determinism", "fail", "labels are random", noisy(0.5)),
    ("determinism", "warn", "labels differ by rounding", noisy(1e-3)),
    ("batch = single", "fail", "a picture's label depends on its batch", by_batch),
    ("sizes", "warn", "no label for pictures of 1×1, 5×7, 1×40, 40×1", refusing(lambda h, w: min(h, w) < 7)),
    ("sizes", "fail", "no label for pictures of 480×640", refusing(lambda h, w: (h, w) == (480, 640))),
    ("sound", "fail", "labels break the contract", lambda images, truth: [{"depth": d.values} for d in truth]),
    ("sound", "fail", "labels break the contract",
     lambda images, truth: [Depth(d.values.astype(np.float64), d.valid, "metric", "z") for d in truth]),
    ("sound", "warn", "the outputs are not finite, or all are masked",
     lambda images, truth: [replace(d, valid=np.zeros_like(d.valid)) for d in truth]),
    ("answers", "fail", "some pictures get no label", lambda images, truth: truth[1:]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "status", "cause", "answer"), RUNS, ids=[f"{r[0]}-{r[1]}-{i}" for i, r in enumerate(RUNS)]
)
def test_faults_of_prediction_are_reported(line: str, status: str, cause: str, answer: Any) -> None:
    report = checked(Odd("depth", answer), seconds=5)
    assert (report[line].status, report[line].cause) == (status, cause), str(report[line])
    assert report.ok == (status != "fail")
    with pytest.raises(ClipzooError, match="the report has no line 'color'; it has: loads, card"):
        report["color"]


def test_labels_that_ignore_mirroring_fail() -> None:
    class Deaf(Oracle):
        def truth(self, shown: ImageArray) -> Any:
            """That of the picture that is known, mirrored or not."""
            sides = np.square(self.thumbs - thumb(shown)).sum((1, 2)).reshape(-1, 2)
            return self.known[self.seen[int(sides.min(1).argmin())][0]][1]

    verdict = checked(Deaf("depth"))["mirror"]
    assert (verdict.status, verdict.cause) == ("fail", "labels do not follow a mirrored picture")


def test_inverted_edges_fail() -> None:
    report = checked(Oracle("edges", lambda e: Edges(1 - e.values, e.valid)))
    assert [v.cause for v in report.lines if v.status == "fail"] == [
        "probabilities are inverted: high where there is no edge"
    ]


def test_an_incomplete_card_is_reported() -> None:
    for change, status, cause in (
        ({"license": "unknown"}, "warn", "the license is unknown"),
        ({"revision": ""}, "warn", "the weights are not identified"),
        ({"convention": Convention(kind="metric")}, "fail", "the kind of depth is not stated"),
    ):
        expert = Oracle("depth")
        expert.card = replace(expert.card, **change)
        verdict = check(expert, quick=True)["card"]
        assert (verdict.status, verdict.cause) == (status, cause)


def test_an_expert_that_does_not_load_has_a_report_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Oracle, device: str = "cpu") -> None:
        raise FileNotFoundError("weights.onnx")

    monkeypatch.setattr(Oracle, "load", load)
    report = check(Oracle("depth"))
    assert [(v.line, v.status, v.seen) for v in report.lines] == [("loads", "fail", "FileNotFoundError: weights.onnx")]


# Short -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["depth", "detection"])
def test_a_quick_check_takes_49_predictions_at_most(task: str) -> None:
    expert = Odd(task, lambda images, truth: truth)
    found = quick_check(expert, [shown for shown, _ in expert.known])
    assert [(v.line, v.status) for v in found] == [
        (line, "pass") for line in ("sound", "determinism", "batch = single", "mirror", "frame")
    ]
    assert expert.asked <= 49
    assert quick_check(expert, []) == []


def test_a_quick_check_finds_faults_and_never_raises() -> None:
    rooms = [room.image for room in pictures()]
    swapped = Odd("detection", lambda i, truth: [replace(d, boxes=d.boxes[:, [1, 0, 3, 2]]) for d in truth])
    assert "boxes are (y0, x0, y1, x1)" in str(quick_check(swapped, rooms)[-2])
    assert quick_check(Odd("detection", refusing(lambda h, w: True)), rooms)[0].status == "fail"
    assert [v.line for v in quick_check(Odd("depth", noisy(0.5)), rooms)] == [
        "sound", "determinism", "mirror", "frame"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "spoilt"),
    [
        ("segmentation", lambda s: replace(s, valid=s.valid.astype(np.uint8) * 255)),
        ("segmentation", lambda s: replace(s, valid=s.valid.astype(np.uint8))),
        ("detection", lambda d: replace(d, ignored=d.ignored.astype(np.uint8))),
    ],
    ids=["255", "1", "boxes"],
)
def test_a_validity_of_a_wrong_dtype_is_reported(task: str, spoilt: Callable[[Any], Any]) -> None:
    found = quick_check(Odd(task, lambda images, truth: [spoilt(one) for one in truth]), [r.image for r in pictures()])
    assert [(v.line, v.status, v.cause) for v in found] == [("sound", "fail", "labels break the contract")]


def test_counts_of_one_are_singular() -> None:
    expert = Odd("depth", lambda images, truth: truth)
    shown = [ExpertInput("a", pictures()[0].image)]
    labels = expert.predict([shown[0].image])
    assert spaces.sound(expert, shown, labels).seen == "the contract of depth holds for 1 label"
    broken = spaces.sound(expert, shown, [{"depth": 1}])
    assert broken.seen.startswith("the contract does not hold for 1 of 1 label: ")
    assert running.determinism(expert, shown, labels).seen == "1 picture predicted twice: equal bytes"
    expert.answer = lambda images, truth: []
    with pytest.raises(ExpertError, match="it returned 0 labels for 1 image; it must return one each"):
        running.predict(expert, shown)
    outcome = hypotheses.Outcome((0.5,), 0, True, 1)
    assert hypotheses.to_verdict("frame", outcome, [], "score").seen.startswith("only 1 picture can be used; give ")


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ExpertError, match="there are no pictures to test on"):
        check(Oracle("edges"), images=[])


def test_experts_of_whole_samples_are_not_shown_changed_ones() -> None:
    class Keyed(Oracle):
        needs_sample = True

        def predict_inputs(self, inputs: Sequence[ExpertInput]) -> Labels:
            assert all(sample.key.startswith("room") for sample in inputs)
            return self.predict([sample.image for sample in inputs])

    shown = [ExpertInput(f"room{i}", room.image) for i, room in enumerate(pictures())]
    assert [v.line for v in quick_check(Keyed("edges"), shown)] == ["sound", "determinism", "batch = single"]
    report = check(Keyed("edges"), shown, seconds=0.5)
    assert report["other pictures"].status == "not applicable"
    assert report.ok


# Two experts, and nobody who knows ---------------------------------------------------------------------------


def flipped(n: Normals, signs: tuple[int, int, int]) -> Normals:
    return Normals(n.vectors * np.float32(signs)[:, None, None], n.valid)


def held(expert: Expert, partner: Expert) -> conformance.Verdict:
    return check(expert, [scene.image for scene in scenes()], partner=partner, seconds=0.1)["normals with depth"]


@pytest.mark.parametrize("kind", ["metric", "affine-depth", "affine-disparity"])
def test_normals_and_depth_are_compared(kind: str) -> None:
    def said(d: Depth) -> Depth:
        values = {"metric": d.values, "affine-depth": 0.1 * d.values - 1, "affine-disparity": 7 / d.values - 3}[kind]
        return replace(d, values=values.astype(np.float32), kind=kind)

    def turned(d: Depth) -> Depth:
        return replace(said(d), values=-said(d).values)

    depth = Oracle("depth", said, Convention(kind=kind, along="z"))
    assert held(Oracle("normals"), depth).status == "pass"
    down = held(Oracle("normals", lambda n: flipped(n, (1, -1, 1))), depth)
    assert (down.status, down.cause) == ("fail", "y points down")
    if kind == "metric":
        assert held(depth, Oracle("normals", lambda n: flipped(n, (1, -1, 1)))) == down, "either way round"
    else:
        either = held(Oracle("normals"), Oracle("depth", turned, Convention(kind=kind, along="z")))
        assert "or near and far of the depth are exchanged" in either.cause


def test_a_quick_check_refuses_a_partner() -> None:
    command = ["experts", "check", "demo:normals", "--with", "demo:depth", "--short", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ExpertError)
    assert "demo:depth is given with --short" in str(result.exception)


def test_a_partner_is_of_the_other_task_and_its_faults_are_not_the_experts() -> None:
    with pytest.raises(ExpertError, match="only depth and normals can be compared"):
        check(Oracle("edges"), partner=Oracle("depth"))
    report = check(Oracle("normals"), partner=Odd("depth", refusing(lambda h, w: True)), seconds=0.1)
    assert report["normals with depth"].status == "unsure"
    assert report.ok


def blurred(seed: int) -> np.ndarray:
    """A smooth random map in [0, 1], 144×192."""
    values = np.random.default_rng(seed).random((4, 6)).astype(np.float32)
    return np.array(Image.fromarray(values).resize((192, 144), Image.Resampling.BICUBIC))


def test_random_labels_get_no_verdict() -> None:
    """Smooth noise, on forty sets of pictures: no hypothesis may win."""
    truths = [meaning.truth_of(scene) for scene in scenes()]
    known, metric = np.ones((144, 192), bool), Convention(kind="metric", along="z")
    failed = 0
    for seed in range(0, 40 * 100, 100):
        maps = [np.stack([blurred(seed + 3 * i + k) - 0.5 for k in range(3)]) for i in range(len(truths))]
        vectors = [Normals(m / np.linalg.norm(m, axis=0), known) for m in maps]
        failed += meaning.axes("axes", vectors, truths).status in ("fail", "pass")
        depths = [Depth(np.clip(m[0] + 2, 0.1, None), known, "metric", "z") for m in maps]
        failed += meaning.depth(depths, scenes(), metric)[0].status in ("fail", "pass")
    assert failed <= 1
    flat = [Normals(np.stack([0 * known, 0 * known, known]).astype(np.float32), known)] * len(truths)
    assert meaning.axes("axes", flat, truths).status == "unsure", "it has said nothing of x and y"


def test_rounding_of_boxes_and_flat_maps_is_no_other_answer() -> None:
    corners = np.float32([[10 * i, 5, 10 * i + 8, 60] for i in range(10)])
    scores = np.linspace(0.95, 0.501, 10).astype(np.float32)
    label = Detection((64, 100), corners, np.zeros(10, np.uint16), scores, np.zeros(10, bool))
    crossing = replace(label, ignored=scores < 0.51)
    for rounded in (crossing, label.take(scores > 0.51)):
        assert max(difference("detection", label, rounded), difference("detection", rounded, label)) < 1e-6
    sure = replace(label, scores=np.ones(10, np.float32))
    for one, other in ((label, label.take(slice(1, 10))), (label, label.take([])), (sure, sure.take(slice(9)))):
        assert min(difference("detection", one, other), difference("detection", other, one)) > 0.02
    assert difference("detection", label, replace(label, boxes=corners + np.float32(2))) > 0.02
    flat = Depth(np.full((8, 8), 2, np.float32), np.ones((8, 8), bool), "metric", "z")
    assert difference("depth", flat, replace(flat, values=np.nextafter(flat.values, np.float32(3)))) < 0.005
    assert difference("depth", flat, scaled(flat, 1.001)) > 0.005


def test_unknown_normals_get_no_verdict() -> None:
    assert meaning.facing([Normals(np.zeros((3, 4, 4), np.float32), np.zeros((4, 4), bool))]).status == "unsure"


def test_a_comparison_is_decided_by_nearly_all_pictures() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(12)
    better = np.stack([base, base + 0.3 + 0.05 * rng.random(12)], 1)
    assert (hypotheses.compare(better, 0.1).best, hypotheses.compare(better, 0.1).clear) == (1, True)
    assert hypotheses.compare(better[:, ::-1], 0.1).clear
    assert not hypotheses.compare(better, 0.5).clear, "a margin that it does not reach"
    one = np.stack([base, base + np.eye(12)[0] * 9], 1)
    assert (hypotheses.compare(one, 0.1).best, hypotheses.compare(one, 0.1).clear) == (1, False), (
        "one picture decides nothing"
    )
    assert not hypotheses.compare(better[:5], 0.1).clear, "five pictures decide nothing"
    holes = np.concatenate([better, np.full((9, 2), np.nan)])
    assert hypotheses.compare(holes, 0.1).pictures == 12


def test_the_scenes_are_what_they_say() -> None:
    for scene in scenes(3):
        H, W = scene.depth.shape
        assert np.abs(np.linalg.norm(scene.normals, axis=0) - 1).max() < 1e-5
        middle = scene.stretch[H // 2 - 1 : H // 2 + 1, W // 2 - 1 : W // 2 + 1]
        assert middle.max() < 1.001 < scene.stretch[0, 0]
        assert (scene.depth > 0.1).all()
        assert np.isfinite(scene.depth).all()
        assert scene.image.std() > 10
    # normals are those of the surface that depth shows: compared where both are smooth
    truths = [Depth(s.depth, np.ones(s.depth.shape, bool), "metric", "z") for s in scenes()]
    normals = [Normals(s.normals, np.ones(s.depth.shape, bool)) for s in scenes()]
    assert (
        meaning.normals_with_depth(normals, truths, Convention(kind="metric", along="z"), (144, 192)).status == "pass"
    )
    assert meaning.facing(normals).status == "pass"


# Pictures and command line ---------------------------------------------------------------------------------


def test_pictures_are_those_of_a_dataset_or_of_a_bare_folder(tmp_path: Path) -> None:
    found = conformance.load_pictures(str(make_dataset(tmp_path / "shards", shards=3, count=30)), 16)
    assert len(found) == 16
    assert {int(sample.key) // 30 for sample in found} == {0, 1, 2}, "spread over the shards"
    assert found[0].caption == "picture 0"
    (tmp_path / "bare" / "deep").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(image(i)).save(tmp_path / "bare" / "deep" / f"{i}.png")
    (tmp_path / "bare" / "broken.png").write_bytes(b"no picture")
    assert len(conformance.load_pictures(str(tmp_path / "bare"))) == 3
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"no picture of .* can be read; `clipzoo check"):
        conformance.load_pictures(str(tmp_path / "none"))


def test_pictures_of_many_sizes_are_brought_to_one() -> None:
    sizes = [(20, 30), (3000, 2000), (64, 64), (64, 64), (1, 1)]
    shown = conformance.pictures.to_one_size([np.zeros((*size, 3), np.uint8) for size in sizes])
    assert {sample.image.shape for sample in shown} == {(64, 64, 3)}
    (large,) = conformance.pictures.to_one_size([View.whole((1500, 3000)).image(image(0))])
    assert large.image.shape == (320, 640, 3)


def test_the_command_lists_families_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = CliRunner().invoke(app, ["experts", "ls"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0
    for said in ("torchhub:", "demo:normals", "x right, y up, z toward the viewer", "docs/demo.md"):
        assert said in listed.output
    good = CliRunner().invoke(
        app, ["experts", "check", "demo:edges", "--short", "--device", "cpu"], env={"COLUMNS": "200"}
    )
    assert good.exit_code == 0, good.output
    assert "determinism" in good.output
    (tmp_path / "broken_expert.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    bad = CliRunner().invoke(
        app,
        ["experts", "check", "python:broken_expert:Upside", "--seconds", "0.1", "--device", "cpu"],
        env={"COLUMNS": "200"},
    )
    assert bad.exit_code == 1, bad.output
    assert "y points down" in bad.output


BROKEN = """
from dataclasses import replace
import numpy as np
from clipzoo.demo import expert as demo

class Upside(demo.DemoExpert):
    def __init__(self):
        super().__init__("normals")
    def predict(self, images):
        turn = np.float32([1, -1, 1])[:, None, None]
        return [replace(n, vectors=n.vectors * turn) for n in super().predict(images)]
"""


def test_pictures_are_spread_over_the_whole_folder(tmp_path: Path) -> None:
    for i in range(15):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i:02d}.png")
    drawn = [int(one.key[:2]) for one in conformance.load_pictures(str(tmp_path), 8)]
    assert drawn == [0, 1, 3, 5, 7, 9, 11, 13]
