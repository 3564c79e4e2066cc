"""The page answers what a skeptic asks: chance, untrained baselines, tasks without a measure, cost of training."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from clipzoo import recipe
from clipzoo import runs as workspace
from clipzoo.benchmarks import Split
from clipzoo.evaluation import arms, zero_shot
from clipzoo.pages import charts, takeaways, words, write_page
from clipzoo.runs import verbs
from test_pipeline import world
from test_report import results, runs

__all__ = ["results", "runs", "world"]


def split_of_classes(targets: tuple[int, ...], classes: int) -> Split:
    return Split(
        images=(), keys=tuple(map(str, range(len(targets)))), size=(8, 8), targets=targets,
        classnames=tuple(f"class {i}" for i in range(classes)),
    )  # fmt: skip


def test_chance_and_majority_of_zero_shot() -> None:
    rows = zero_shot.constant(split_of_classes((0, 3, 3, 3, 1, 2, 9, 8), 10))
    assert rows["chance"].compute() == {"zero_shot/top1": 0.1, "zero_shot/top5": 0.5}
    assert rows["majority"].compute() == {"zero_shot/top1": 3 / 8, "zero_shot/top5": 7 / 8}
    few = zero_shot.constant(split_of_classes((0, 1), 2))
    assert few["chance"].compute() == {"zero_shot/top1": 0.5, "zero_shot/top5": 1.0}


def with_constant(results: dict, level: float) -> dict:
    changed = copy.deepcopy(results)
    for row, value in (("chance", level), ("majority", level + 0.01)):
        cell = copy.deepcopy(changed["arms"]["clip"]["zero_shot/top1"]) | {"mean": value, "ci": [value, value]}
        changed["baselines"][row] = {"zero_shot/top1": cell}
    return changed


def test_arms_below_chance_are_told_before_any_number(results: dict, tmp_path: Path) -> None:
    assert takeaways.notices(with_constant(results, 0.01)) == []
    (told,) = takeaways.notices(with_constant(results, 0.99))
    assert re.match(r"clip \(\d+\.\d.%\), clip-ft \(.*\) and clipzoo \(.*\) lie below chance in zero-shot top‑1", told)
    means = {arm: results["arms"][arm]["zero_shot/top1"]["mean"] for arm in ("clip", "clip-ft", "clipzoo")}
    between = (means["clip"] + min(means["clip-ft"], means["clipzoo"])) / 2
    if means["clip"] < between:
        assert takeaways.notices(with_constant(results, between))[0].startswith("clip (")
    page = write_page(with_constant(results, 0.99), tmp_path / "page.html").read_text("utf-8")
    assert told in page
    assert page.index(told) < page.index('id="rows"')
    assert "the most frequent class" in page


def test_a_real_gain_below_untrained_features_is_told(results: dict) -> None:
    assert not any("is real, but" in one for one in takeaways.notices(results))
    changed = copy.deepcopy(results)
    changed["baselines"]["random_student"]["depth/delta1"]["mean"] = 0.9
    changed["baselines"]["pixels_position"]["normals/mean_angle"]["mean"] = 1.0
    told = takeaways.notices(changed)
    assert len(told) == 2
    assert re.match(
        r"The gain of depth is real, but both arms \(.*\) are worse than random student \(90\.0.%\)\.", told[0]
    )
    assert told[1].startswith("The gain of surface normals is real, but both arms")


def test_tasks_that_were_taught_but_not_measured_are_named(results: dict) -> None:
    cost = {"depth/x": {}, "edges/y": {}, "machine": "2 cores"}
    (told,) = takeaways.notices({**results, "cost": cost})
    assert told.startswith("Taught but not measured: edges.")
    assert takeaways.notices({**results, "cost": cost, "arms": {"clip": results["arms"]["clip"]}}) == []


def test_tasks_of_online_columns_are_taught_too(results: dict) -> None:
    supervision = {"clipzoo": {"0": {"columns": {"edges/online": {"labels": 9, "unreadable": 0}, "depth/x": {}}}}}
    (told,) = takeaways.notices({**results, "cost": {}, "supervision": supervision})
    assert told.startswith("Taught but not measured: edges.")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.0, 0.012], "1 of 2 seeds improved (0.0 points, +1.2 points)."),
        ([0.0, -0.012], "0 of 2 seeds improved (0.0 points, −1.2 points)."),
        ([0.0, 0.0], "0 of 2 seeds improved (0.0 points, 0.0 points)."),
        ([0.01, 0.012], "All 2 seeds agree in sign (+1.0 points, +1.2 points)."),
        ([-0.01, 0.012], "The seeds disagree: 1 of 2 improved."),
    ],
)
def test_seeds_without_a_change_do_not_agree_in_sign(results: dict, values: list[float], told: str) -> None:
    changed = copy.deepcopy(results)
    changed["differences"]["clipzoo-vs-clip-ft"]["depth/delta1"]["values"] = values
    depth = {one["title"]: one for one in takeaways.takeaways(changed)}["Depth, δ1"]
    assert depth["checks"][0] == told


def test_a_curve_of_one_point_is_text_without_a_frame(results: dict, tmp_path: Path) -> None:
    points = [{"step": 9, "name": "validation/zero_shot/top1", "value": 0.25}]
    logs = {"clipzoo": {0: [*points, *({"step": t, "name": "loss", "value": 1.0} for t in (0, 9))]}}
    assert [name for name, _ in charts.curves(logs)] == ["loss"]
    assert charts.single(logs) == [("validation/zero_shot/top1", "clipzoo, seed 0: 0.25 at step 9")]
    assert "0.25 at step 9" in write_page(results, tmp_path / "page.html", curves=logs).read_text("utf-8")


def test_a_page_of_the_pretrained_model_alone(runs: dict, tmp_path: Path) -> None:
    rows = {row: run for row, run in runs.items() if row not in ("clip", "clip-ft", "clipzoo")}
    scores = runs["clip"][0]
    first = {"clip": {0: {"zero_shot": scores["zero_shot"], **scores}}}  # recognition is measured first
    alone = arms.compare(first, rows, resamples=20)
    text = write_page(alone, tmp_path / "page.html").read_text("utf-8")
    assert re.search(r"The arm clip reaches .* segmentation mIoU, .* and .* zero-shot top‑1\. No pair of arms", text)
    for part in ("differences", "takeaways", "curves", "subsets"):
        assert f'id="{part}"' not in text
        assert f'href="#{part}"' not in text
    assert 'class="tiles"' not in text
    assert "clipzoo minus" not in text
    assert "A gain counts only" not in text
    titles = re.findall(r'<figcaption class="cap">([\w -]+) <span>', text)
    assert titles == ["segmentation", "depth", "surface normals", "zero-shot"]


def test_captions_alone_are_compared_with_the_start(runs: dict) -> None:
    two = arms.compare({arm: runs[arm] for arm in ("clip", "clip-ft")}, resamples=20)
    assert "over the pretrained model" in words.headline(two)
    assert words.headline(two).startswith("Training on captions")
    assert words.reference(two, "zero_shot/top1") == "clip-ft-vs-clip"


@pytest.fixture(scope="module")
def short(world: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> workspace.Run:
    values = world.model_dump(mode="json")
    values["training"] |= {"steps": 3, "learning_rates": [1e-3]}
    values["evaluation"] |= {"open_vocabulary": "maskclip", "pictures": 1}
    run = workspace.Run(recipe.parse(values | {"seeds": [0]}), tmp_path_factory.mktemp("short"))
    verbs.run(run)
    return run


def test_more_labels_states_the_true_count(short: workspace.Run) -> None:
    results = json.loads((short.out / "results.json").read_text())
    assert results["protocol"]["more_labels"].endswith("captioned pictures: 96 of segmentation")
    (short.out / "scores" / "baselines" / "more_labels.json").unlink()  # runs of earlier versions have none
    assert replaced(short).measured.pseudo_labels() == {"segmentation": 96}


def test_heat_maps_of_every_arm_are_on_the_page(short: workspace.Run) -> None:
    page = (short.out / "page.html").read_text()
    found = re.findall(r'alt="open-vocabulary of (\w+), ([\w-]+)(, cosine -?\d\.\d\d to -?\d\.\d\d)?"', page)
    by_arm = {arm: [key for key, one, _ in found if one == arm] for arm in ("truth", "clip", "clip-ft", "clipzoo")}
    assert len(by_arm["clip"]) == 6  # best, median and worst picture, two classes each
    assert by_arm["truth"] == by_arm["clip"] == by_arm["clip-ft"] == by_arm["clipzoo"]
    assert all(cosine for _, arm, cosine in found if arm != "truth")
    assert "“square”" in page


def test_heat_maps_of_one_arm_need_no_other(world: recipe.Recipe, tmp_path: Path) -> None:
    values = world.model_dump(mode="json") | {"arms": ["clip"], "columns": []}
    values["evaluation"] |= {"open_vocabulary": "maskclip", "pictures": 1}
    page = verbs.run(workspace.Run(recipe.parse(values), tmp_path / "run")).read_text()
    assert page.count(", clip, cosine") == 6
    assert "The arm clip reaches" in page


def replaced(run: workspace.Run) -> workspace.Run:
    return workspace.Run(run.recipe, run.out)


def test_time_hardware_and_samples_of_trainings_are_on_the_page(short: workspace.Run) -> None:
    results = json.loads((short.out / "results.json").read_text())
    one = results["trainings"]["clipzoo"]["0"]
    assert one | {"seconds": 0} == {
        "samples": 96, "steps": 3, "batch_size": 32, "seconds": 0, "hardware": one["hardware"],
    }  # fmt: skip
    assert one["seconds"] > 0
    assert re.match(r"cpu: \d+ cores", one["hardware"])
    page = (short.out / "page.html").read_text()
    assert one["hardware"] in page
    for text in ("samples seen", "time of the steps", "clip-ft, seed 0"):
        assert text in page
    (short.folder_of("clipzoo", 0) / "hardware.txt").unlink()
    (short.folder_of("clipzoo", 0) / "log.jsonl").write_text("")
    verbs.evaluate(replaced(short))
    verbs.report(replaced(short))
    assert "not recorded" in (short.out / "page.html").read_text()


def test_more_labels_are_those_that_the_arm_is_trained_on(short: workspace.Run, tmp_path: Path) -> None:
    values = short.recipe.model_dump(mode="json")
    (name,) = short.inputs.columns
    sizes = [row[f"{name}:size"] for row in short.inputs.plan.rows(range(96))]
    values["columns"][0]["where"] = f"bytes > {sorted(sizes)[48]}"
    used = sum(size > sorted(sizes)[48] for size in sizes)
    assert 0 < used < 96
    run = workspace.Run(recipe.parse(values), tmp_path)
    verbs.label(run)
    assert run.measured.pseudo_labels() == {"segmentation": used}
