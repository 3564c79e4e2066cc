"""One picture that an expert cannot label: its score, the report, online training and the quick check go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import test_pipeline
from clipzoo import recipe, tasks
from clipzoo import runs as workspace
from clipzoo.benchmarks import Split
from clipzoo.conformance import check, quick_check
from clipzoo.data.online import OnlineColumn, Picture
from clipzoo.errors import DeviceError, SampleError
from clipzoo.evaluation import baselines
from clipzoo.evaluation.measure import Scored
from clipzoo.experts import Expert, ExpertCard, ExpertInput
from clipzoo.pages import showcase
from clipzoo.pages.takeaways import notices
from clipzoo.runs import verbs
from clipzoo.runs.results import expert_failures
from clipzoo.tasks import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray, View
from test_evaluation import CLASSES, PARTS
from test_pipeline import world

__all__ = ["world"]

Predict = Callable[[Sequence[ImageArray]], list[object]]
SIDE = 20


def floor(image: ImageArray) -> Segmentation:
    return Segmentation(np.zeros(image.shape[:2], np.uint16), np.ones(image.shape[:2], np.bool_))


def pictures(count: int = 4) -> Split:
    """Pictures of one size; the gray level is the number of the picture."""
    return replace(PARTS[2].select(range(count)), images=[np.full((SIDE, SIDE, 3), i, np.uint8) for i in range(count)])


def failing(error: Exception, bad: int = 2) -> Predict:
    def predict(images: Sequence[ImageArray]) -> list[object]:
        if any(image[0, 0, 0] == bad for image in images):
            raise error
        return [floor(image) for image in images]

    return predict


def answering(answer: object, bad: int = 2) -> Predict:
    return lambda images: [answer if image[0, 0, 0] == bad else floor(image) for image in images]


CASES = {
    "no mask here": failing(SampleError("no mask here")),
    "KeyError: 'boxes'": failing(KeyError("boxes")),
    "a NoneType is not a label of segmentation": answering(None),
    "a tuple is not a label of segmentation": answering((1, 2)),
    "class id 7 is outside": answering(Segmentation(np.full((9, 9), 7, np.uint16), np.ones((9, 9), np.bool_))),
}


# The score of an expert --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "predict"), CASES.items(), ids=[*CASES])
def test_a_picture_without_a_label_is_unknown_in_the_score(reason: str, predict: Predict, tmp_path: Path) -> None:
    part = pictures()
    scored = baselines.expert(predict, "segmentation", part, CLASSES, batch=3)
    assert list(scored.failures) == [part.keys[2]]
    assert reason in scored.failures[part.keys[2]]
    whole = baselines.expert(answering(floor(part.images[2])), "segmentation", part, CLASSES)
    truth = part.truth["segmentation"].labels[2]
    trues = np.bincount(truth.ids[truth.valid], minlength=3)
    assert scored.statistics[2].tolist() == [0, 0, 0, *trues, *trues], "wrong everywhere, as unknown pixels are"
    assert np.array_equal(np.delete(scored.statistics, 2, 0), np.delete(whole.statistics, 2, 0))
    scored.save(tmp_path / "scores.npz")
    whole.save(tmp_path / "whole.npz")
    assert Scored.load(tmp_path / "scores.npz").failures == scored.failures
    assert not Scored.load(tmp_path / "whole.npz").failures
    with np.load(tmp_path / "whole.npz") as data:
        assert "failures" not in str(data["about"]), "scores without failures have the bytes that they had"
    assert not scored.select(part.keys[:2]).failures


@pytest.mark.parametrize("name", tasks.PLUGINS.names())
def test_every_task_has_a_label_that_is_unknown(name: str) -> None:
    classes, kind = ("a", "b") if name in ("segmentation", "detection") else (), "metric" if name == "depth" else None
    convention = Convention(classes, kind, "z" if kind else None, channels=3 if name == "features" else 0)
    task = tasks.get(name)
    label = task.unknown((12, 16), convention)
    task.check(label, convention)
    assert task.valid_share(label) == 0
    assert not task.collate([label], (12, 16))["valid"].any()
    statistics = task.metric(convention).statistics(label, task.unknown((12, 16), convention))
    assert np.isfinite(statistics).all()


def test_memory_that_runs_out_halves_the_batch() -> None:
    sizes = []

    def predict(images: Sequence[ImageArray]) -> list[object]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [floor(image) for image in images]

    assert not baselines.expert(predict, "segmentation", pictures(8), CLASSES, batch=8).failures
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_a_lost_gpu_is_no_failure_of_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: object = None) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    predict = failing(RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(DeviceError, match=r"GPU of this process has failed.*Rerun the command"):
        baselines.expert(predict, "segmentation", pictures(), CLASSES)
    with pytest.raises(DeviceError, match=r"GPU of this process has failed.*Rerun the command"):
        online(lambda images: predict([np.full((1, 1, 3), 2, np.uint8)]), (8, 8))


def test_results_and_report_state_how_many_pictures_have_no_label() -> None:
    part = pictures()
    scored = baselines.expert(CASES["no mask here"], "segmentation", part, CLASSES)
    sound = baselines.expert(answering(floor(part.images[2])), "segmentation", part, CLASSES)
    assert not expert_failures({"test": {0: {"segmentation": sound}}, "heldout": {}})
    failures = expert_failures({"test": {0: {"segmentation": scored}}, "heldout": {0: {"segmentation": sound}}})
    first = f"{part.keys[2]}: no mask here"
    assert failures == {"test": {"segmentation": {"images": 1, "of": 4, "first": first}}}
    (sentence,) = notices({"arms": {}, "expert_failures": failures})
    assert sentence == (
        f"The expert of segmentation has no label for 1 of 4 images of test. They count as unknown. The first: {first}"
    )


class Made(Expert):
    """An expert of a function of images."""

    batch_size = 4

    def __init__(self, predict: Predict, task: str = "segmentation", convention: Convention = CLASSES) -> None:
        self.card = ExpertCard("test:made", task, convention)
        self.made = predict

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        return self.made(images)


@pytest.mark.parametrize(("reason", "predict"), CASES.items(), ids=[*CASES])
def test_the_picture_is_shown_without_its_label(reason: str, predict: Predict) -> None:
    part = pictures()
    sound = baselines.expert(answering(floor(part.images[2])), "segmentation", part, CLASSES)
    scores = {arm: {"segmentation": sound} for arm in ("clipzoo", "clip-ft")}
    seen = replace(part, truth={"segmentation": part.truth["segmentation"]}, captions=(("a",),) * 4)
    rows = showcase.showcase(seen, {}, scores, {"segmentation": Made(predict)}, count=4)
    panels = {row.key: row.expert is None for row in rows}
    assert panels[part.keys[2]], reason
    assert sum(panels.values()) == 1


@pytest.mark.slow
def test_a_run_is_compared_although_its_expert_cannot_label_a_test_picture(
    world: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = world.model_dump(mode="json")
    values["training"] |= {"steps": 3, "learning_rates": [1e-3]}
    values["evaluation"] |= {"pictures": 48}
    run = workspace.Run(recipe.parse(values | {"seeds": [0]}), tmp_path / "run")
    test = run.suite.dense["test"]
    bad, known = test.images[5], test_pipeline.SquareExpert.predict

    def predict(self: Expert, images: Sequence[ImageArray]) -> list[object]:
        if any(np.array_equal(image, bad) for image in images):
            raise SampleError("no mask here")
        return list(known(self, images))

    monkeypatch.setattr(test_pipeline.SquareExpert, "predict", predict)
    page = verbs.run(run).read_text()
    first = f"{test.keys[5]}: no mask here"
    results = json.loads((run.out / "results.json").read_text())
    assert results["expert_failures"] == {"test": {"segmentation": {"images": 1, "of": 48, "first": first}}}
    assert results["baselines"]["expert"]["segmentation/accuracy"]["mean"] > 0.9
    assert f"1 of 48 images of test. They count as unknown. The first: {first}" in page
    assert f'"Test image {test.keys[5]}' in page
    assert f"segmentation of {test.keys[5]}, clipzoo" in page
    assert f"segmentation of {test.keys[5]}, expert" not in page
    assert f"segmentation of {test.keys[4]}, expert" in page


# Online training ---------------------------------------------------------------------------------------------


def online(predict: Predict, *sizes: tuple[int, int]) -> Mapping[int, str]:
    column = OnlineColumn(Made(predict, "edges", Convention()))
    shown = [
        Picture(ExpertInput(str(i), np.full((*size, 3), i, np.uint8)), View.whole((32, 32)))
        for i, size in enumerate(sizes)
    ]
    target, reasons = column.targets(shown, (16, 16))
    known = target["valid"].flatten(1).any(1).tolist()
    assert known == [i not in reasons for i in range(len(sizes))]
    return reasons


def flat(image: ImageArray) -> Edges:
    return Edges(np.zeros(image.shape[:2], np.float32), np.ones(image.shape[:2], np.bool_))


def test_any_error_on_one_picture_is_its_reason() -> None:
    def narrow(images: Sequence[ImageArray]) -> list[object]:
        if images[0].shape[0] < 8:
            raise RuntimeError("Padding size should be less than the input")
        return [flat(image) for image in images]

    wrong = {1: None, 2: (1, 2), 3: Edges(np.full((40, 40), 3, np.float32), np.ones((40, 40), np.bool_))}

    def odd(images: Sequence[ImageArray]) -> list[object]:
        return [wrong.get(int(image[0, 0, 0]), flat(image)) for image in images]

    reasons = online(narrow, (40, 40), (3, 40))
    assert reasons == {1: "RuntimeError: Padding size should be less than the input"}
    reasons = online(odd, *[(40, 40)] * 5)
    assert list(reasons) == [1, 2, 3]
    assert [reasons[i].partition(":")[0] for i in (1, 2)] == [
        "a NoneType is not a label of edges", "a tuple is not a label of edges",
    ]  # fmt: skip


def test_online_memory_that_runs_out_halves_the_batches_of_the_rest_of_the_training() -> None:
    sizes = []

    def predict(images: Sequence[ImageArray]) -> list[object]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [flat(image) for image in images]

    column = OnlineColumn(Made(predict, "edges", Convention()))
    shown = [Picture(ExpertInput(str(i), np.zeros((8, 8, 3), np.uint8)), View.whole((8, 8))) for i in range(4)]
    for _ in range(2):
        target, reasons = column.targets(shown, (4, 4))
        assert not reasons
        assert target["valid"].all()
    assert sizes == [4, 2, 2, 2, 2]


# The quick check ---------------------------------------------------------------------------------------------


def ramps(count: int = 8) -> list[ImageArray]:
    """Pictures that are dark on the left."""
    noise = np.random.default_rng(0).integers(0, 60, (count, 48, 64, 3))
    noise[:, :, 32:] += 150
    return [*noise.astype(np.uint8)]


def bright_left(image: ImageArray) -> bool:
    half = max(1, image.shape[1] // 2)
    return bool(image[:, :half].mean() > image[:, half:].mean())


def halves(image: ImageArray) -> Segmentation:
    return Segmentation((image.mean(2) > 128).astype(np.uint16), np.ones(image.shape[:2], np.bool_))


def beyond(image: ImageArray) -> Detection:
    H, W = image.shape[:2]
    one = np.ones(1, np.float32)
    return Detection((H, W), np.array([[0, 0, 9 * W, H]], np.float32), np.zeros(1, np.uint16), one, one < 1)


@pytest.mark.parametrize("answer", [lambda image: None, lambda image: (1, 2), beyond], ids=["none", "tuple", "boxes"])
def test_an_odd_answer_for_changed_pictures_is_a_verdict(answer: Callable[[ImageArray], object]) -> None:
    def predict(images: Sequence[ImageArray]) -> list[object]:
        return [answer(image) if bright_left(image) else halves(image) for image in images]

    expert = Made(predict)
    verdicts = quick_check(expert, [ExpertInput("k", image) for image in ramps()])
    assert verdicts[-1].line == "answers"
    assert "a label breaks the contract of segmentation" in str(verdicts[-1])
    report = check(expert, ramps(), seconds=0.1)
    assert not report.ok
    assert "breaks the contract" in str(report.lines[-1])


def test_unsound_labels_of_the_pictures_themselves_still_have_their_own_line() -> None:
    verdicts = quick_check(Made(lambda images: [None for _ in images]), [ExpertInput("k", ramps()[0])])
    assert [(one.line, one.status) for one in verdicts] == [("sound", "fail")]
