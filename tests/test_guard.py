"""The guard: a loss of zero-shot recognition rolls the training back, ends it or is reported."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipzoo import recipe, runs
from clipzoo.errors import PlanError, RecipeError
from clipzoo.models import Student
from clipzoo.runs import verbs
from clipzoo.runs.before.dry_run import preview
from clipzoo.runs.results import trainings_of
from clipzoo.stopping import Interrupted
from clipzoo.training import Recognition, Training, checkpoint, early_end, read_log, train
from clipzoo.training.updates import optimizer
from test_pipeline import world  # noqa: F401
from test_training import STEPS, job, same_student


def guarded(dataset: Path, labels: Path, model: str, out: Path, **settings: Any) -> Training:
    """A training in which the measure is the distance to the start: every step away from it counts as a loss."""
    made = job(dataset, labels, model, out, guard={"every": 3, "max_loss": 0.04, **settings})
    first = {name: value.detach().clone() for name, value in made.student.clip.named_parameters()}

    def measure(student: Student) -> float:
        moved = max(
            float((value.detach() - first[name]).abs().max()) for name, value in student.clip.named_parameters()
        )
        return 1 - 10 * moved

    return replace(made, recognition=Recognition("zero_shot/top1", 8, measure))


def test_a_loss_rolls_back_to_the_last_good_state_at_a_lower_rate(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    said: list[str] = []
    train(replace(guarded(dataset, labels, tiny_clip, tmp_path, max_rollbacks=2), say=said.append))
    record = json.loads((tmp_path / "guard.json").read_text())
    assert record["start"] == 1
    first = record["events"][0]
    assert (first["event"], first["rate_factor"]) == ("rollback", 0.5)
    assert first["returned_to"] < first["step"] + 1
    assert any("Returned to step" in line for line in said)
    log = read_log(tmp_path)
    logged = [line["guard/event"] for line in log if "guard/event" in line]
    assert logged == [event["event"] for event in record["events"]]
    rates = {line["step"]: line["rate"] for line in log if "rate" in line}
    assert record["rate_factor"] == 0.25
    for step in range(record["events"][1]["returned_to"], STEPS):
        if step in rates:
            assert rates[step] == pytest.approx(0.25 * 1e-3 * optimizer.schedule(step, STEPS, 0.05))
    assert not (tmp_path / "good.pt").exists()


@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_stopped_and_resumed_it_ends_in_the_same_bits(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, stop_at: int
) -> None:
    """The process is stopped again and again, also after rollbacks."""
    train(guarded(dataset, labels, tiny_clip, tmp_path / "whole"))

    def stop(count: list[int]) -> Any:
        def on_step(step: int, values: object) -> None:
            count[0] += 1
            if count[0] == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        return on_step

    for _ in range(60):
        try:
            train(replace(guarded(dataset, labels, tiny_clip, tmp_path / "cut"), on_step=stop([0])))
            break
        except KeyboardInterrupt:
            continue
    assert same_student(tmp_path / "whole", tmp_path / "cut")
    events = [event["event"] for event in json.loads((tmp_path / "whole" / "guard.json").read_text())["events"]]
    assert events.count("rollback") == 3
    assert (tmp_path / "whole" / "guard.json").read_text() == (tmp_path / "cut" / "guard.json").read_text()
    kept = [
        [
            {n: v for n, v in line.items() if n not in ("images_per_second", "waiting")}
            for line in read_log(tmp_path / one)
        ]
        for one in ("whole", "cut")
    ]
    assert kept[0] == kept[1]


def test_stop_ends_with_the_last_good_student_and_warn_continues(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    plain = job(dataset, labels, tiny_clip, tmp_path / "plain")
    train(plain)
    warned = guarded(dataset, labels, tiny_clip, tmp_path / "warn", action="warn")
    train(warned)
    assert same_student(tmp_path / "plain", tmp_path / "warn")
    assert json.loads((tmp_path / "warn" / "guard.json").read_text())["alarms"] > 0
    ended = guarded(dataset, labels, tiny_clip, tmp_path / "stop", action="stop", max_loss=1e-6)
    train(ended)
    start = guarded(dataset, labels, tiny_clip, tmp_path / "start").student
    trained = Student.load(tmp_path / "stop" / "student")
    for (name, before), after in zip(start.state_dict().items(), trained.state_dict().values(), strict=True):
        assert (before == after).all(), name
    assert early_end(tmp_path / "stop") == (3, 0)
    assert early_end(tmp_path / "warn") is None
    assert early_end(tmp_path / "plain") is None


def test_a_guard_without_images_is_refused(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Training.recognition is missing"):
        train(job(dataset, labels, tiny_clip, tmp_path, guard={}))


def test_a_random_start_has_nothing_to_protect(tiny_clip: str) -> None:
    values = {"name": "x", "data": "d", "student": {"model": tiny_clip, "random": True}, "arms": ["clip-ft"]}
    with pytest.raises(RecipeError, match="no zero-shot recognition to protect"):
        recipe.parse({**values, "training": {"steps": 1, "guard": {}}})
    with pytest.raises(RecipeError, match=r"training\.guard\.evry: no such field; did you mean every"):
        recipe.parse({**values, "student": {"model": tiny_clip}, "training": {"steps": 1, "guard": {"evry": 1}}})


@pytest.mark.parametrize("loss", [0, 1])
def test_the_largest_loss_may_be_nothing_or_everything(loss: float, tiny_clip: str) -> None:
    values = {"name": "x", "data": "d", "student": {"model": tiny_clip}, "arms": ["clip-ft"]}
    values |= {
        "evaluation": {"probe": "p", "validation": "v"},
        "interpolation": {"max_loss": loss, "arms": ["clip-ft"]},
    }
    read = recipe.parse({**values, "training": {"steps": 1, "guard": {"max_loss": loss}}})
    assert read.training.guard
    assert read.interpolation
    assert read.training.guard.max_loss == read.interpolation.max_loss == loss


def test_a_run_is_guarded_on_validation_or_on_held_out_captions(
    world: recipe.Recipe,  # noqa: F811
    tmp_path: Path,
) -> None:
    values = world.model_dump(mode="json")
    values |= {"seeds": [0], "arms": ["clip-ft"]}
    values["training"] |= {"steps": 4, "learning_rates": [1e-3], "guard": {"every": 2, "samples": 16, "action": "warn"}}
    run = runs.Run(recipe.parse(values), tmp_path / "a")
    results = json.loads(verbs.evaluate(run).read_text())
    assert results["guard"]["clip-ft"]["0"]["measure"] == "zero_shot/top1"
    assert results["guard"]["clip-ft"]["0"]["samples"] == 16
    values["evaluation"] = {}
    run = runs.Run(recipe.parse(values), tmp_path / "b")
    verbs.train(run, "clip-ft", 0)
    record = json.loads((run.folder_of("clip-ft", 0) / "guard.json").read_text())
    assert (record["measure"], record["samples"]) == ("retrieval/r1", 9)
    assert len(run.trainings.plan) == 96 - 9
    assert trainings_of(run)["clip-ft"]["0"]["steps"] == 4
    end = {"step": 2, "event": "end", "returned_to": 2, "value": 0.0, "rate_factor": 1.0}
    (run.folder_of("clip-ft", 0) / "guard.json").write_text(json.dumps(record | {"events": [end]}))
    assert trainings_of(run)["clip-ft"]["0"]["steps"] == 3
    card = verbs.push(run, "a/b", arm="clip-ft", dry_run=True).card
    assert "ended the training after 3 of 4 steps: the trained student is that of step 2." in card


def test_samples_that_cannot_be_read_are_not_held_out(tiny_clip: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(40):
        (data / f"{i:02}.txt").write_text(f"number {i}")
        if i % 3:
            Image.new("RGB", (40, 40), (6 * i, 0, 0)).save(data / f"{i:02}.png")
        else:
            (data / f"{i:02}.png").write_bytes(b"damaged")
    values = {"name": "x", "data": str(data), "student": {"model": tiny_clip}, "arms": ["clip-ft"]}
    wanted = recipe.parse({**values, "training": {"epochs": 1, "batch_size": 6, "guard": {"samples": 20}}})
    run = runs.Run(wanted, tmp_path / "run")
    keys = set(run.trainings.plan.table["key"].to_pylist())
    assert len(keys) == 36
    assert keys >= {f"{i:02}" for i in range(0, 40, 3)}
    told = preview(wanted, tmp_path / "none")
    assert told.steps == run.steps() == 6
    assert "held out of training for the guard: 4" in dict(told.rows())["samples"]
    for i in range(40):
        (data / f"{i:02}.png").write_bytes(b"damaged")
    with pytest.raises(PlanError, match=f"none of those that it drew can be read; `clipzoo check {data}`"):
        _ = runs.Run(wanted, tmp_path / "none").trainings.plan


def test_the_guard_does_not_measure_on_test_images(
    world: recipe.Recipe,  # noqa: F811
    tmp_path: Path,
) -> None:
    values = world.model_dump(mode="json")
    values["training"]["guard"] = {"benchmark": values["evaluation"]["test"]}
    with pytest.raises(
        RecipeError, match=r"training\.guard\.benchmark is .* whose images are those of evaluation\.test"
    ):
        runs.Run(recipe.parse(values), tmp_path)


def judged(made: Training, values: list[float], signals: dict[int, int] | None = None) -> Training:
    """The training, whose measurements are these; after some of them a signal is sent."""
    calls: list[Student] = []

    def measure(student: Student) -> float:
        calls.append(student)
        if number := (signals or {}).get(len(calls)):
            os.kill(os.getpid(), number)
        return values[min(len(calls), len(values)) - 1]

    return replace(made, recognition=Recognition("zero_shot/top1", 8, measure))


def stopped_at(training: Training, last: int) -> None:
    def stop(step: int, values: object) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(replace(training, on_step=stop))


def test_a_signal_during_the_measurement_of_a_loss_stops_after_the_rollback(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = judged(guarded(dataset, labels, tiny_clip, tmp_path), [1.0, 1.0, 0.0, 1.0], {3: signal.SIGTERM})
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 3;"):
        train(made)
    assert checkpoint.step(tmp_path / checkpoint.NAME) == 3
    train(judged(guarded(dataset, labels, tiny_clip, tmp_path), [1.0]))
    assert [line["guard/returned_to"] for line in read_log(tmp_path) if "guard/event" in line] == [3]


@pytest.mark.parametrize("kept", [True, False])
def test_a_training_that_was_returned_to_a_kept_checkpoint_rolls_back_to_it(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, kept: bool
) -> None:
    """The state within the limit is that of a later step, or missing."""

    def make(values: list[float]) -> Training:
        made = guarded(dataset, labels, tiny_clip, tmp_path)
        settings = made.job.settings.model_copy(update={"keep_every": 4, "checkpoint_every": 4})
        return judged(replace(made, job=replace(made.job, settings=settings)), values)

    stopped_at(make([1.0]), 9)
    assert checkpoint.step(tmp_path / "good.pt") == 9
    shutil.copy(tmp_path / "checkpoint-000004.pt", tmp_path / checkpoint.NAME)
    if not kept:
        (tmp_path / "good.pt").unlink()
    said: list[str] = []
    train(replace(make([0.0, 1.0]), say=said.append))
    assert any("Returned to step 4;" in line for line in said)
