"""Numbers belong to the students, labels and settings that they were measured with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipzoo import encoders, recipe, runs
from clipzoo.benchmarks import read_split
from clipzoo.errors import CheckpointError, ClipzooError, RecipeError
from clipzoo.evaluation import suite
from clipzoo.evaluation.arms import comparison
from clipzoo.evaluation.base import preprocessing_of
from clipzoo.evaluation.measure import Scored, metric_of
from clipzoo.experts import ExpertCard
from clipzoo.progress import Silent
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.runs import verbs
from clipzoo.runs.ablation import advise
from clipzoo.runs.models import Comparison, measure
from clipzoo.runs.results import check_current
from clipzoo.runs.trainings import WEIGHTS
from clipzoo.tasks import Convention
from test_encoders import clip, models
from test_named_arms import asked
from test_named_arms import two as two_columns
from test_pipeline import SquareExpert, changed, world, write_benchmark

__all__ = ["asked", "clip", "models", "two", "world"]
two = two_columns


class NamesExpert(SquareExpert):
    """Labels of classes that no benchmark has."""

    card = ExpertCard("python:test_current_results:NamesExpert", "segmentation", Convention(("sky", "earth")))


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def short(world: recipe.Recipe) -> recipe.Recipe:
    return changed(
        world, seeds=[0], arms=["clip", "clip-ft"], columns=[], evaluation={"pictures": 0},
        training={"steps": 2, "learning_rates": [1e-3]},
    )  # fmt: skip


def retrained(folder: Path) -> None:
    """Change the weights of a student, as another training would."""
    path = folder / "student" / WEIGHTS
    weights = load_file(path)
    name = next(name for name, value in weights.items() if value.ndim > 1)
    save_file(weights | {name: weights[name] + 0.1}, path)


# Results of a run ----------------------------------------------------------------------------------------


def test_numbers_of_another_student_are_not_reported(short: recipe.Recipe, tmp_path: Path) -> None:
    run = runs.Run(short, tmp_path / "run")
    verbs.run(run)
    before = json.loads(run.folder.results.read_text())
    assert list(before["students"]) == ["clip-ft"]
    _, sentence = verbs.export(run, arm="clip-ft", out=tmp_path / "first")
    assert sentence
    retrained(run.folder.training("clip-ft", 0))
    heard = Listener()
    again = runs.Run(short, tmp_path / "run", heard)
    with pytest.raises(CheckpointError, match=r"numbers of other students: those of clip-ft, seed 0 .*clipzoo eval"):
        verbs.report(again)
    verbs.export(again, arm="clip-ft", out=tmp_path / "second")
    assert any("the model card has no results" in text for text in heard.said)
    first, second = ((tmp_path / name / "README.md").read_text() for name in ("first", "second"))
    assert "## Results" in first
    assert "## Results" not in second
    verbs.run(again)
    assert json.loads(run.folder.results.read_text())["students"] != before["students"]
    (run.folder.training("clip-ft", 0) / "student" / WEIGHTS).unlink()  # to save space: nothing else was trained
    check_current(again, json.loads(run.folder.results.read_text()))


def test_results_of_another_benchmark_are_removed_with_its_scores(short: recipe.Recipe, tmp_path: Path) -> None:
    verbs.run(runs.Run(short, tmp_path / "run"))
    other = runs.Run(changed(short, evaluation={"test": short.evaluation.validation, "validation": None,
                                                "probe": None}), tmp_path / "run")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"measures differently now: run `clipzoo eval"):
        verbs.report(other)
    with pytest.raises(CheckpointError, match=r"has no results\.json: run `clipzoo eval"):
        verbs.report(other)


def test_results_without_students_count_as_current(short: recipe.Recipe, tmp_path: Path) -> None:
    run = runs.Run(short, tmp_path / "run")
    verbs.evaluate(run)
    old = json.loads(run.folder.results.read_text())
    del old["students"]
    run.folder.results.write_text(json.dumps(old))
    retrained(run.folder.training("clip-ft", 0))
    assert verbs.report(run).exists()


@pytest.mark.slow
def test_a_named_arm_of_old_labels_is_not_compared_with_new_ones(asked: recipe.Recipe, tmp_path: Path) -> None:
    verbs.evaluate(runs.Run(asked, tmp_path / "run"))
    (folder,) = (tmp_path / "run" / "ablations").iterdir()
    record = json.loads((folder / "plan.json").read_text())
    others = {name: state | {"tars": "0" * 16} for name, state in record.items() if "tars" in state}
    (folder / "plan.json").write_text(json.dumps(record | others))  # as if its labels had been others
    with pytest.raises(CheckpointError, match=r"trained on other data or labels \(segmentation/.*\) .* Delete "):
        verbs.evaluate(runs.Run(asked, tmp_path / "run"))
    for state in record.values():  # plans of earlier versions
        state.pop("tars", None)
    (folder / "plan.json").write_text(json.dumps(record))
    verbs.evaluate(runs.Run(asked, tmp_path / "run"))


def test_scores_of_shared_arms_know_their_layers_and_resolution(short: recipe.Recipe, tmp_path: Path) -> None:
    alone = changed(short, arms=["clip"])
    run = runs.Run(alone, tmp_path / "run")
    run.scores("clip", 0)
    record = tmp_path / "run" / "scores" / "clip" / "0" / "done"
    known = json.loads(record.read_text())
    assert known["identity"]["label_stride"] == str(alone.evaluation.label_stride)
    record.write_text(json.dumps(known | {"identity": known["identity"] | {"label_stride": "7"}}))
    heard = Listener()
    runs.Run(alone, tmp_path / "run", heard).scores("clip", 0)
    assert any("measured again: label_stride has changed" in text for text in heard.said)
    for name in ("layers", "label_stride"):  # scores of earlier versions
        del known["identity"][name]
    record.write_text(json.dumps(known))
    heard = Listener()
    runs.Run(alone, tmp_path / "run", heard).scores("clip", 0)
    assert not heard.said


def test_pseudo_labels_of_a_row_are_those_that_training_uses(world: recipe.Recipe, tmp_path: Path) -> None:
    """The filter of a column that cannot be compared with the truth is not that of the column that can."""
    squares = {"expert": "python:test_pipeline:SquareExpert", "where": "bytes < 0"}
    names = {"expert": "python:test_current_results:NamesExpert"}
    settings = {"steps": 2, "learning_rates": [1e-3]}
    run = runs.Run(changed(world, arms=["clip", "clip-ft"], columns=[squares, names], training=settings), tmp_path)
    verbs.label(run)
    with pytest.raises(ClipzooError, match="SquareExpert meets its condition where: 'bytes < 0'"):
        run.measured.pseudo_labels()


# Learning rates ------------------------------------------------------------------------------------------


def without_classes(folder: Path, seed: int, captions: bool = True) -> str:
    """Write a benchmark without classes and true labels, and with or without captions."""
    write_benchmark(folder, 24, seed)
    reader = open_dataset(str(folder / "images"))
    read = [reader.read(entry) for entry in reader.index("0")]
    members = [(one.key, {"png": one.image} | ({"txt": one.caption.encode()} if captions else {})) for one in read]
    write_shard(folder / "images" / "0.tar", members)
    (folder / "images" / "classnames.txt").unlink()
    shutil.rmtree(folder / "truth")
    return str(folder)


def test_a_rate_is_chosen_by_retrieval_where_there_are_no_classes(short: recipe.Recipe, tmp_path: Path) -> None:
    places = {split: without_classes(tmp_path / split, seed) for seed, split in enumerate(("validation", "test"))}
    settings = {"probe": None, **places}
    several = changed(short, evaluation=settings, training={"learning_rates": [1e-9, 1e-3], "search_steps": 2})
    run = runs.Run(several, tmp_path / "run")
    run.rate("clip-ft")
    trials = run.trainings.trials("clip-ft")
    assert all(trial["criterion"] == trial["retrieval/r5"] > 0 for trial in trials.values())
    nothing = without_classes(tmp_path / "nothing", 7, captions=False)  # trials of an earlier version are kept
    former = changed(several, evaluation={"validation": nothing})
    (tmp_path / "former" / "arms" / "clip-ft").mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "arms" / "clip-ft" / "rates.json", tmp_path / "former" / "arms" / "clip-ft")
    assert runs.Run(former, tmp_path / "former").rate("clip-ft") in (1e-9, 1e-3)


def test_a_rate_that_nothing_can_choose_is_refused_before_any_training(short: recipe.Recipe, tmp_path: Path) -> None:
    place = without_classes(tmp_path / "validation", 5, captions=False)
    settings = {"probe": None, "validation": place, "test": without_classes(tmp_path / "test", 6)}
    several = changed(short, evaluation=settings, training={"learning_rates": [1e-4, 1e-3]})
    with pytest.raises(RecipeError, match=r"has several, but nothing can be measured on .*, or give one rate"):
        verbs.train(runs.Run(several, tmp_path / "run"), "clip-ft", 0)
    assert not (tmp_path / "run" / "arms").exists()


def test_advice_needs_probes(short: recipe.Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.probe is missing: experts are compared by dense tasks"):
        advise(runs.Run(changed(short, evaluation={"probe": None}), tmp_path / "run"))


# Models of others ----------------------------------------------------------------------------------------


def test_another_normalization_is_measured_again(clip: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(clip, model)
    write_benchmark(tmp_path / "test", 12, 0)
    wanted = Comparison([f"hf:{model}"], {"test": str(tmp_path / "test")}, tmp_path / "out")
    measure(wanted, first := Listener())
    measure(wanted, second := Listener())
    assert not any("again" in text for text in [*first.said, *second.said])
    record = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(record | {"image_mean": [0.1, 0.2, 0.3]}))
    measure(wanted, third := Listener())
    assert any("preprocessing has changed" in text for text in third.said)


def test_benchmarks_are_read_once_for_all_models(
    clip: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {}
    for seed, split in enumerate(("probe", "validation", "test")):
        write_benchmark(tmp_path / split, 12, seed)
        places[split] = str(tmp_path / split)
    alone = [
        measure(Comparison([uri], places, tmp_path / str(number)), Silent())["arms"][uri]
        for number, uri in enumerate((f"hf:{clip}", f"open_clip:{tiny_clip}"))
    ]
    read = []
    monkeypatch.setattr(suite, "read_split", lambda *values, **more: read.append(values) or read_split(*values, **more))
    models = [f"hf:{clip}", f"open_clip:{tiny_clip}"]
    results = measure(Comparison(models, places, tmp_path / "both"), Silent())
    assert [results["arms"][uri] for uri in models] == alone
    assert len(read) == 3
    heard = Listener()
    assert measure(Comparison(models, places, tmp_path / "both"), heard)["baselines"] == results["baselines"]
    assert "position_prior" in results["baselines"]
    assert not any("position_prior" in text for text in heard.said)


def test_random_weights_are_the_same_in_each_command() -> None:
    state = torch.random.get_rng_state()
    one, other = (encoders.create("open_clip:RN50") for _ in range(2))
    images = torch.zeros(1, *one.image_size, 3, dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(one.encode_image(images), other.encode_image(images))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert preprocessing_of(one) == preprocessing_of(other)
    with pytest.raises(CheckpointError, match=r"the model has layers 0 to 4, not all of \[23\]"):
        one.maps(images, [23])


# Counts --------------------------------------------------------------------------------------------------


def test_images_without_truth_of_a_task_are_not_counted() -> None:
    metric = metric_of("depth", Convention(kind="metric", along="z"))
    rows = np.ones((6, 6))
    rows[2:] = 0  # without truth
    scored = Scored("depth", tuple("abcdef"), rows, metric, Convention(kind="metric", along="z"))
    assert comparison({"clip": {0: scored_group(scored)}}, {}, resamples=10)["images"] == {"depth": 2}


def scored_group(scored: Scored) -> dict[str, Scored]:
    return {scored.group: scored}
