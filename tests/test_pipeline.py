"""The whole pipeline on pictures of squares: label, train, evaluate, report, resume."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo import runs as workspace
from clipzoo.cli import app, main
from clipzoo.errors import CheckpointError, ClipzooError, RecipeError
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.progress import Silent
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.runs import verbs as pipeline
from clipzoo.runs.before.preflight import pick_device
from clipzoo.runs.models import benchmarks_of
from clipzoo.runs.results import cost as cost_of
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks import Convention
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.training import read_log
from conftest import WORDS, picture

SPACE = Convention(classes=("background", "square"))


class SquareExpert(Expert):
    """Segments squares by brightness; misses one corner, as an expert would."""

    card = ExpertCard("python:test_pipeline:SquareExpert", "segmentation", SPACE, license="CC0-1.0")

    def load(self, device: str = "cpu") -> None:
        self.loaded = True

    def predict(self, images: Sequence[np.ndarray]) -> list[Any]:
        masks = [image.max(-1) > 130 for image in images]
        return [Segmentation(mask.astype(np.uint16), np.ones_like(mask)) for mask in masks]


def write_benchmark(folder: Path, count: int, seed: int) -> None:
    """Squares with class and truth, in the layout of a benchmark folder."""
    rng = np.random.default_rng(seed)
    drawn = [picture(rng) for _ in range(count)]
    samples = []
    for i, (image, caption, _) in enumerate(drawn):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        name = str(WORDS.index(caption.split()[0])).encode()
        samples.append((f"{i:04d}", {"png": file.getvalue(), "txt": caption.encode(), "cls": name}))
    write_shard(folder / "images" / "0.tar", samples)
    (folder / "images" / "classnames.txt").write_text("\n".join(WORDS[:3]))
    (folder / "images" / "zeroshot_classification_templates.txt").write_text("{c} square\na photo of a {c} square")
    card = ExpertCard("truth", "segmentation", SPACE)
    reader = open_dataset(str(folder / "images"))
    column = Store(folder / "truth").create(card, fingerprint(reader))
    with ColumnWriter(column, "0") as writer:
        for i, (_, _, mask) in enumerate(drawn):
            writer.add(f"{i:04d}", Segmentation(mask.astype(np.uint16), np.ones_like(mask)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> recipe.Recipe:
    root = tmp_path_factory.mktemp("world")
    for seed, (split, count) in enumerate({"captioned": 96, "probe": 48, "validation": 32, "test": 48}.items()):
        write_benchmark(root / split, count, seed)
    return recipe.parse(
        {
            "name": "squares",
            "data": str(root / "captioned"),
            "columns": [{"expert": "python:test_pipeline:SquareExpert"}],
            "student": {"model": tiny_clip},
            "training": {"steps": 24, "batch_size": 32, "learning_rates": [1e-3, 3e-3], "search_steps": 4},
            "evaluation": {split: str(root / split) for split in ("probe", "validation", "test")},
            "seeds": [0, 1],
        }
    )


@pytest.fixture(scope="module")
def finished(world: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    pipeline.run(workspace.Run(world, out))
    return out


def test_a_run_with_imported_labels_has_results(world: recipe.Recipe, tmp_path: Path) -> None:
    """Imported labels have no expert that could label test pictures, so the results have no row of it."""
    rng = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    for i in range(96):
        Image.fromarray(picture(rng)[2].astype(np.uint8)).save(tmp_path / "masks" / f"{i:04d}.png")
    values = world.model_dump(mode="json")
    uri = f"files:{tmp_path}/masks?task=segmentation&classes=background,square&void=none"
    values |= {"columns": [{"expert": uri}], "seeds": [0], "arms": ["clip-ft", "clipzoo"]}
    values["training"] |= {"steps": 4, "learning_rates": [1e-3]}
    run = workspace.Run(recipe.parse(values), tmp_path / "run")
    assert pipeline.run(run).exists()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert not results["baselines"].get("expert")
    assert "segmentation/miou" in results["baselines"]["more_labels"]


@pytest.mark.slow
def test_a_preset_measures_the_start_and_the_students_of_a_run(finished: Path) -> None:
    done = CliRunner().invoke(app, ["eval", str(finished), "--preset", "knn", "--trust"])
    assert done.exit_code == 0, done.output
    results = json.loads((finished / "presets/knn/results.json").read_text())
    start, *students = results["arms"]
    assert start.startswith("open_clip:/")
    assert students == [
        f"open_clip:{finished}/arms/{arm}/{seed}/student" for arm in ("clip-ft", "clipzoo") for seed in (0, 1)
    ]
    assert all(0 <= cells["knn/top1"]["mean"] <= 1 for cells in results["arms"].values())


def test_a_preset_reads_benchmarks_in_the_layout_of_the_recipe(world: recipe.Recipe) -> None:
    values = world.model_dump(mode="json")
    values["evaluation"] |= {"layout": "imagefolder", "probe": "a", "validation": "b", "test": "voc:c?split=val"}
    places = benchmarks_of(recipe.parse(values), "knn", {})
    assert places == {"probe": "imagefolder:a", "test": "voc:c?split=val"}
    assert benchmarks_of(recipe.parse(values), "knn", {"test": "demo:test", "probe": "d"}) == {
        "probe": "imagefolder:d", "test": "demo:test",
    }  # fmt: skip
    assert benchmarks_of(world, "knn", {})["test"] == world.evaluation.test


def test_a_preset_is_not_measured_on_training_pictures(finished: Path, world: recipe.Recipe, tmp_path: Path) -> None:
    words = ["eval", str(finished), "--preset", "knn", "--trust", "--out", str(tmp_path / "knn")]
    copied = tmp_path / "copy"
    shutil.copytree(str(world.data), copied)
    done = CliRunner().invoke(app, [*words, "--test", str(copied)])
    assert isinstance(done.exception, RecipeError)
    assert "data" in str(done.exception)
    assert not (tmp_path / "knn").exists()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert (tmp_path / "knn/results.json").exists()


def test_an_output_that_cannot_be_written_is_refused_before_measuring(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["eval", str(finished), "--preset", "knn", "--trust", "--out", str(tmp_path / "file" / "x")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, OSError)
    assert "measuring" not in done.output


def test_heads_of_an_arm_without_any_are_not_exported(finished: Path) -> None:
    with pytest.raises(RecipeError, match="has no heads"):
        pipeline.export(
            workspace.Run(recipe.load(finished / "recipe.yaml", trust=True), finished), arm="clip", heads=True
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--test", "elsewhere"], "need --model or --preset"),
        (["--steps", "3"], "need --model or --preset"),
        (["--model", "timm:x"], "not both"),
    ],
)
def test_options_of_models_are_refused_for_a_recipe(finished: Path, options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["eval", str(finished), "--trust", *options], env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert words in done.output


def test_a_preset_of_a_run_without_students_says_so(world: recipe.Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(world.to_yaml())
    done = CliRunner().invoke(app, ["eval", str(tmp_path), "--preset", "knn", "--trust"])
    assert isinstance(done.exception, CheckpointError)
    assert f"run `clipzoo train {tmp_path}` first" in str(done.exception)


def test_results_contain_every_arm_baseline_and_measure(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(), parse_constant=pytest.fail)
    assert {"recipe", "seeds", "arms", "baselines", "cost", "differences"} <= set(results)
    assert results["seeds"] == [0, 1]
    for arm, n in (("clip", 1), ("clip-ft", 2), ("clipzoo", 2)):
        cells = results["arms"][arm]
        assert {"segmentation/miou", "zero_shot/top1", "retrieval/r5"} <= set(cells)
        for cell in cells.values():
            assert {"mean", "std", "n", "values", "ci", "direction", "unit"} <= set(cell)
            assert cell["n"] == n == len(cell["values"])
            assert cell["ci"][0] <= cell["mean"] <= cell["ci"][1] or cell["n"] > 1
    assert set(results["baselines"]) == {
        "position_prior",
        "pixels_position",
        "random_student",
        "expert",
        "more_labels",
        "chance",
        "majority",
    }
    assert results["baselines"]["expert"]["segmentation/miou"]["mean"] > 0.99
    (cost,) = results["cost"].values()
    assert cost["images"] == 96
    assert cost["seconds_per_image"] > 0


def test_the_page_is_complete_and_self_contained(finished: Path) -> None:
    page = (finished / "page.html").read_text()
    assert "data:image/" in page
    assert 'src="http' not in page
    assert "squares" in page


def test_both_trained_arms_try_the_same_learning_rates(finished: Path) -> None:
    tried = [json.loads((finished / "arms" / arm / "rates.json").read_text()) for arm in ("clip-ft", "clipzoo")]
    assert set(tried[0]) == set(tried[1]) == {"0.001", "0.003"}
    assert all("criterion" in values for arm in tried for values in arm.values())


def test_rerunning_repeats_no_work(finished: Path, world: recipe.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "results.json").read_text()
    monkeypatch.setattr(SquareExpert, "predict", lambda self, images: pytest.fail("labeled again"))
    monkeypatch.setattr("clipzoo.training.objectives.terms", lambda *a: pytest.fail("trained again"))
    pipeline.evaluate(workspace.Run(world, finished))
    assert (finished / "results.json").read_text() == before


def described(section: str) -> list[str]:
    """Return the names in the first column of a section's tables in docs/run.md."""
    page = (Path(__file__).parent.parent / "docs" / "run.md").read_text()
    part = re.split(r"^## ", page, flags=re.MULTILINE)
    (text,) = [one for one in part if one.startswith(section)]
    return [name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall("`(.*?)`", row)]


def fits(pattern: str, name: str) -> bool:
    """Return True if a pattern of the page matches a name; ``<column>`` may have slashes, folders have contents."""
    escaped = re.sub("<(.*?)>", lambda m: ".+" if m[1] == "column" else "[^/]+", re.escape(pattern))
    return re.fullmatch(escaped + (".*" if pattern.endswith("/") else ""), name) is not None


LATER = (
    "data/", "arms/<arm>/<seed>/checkpoint.pt", "arms/<arm>/<seed>/shards-<step>-<id>/", "arms/<arm>/<seed>/good.pt",
    "arms/<arm>/<seed>/guard.json", "arms/<arm>/<seed>/best/",
    "arms/<arm>/<seed>/interpolation.json", "scores/open_vocabulary-<variant>/<arm>-<seed>/",
    "scores/interpolation/<arm>-<seed>-<alpha>/",
    "ablation.json", "ablation.html", "ablations/<variant>/", "advice/<budget>/",
    "export/<format>/<arm>-<seed>/",
)  # fmt: skip
"""Entries that a finished run on files of a disk does not have."""


def test_docs_run_md_lists_every_file_field_and_part(finished: Path) -> None:
    files = [path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()]
    logs = [line for arm in ("clip-ft", "clipzoo") for line in read_log(finished / "arms" / arm / "0")]
    results = json.loads((finished / "results.json").read_text())
    for section, there, later in (
        ("Files", files, LATER),
        ("log.jsonl", {name for line in logs for name in line}, ()),
        ("results.json", list(results), ()),
    ):
        told = described(section)
        assert [name for name in there if not any(fits(one, name) for one in told)] == []
        prefixes = ("guard", "interpolation", "named_arms", "expert_failures", "weight/", "gradient_", "presets/")
        optional = [one for one in told if one.startswith(prefixes)]
        absent = [one for one in told if not any(fits(one, name) for name in there)]
        assert [one for one in absent if one not in optional] == list(later)


def test_the_python_example_of_docs_run_md_works(finished: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "run.md").read_text()
    names: dict[str, Any] = {"folder": str(finished)}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
    assert len(names["curve"]) == 4, "of 24 steps every tenth and the last"
    assert names["worst"][1] in names["scored"].keys
    assert names["student"].columns == tuple(names["run"].specs)


EXPERT = "segmentation/python-test_pipeline-SquareExpert"


class Listener(Silent):
    """Collects headlines."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)


def test_eval_reports_each_training_and_measurement(world: recipe.Recipe, tmp_path: Path) -> None:
    short = changed(
        world, seeds=[0], arms=["clip", "clip-ft", "clipzoo"], training={"steps": 2, "learning_rates": [1e-3]}
    )
    heard, again = Listener(), Listener()
    pipeline.train(workspace.Run(short, tmp_path), "clip-ft", 0)
    pipeline.evaluate(workspace.Run(short, tmp_path, heard))
    assert heard.said == [
        "training these arms before measuring: clipzoo: seed 0",
        "training clipzoo, seed 0", f"{EXPERT}: 96 of 96 samples have a label (100 %)", "measuring clip",
        "measuring clip-ft, seed 0", "measuring clipzoo, seed 0",
        "measuring the baselines",
    ]  # fmt: skip
    run = workspace.Run(short, tmp_path, again)
    pipeline.evaluate(run)
    assert pipeline.train(run, "clipzoo", 0) == tmp_path / "arms" / "clipzoo" / "0" / "student"
    assert again.said == [], "all of it was done"


def test_eval_on_a_new_folder_first_lists_all_trainings(
    world: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Listener()
    monkeypatch.setattr(workspace.Run, "train", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline.evaluate(workspace.Run(world, tmp_path, heard))
    first, second, third = heard.said
    assert first.endswith(": clip-ft: seed 0, 1; clipzoo: seed 0, 1")
    assert second.startswith("labeling ")
    assert second.endswith(": segmentation/python-test_pipeline-SquareExpert")
    assert third == "training clip-ft, seed 0"


def test_the_cost_of_labels_excludes_dropped_work(world: recipe.Recipe, tmp_path: Path) -> None:
    run = workspace.Run(world, tmp_path)
    pipeline.label(run)
    ((name, (_, column)),) = run.columns.items()
    before = cost_of(run)[name]
    assert before["dropped_seconds"] == 0
    column.finish(seconds=7.0)  # what a run spent on a shard that it did not commit
    after = cost_of(run)[name]
    assert after["seconds_per_image"] == before["seconds_per_image"]
    assert after["dropped_seconds"] == 7.0


def changed(world: recipe.Recipe, **fields: Any) -> recipe.Recipe:
    """Return the recipe with changed fields."""
    values = world.model_dump(mode="json")
    for name, value in fields.items():
        values[name] = {**(values[name] or {}), **value} if isinstance(value, dict) else value
    return recipe.parse(values)


def test_a_folder_of_another_recipe_is_refused_with_the_differences(finished: Path, world: recipe.Recipe) -> None:
    other = changed(world, seeds=[7], training={"steps": 9})
    with pytest.raises(
        CheckpointError, match=r"another recipe\. It has\n  training\.steps: 24, not 9\n  seeds\.0: 0, not 7\n"
    ):
        workspace.Run(other, finished)


def test_fields_that_no_trained_arm_depends_on_may_change(finished: Path, world: recipe.Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / ".lock").unlink(missing_ok=True)
    free = changed(world, seeds=[0, 1, 2], arms=["clip", "clipzoo"], training={"workers": 1, "checkpoint_every": 5})
    workspace.Run(free, out).adopt()
    assert recipe.load(out / "recipe.yaml", trust=True) == free
    assert (out / "plan.arrow").exists()
    assert (out / "scores" / "clip" / "0" / "done").exists()
    write_benchmark(tmp_path / "heldout", 8, 9)
    workspace.Run(changed(world, evaluation={"heldout": str(tmp_path / "heldout")}), out).adopt()
    assert not [*(out / "scores").iterdir()], "they are of other measurements"
    for choosing in ({"evaluation": {"label_stride": 4}}, {"seeds": [1, 0]}):
        with pytest.raises(CheckpointError, match="another recipe"):
            workspace.Run(changed(world, **choosing), out)


def test_scores_of_another_evaluation_are_removed(world: recipe.Recipe, tmp_path: Path) -> None:
    start = changed(world, arms=["clip"], columns=[], training={"learning_rates": [1e-3]})
    first, second = (
        pipeline.evaluate(workspace.Run(changed(start, evaluation={"label_stride": stride}), tmp_path)).read_bytes()
        for stride in (2, 4)
    )
    assert (
        json.loads(first)["arms"]["clip"]["segmentation/miou"]
        != json.loads(second)["arms"]["clip"]["segmentation/miou"]
    )


def test_a_finished_student_loads_without_its_labels(finished: Path, world: recipe.Recipe) -> None:
    run = workspace.Run(world, finished)
    run.inputs.__dict__["plan"] = None  # would fail if it were used
    assert run.train("clipzoo", 1).specs


def test_a_recipe_may_change_until_an_arm_is_trained(world: recipe.Recipe, tmp_path: Path) -> None:
    strict = world.model_copy(update={"labeling": recipe.LabelingRecipe(max_failures=0.0), "max_samples": 40})
    pipeline.label(workspace.Run(strict, tmp_path))
    labels = sorted(tmp_path.glob("labels/**/*.tar"))
    assert len(workspace.Run(strict, tmp_path).plan) == 40
    assert len(workspace.Run(world, tmp_path).plan) == 96
    assert sorted(tmp_path.glob("labels/**/*.tar")) == labels
    assert recipe.load(tmp_path / "recipe.yaml", trust=True) == world


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"columns": ({"expert": "demo:dept"},)}, "depth"),
        ({"columns": ({"column": "depth/none"},)}, "has no column depth/none"),
        ({"student": {"model": "local-dir:nowhere"}}, "nowhere"),
        ({"student": {"model": "ViT-B-61", "random": True}}, "ViT-B-16"),
        ({"data": "nowhere"}, "no file or folder"),
        ({"evaluation": {"test": "nowhere"}}, "no folder images/"),
        ({"evaluation": {"test": "demo:tset"}}, "no such packaged split"),
    ],
)
def test_mistakes_of_a_new_recipe_are_found_first_and_nothing_is_written(
    world: recipe.Recipe, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    values = world.model_dump(mode="json") | {"training": {"steps": 1}} | change
    with pytest.raises(ClipzooError, match=says):
        workspace.Run(recipe.parse(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: {"test": f"{root}/captioned"}, "evaluation.test is .* are those of data"),
        (lambda root: {"layers": [99]}, r"evaluation\.layers is \[99\], and the vision tower has no such layers"),
    ],
)
def test_mistakes_of_evaluation_are_found_before_training(
    world: recipe.Recipe, tmp_path: Path, change: Callable[[Path], dict[str, Any]], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        workspace.Run(changed(world, evaluation=change(Path(world.data).parent)), tmp_path)


def test_a_column_listed_twice_is_refused(world: recipe.Recipe, tmp_path: Path) -> None:
    pipeline.label(workspace.Run(world, tmp_path))
    (column,) = Store(tmp_path / "labels").columns()
    both = changed(world, columns=[*world.model_dump(mode="json")["columns"], {"column": column.name}])
    with pytest.raises(RecipeError, match=f"{column.name} is listed twice"):
        workspace.Run(both, tmp_path)


def test_two_processes_do_not_share_a_run(world: recipe.Recipe, tmp_path: Path) -> None:
    run = workspace.Run(world, tmp_path)
    code = (
        "import sys; from pathlib import Path; from clipzoo.files import locked\n"
        "with locked(Path(sys.argv[1]), ValueError, ''): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"in use by process {other.pid}"):
            pipeline.label(run)
        other.communicate("")
    pipeline.label(run)


def test_changed_labels_are_joined_again_until_an_arm_is_trained(world: recipe.Recipe, tmp_path: Path) -> None:
    run = workspace.Run(world, tmp_path)
    pipeline.label(run)
    ((name, (_, column)),) = run.columns.items()
    assert run.plan.coverage() == {name: 1}
    with column.lock(), ColumnWriter(column, "0", [e.key for e in run.reader.index("0")]) as writer:
        for entry in run.reader.index("0"):
            writer.fail(entry.key, "taken away by the test")
    column.finish()
    with pytest.raises(ClipzooError, match="no label of"):
        _ = workspace.Run(world, tmp_path).plan
    (tmp_path / "arms" / "clipzoo").mkdir(parents=True)
    (tmp_path / "arms" / "clipzoo" / "rates.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"{name} changed since"):
        _ = workspace.Run(world, tmp_path).plan


def test_max_samples_limits_labeling(world: recipe.Recipe, dataset: Path, tmp_path: Path) -> None:
    few = world.model_copy(update={"data": str(dataset), "max_samples": 20})
    store = pipeline.label(workspace.Run(few, tmp_path))
    (column,) = store.columns()
    assert column.committed() == {"00000", "00001"}
    assert len(workspace.Run(few, tmp_path).plan) == 20


def test_a_missing_device_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no device 'cuda:9'"):
        pick_device("cuda:9")


def test_the_arm_clip_is_not_trained(world: recipe.Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no arm 'clip' to train; did you mean clipzoo or clip-ft"):
        pipeline.train(workspace.Run(world, tmp_path), "clip", 0)


def test_a_report_without_results_names_the_command(world: recipe.Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="clipzoo eval"):
        pipeline.report(workspace.Run(world, tmp_path))


def test_a_run_with_labels_only_trains_nothing(world: recipe.Recipe, dataset: Path, tmp_path: Path) -> None:
    few = world.model_copy(update={"data": str(dataset), "max_samples": 20})
    path, out = tmp_path / "r.yaml", tmp_path / "out"
    path.write_text(few.to_yaml())
    command = ["run", str(path), "--out", str(out), "--trust", "--labels-only"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "without --labels-only" in result.output
    assert Store(out / "labels").columns()[0].committed() == {"00000", "00001"}
    assert not (out / "arms").exists()
    both = CliRunner().invoke(app, [*command, "--gpus", "2"])
    assert both.exit_code == 2
    assert "--gpus" in both.output
    assert CliRunner().invoke(app, [*command, "--gpus", "2", "--dry-run"]).exit_code == 2


def test_every_verb_by_the_command_line(world: recipe.Recipe, tmp_path: Path) -> None:
    """Each verb in this process, on one folder: label, inspect, train, eval, report."""
    once = world.model_copy(update={"seeds": (0,), "training": world.training.model_copy(update={"steps": 4})})
    path, out, run = tmp_path / "r.yaml", tmp_path / "out", CliRunner().invoke
    path.write_text(once.to_yaml())
    data = str(Path(world.data) / "images")
    for arguments in (
        ["label", data, "--expert", str(world.columns[0].expert), "--out", str(out / "labels")],
        ["inspect", str(out / "labels"), "--data", data, "--out", str(tmp_path / "gallery.html")],
        ["train", str(path), "--out", str(out), "--arm", "clip-ft", "--trust"],
        ["eval", str(path), "--out", str(out), "--trust"],
        ["report", str(out), "--trust"],
        ["experts"], ["tasks"], ["doctor"], ["--version"], ["-h"],
    ):  # fmt: skip
        result = run(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (out / "page.html").exists()
    assert (tmp_path / "gallery.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "nowhere.yaml"],
        ["label", "nowhere", "--expert", "demo:depth", "--out", "x"],
        ["label", "nowhere", "--expert", "dmo:depth", "--out", "x"],
        ["report", "nowhere"],
    ],
)
def test_mistakes_on_the_command_line_are_clipzoo_errors(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ClipzooError), result.output


def test_an_expert_of_another_convention_is_not_compared(world: recipe.Recipe, tmp_path: Path) -> None:
    heard = Listener()
    run = workspace.Run(world.model_copy(update={"seeds": (0,)}), tmp_path, heard)
    (expert,) = run.inputs.experts.values()
    expert.card = replace(expert.card, convention=Convention(classes=("background", "circle")))
    assert run.measured.loaded_experts() == {}
    assert "no true labels of segmentation with its convention" in heard.said[0]


def interrupted() -> None:
    raise KeyboardInterrupt("labeling was stopped; [2/3] shards are left")


def refused() -> None:
    raise ClipzooError("pip install 'clipzoo[onnx]' for [/x]")


@pytest.mark.parametrize(
    ("verb", "code", "says"), [(refused, 2, "'clipzoo[onnx]' for [/x]"), (interrupted, 130, "[2/3] shards are left")]
)
def test_messages_are_printed_without_markup(
    verb: Any, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(verb)
    monkeypatch.setattr("clipzoo.cli.app", app)
    monkeypatch.setattr("sys.argv", ["clipzoo"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    assert says in capsys.readouterr().err


def test_a_missing_benchmark_is_found_before_training(world: recipe.Recipe, tmp_path: Path) -> None:
    bare = world.model_copy(update={"evaluation": recipe.EvaluationRecipe()})
    with pytest.raises(RecipeError, match=r"evaluation\.test is not set"):
        pipeline.run(workspace.Run(bare, tmp_path))
    assert not (tmp_path / "arms").exists()
