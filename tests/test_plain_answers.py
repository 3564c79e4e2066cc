"""Mistakes that a new user makes, and the sentences that answer them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import clipzoo
from clipzoo import locations, plugins, recipe, runs
from clipzoo.cli import app, main
from clipzoo.errors import CheckpointError, ClipzooError, DatasetError, RecipeError, counted
from clipzoo.experts.base import ExpertCard
from clipzoo.files import several
from clipzoo.models import HeadSpec, Student
from clipzoo.pages import words
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.runs.new_recipe import dataset_of
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks import Convention
from clipzoo.tasks.detection import Detection

Answer = Callable[..., str]
SPECS = {
    "segmentation/x": HeadSpec("segmentation", Convention(("floor", "chair")), "linear"),
    "depth/x": HeadSpec("depth", Convention(kind="metric", along="z"), "linear"),
}


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run a command in an empty folder, and return its error line."""
    monkeypatch.chdir(tmp_path)

    def run(*command: object) -> str:
        monkeypatch.setattr("sys.argv", ["clipzoo", *map(str, command)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == 2, said
        return " ".join(said.split())

    return run


@pytest.fixture(scope="module")
def run(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the arms clipzoo (seeds 3 and 7) and depth-only (seed 3), trained on two columns."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("run")
    values = {
        "name": "x", "data": str(root), "student": {"model": tiny_clip}, "training": {"steps": 1}, "seeds": [3, 7],
        "columns": [{"expert": "python:gone:Expert"}, {"column": "depth/x"}],
    }  # fmt: skip
    named: object = {"name": "depth-only", "columns": ["depth"]}
    whole = recipe.parse({**values, "arms": ["clip", "clip-ft", "clipzoo", named]})
    part = recipe.parse({**values, "columns": values["columns"][1:]})
    (root / "recipe.yaml").write_text(whole.to_yaml())
    for seed in (3, 7):
        Student.create(tiny_clip, specs=SPECS).save(root / "arms" / "clipzoo" / str(seed) / "student")
        (root / "arms" / "clipzoo" / str(seed) / "student" / "done").touch()
    folder = root / "ablations" / "only-depth--x"
    Student.create(tiny_clip, specs={"depth/x": SPECS["depth/x"]}).save(folder / "arms" / "clipzoo" / "3" / "student")
    (folder / "recipe.yaml").write_text(part.to_yaml())
    return root


@pytest.fixture(scope="module")
def boxes(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one box in each image."""
    root, reader = tmp_path_factory.mktemp("boxes"), open_dataset(dataset)
    card = ExpertCard("test:boxes", "detection", Convention(classes=("square",)))
    column = Store(root).create(card, fingerprint(reader))
    for shard in reader.shards:
        with ColumnWriter(column, shard) as writer:
            for entry in reader.index(shard):
                box, ids = np.array([[1, 1, 9, 9]], np.float32), np.zeros(1, np.uint16)
                writer.add(entry.key, Detection((32, 32), box, ids, np.ones(1, np.float32), np.zeros(1, np.bool_)))
    column.finish()
    return root


def test_named_arms_are_shown_without_their_experts(run: Path) -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    shown = clipzoo.show(run, [picture], arm="depth-only")
    assert shown.models == ["start", "depth-only"]
    assert {one.column for one in shown.pictures[0].heads} == {"depth/x"}
    with pytest.raises(CheckpointError, match=r"'depth-only' with seed 7; it has clipzoo \(seeds 3, 7\), depth-only"):
        clipzoo.show(run, [picture], arm="depth-only", seed=7)


def test_only_arms_and_seeds_that_a_run_has_are_listed(run: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no arm 'x' to show; there are: clipzoo, depth-only$"):
        clipzoo.show(run, [], arm="x")
    with pytest.raises(CheckpointError, match=r"any arm with seed 9; it has clipzoo \(seeds 3, 7\)"):
        clipzoo.show(run, [], seed=9)


def test_pictures_that_cannot_be_read_do_not_use_up_the_count(run: Path, tmp_path: Path) -> None:
    student = clipzoo.load(run / "arms" / "clipzoo" / "3" / "student")
    for number in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    for number in (0, 1, 2, 4):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    shown = clipzoo.show(student, tmp_path, count=2)
    assert [Path(one.name).name for one in shown.pictures] == ["3.png", "5.png"]
    assert len(clipzoo.show(student, tmp_path, count=1).pictures) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "runs/nope", "x.png"], ["eval", "runs/nope"], ["run", "runs/nope"], ["export", "runs/nope"],
        ["eval", "--model", "runs/nope", "--test", "demo:test"], ["report", "runs/nope"],
        ["eval", "--model", "open_clip:runs/nope/student", "--test", "demo:test"],
        ["interpolate", "runs/nope", "b", "--out", "c", "--probe", "demo:probe", "--validation", "demo:validation"],
    ],
)  # fmt: skip
def test_a_folder_that_does_not_exist_is_called_so(command: list[str], answer: Answer) -> None:
    assert "runs/nope" in (said := answer(*command))
    assert "does not exist" in said


def test_a_similar_folder_is_proposed(run: Path, answer: Answer) -> None:
    shutil.copytree(run, "runs/rooms")
    assert "did you mean rooms?" in answer("predict", "runs/roms", "x.png")
    assert "did you mean rooms?" in answer("eval", "runs/roms")
    assert "write open_clip:runs/rooms" in answer("eval", "--model", "runs/rooms", "--test", "demo:test").lower()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["tasks", "dept"], "there is no task 'dept'; did you mean depth?"),
        (
            ["labels", "export", "LABELS", "--data", "DATA", "--to", "cocoo", "--out", "x"],
            "label format 'cocoo' (--to)",
        ),
        (["labels", "import", "DATA", "x", "--format", "cocoo", "--out", "y"], "did you mean coco?"),
    ],
)
def test_a_wrong_name_is_answered_with_its_option(
    command: list[str], says: str, dataset: Path, labels: Path, answer: Answer
) -> None:
    places = {"LABELS": labels, "DATA": dataset}
    said = answer(*[places.get(word, word) for word in command])
    assert says in said
    assert "clipzoo/" not in said


def test_no_kind_of_plugin_shows_its_folder() -> None:
    import clipzoo.export
    import clipzoo.readers
    from clipzoo import benchmarks, encoders, heads, importers, locations, losses, model_schemes, probing, tasks
    from clipzoo.labeling import exports
    from clipzoo.models import dense
    from clipzoo.training import balancing, tracking

    for room in (
        clipzoo.export, clipzoo.readers, benchmarks, encoders, heads, importers, locations, losses, model_schemes,
        probing, tasks, exports, dense, balancing, tracking,
    ):  # fmt: skip
        registry = getattr(room, "PLUGINS", None) or room.TARGETS
        assert registry.noun, room
        with pytest.raises(plugins.PluginError, match=f"there is no {registry.noun} 'nothere'"):
            registry.load("nothere")


OUTPUTS = (
    ["split", "DATA", "--out", "OUT"],
    ["labels", "export", "LABELS", "--data", "DATA", "--to", "png", "--out", "OUT"],
    ["labels", "export", "BOXES", "--data", "DATA", "--to", "coco", "--out", "OUT"],
    ["inspect", "LABELS", "--data", "DATA", "--out", "OUT"],
    ["check", "DATA", "--out", "OUT"],
    ["check", "DATA", "--resume", "OUT"],
    ["predict", "STUDENT", "PICTURE", "--device", "cpu", "--out", "OUT.png"],
    ["new", "--yes", "--device", "cpu", "--out", "OUT/recipe.yaml"],
    ["labels", "merge", "LABELS", "--out", "OUT"],
    ["labels", "verify", "LABELS", "--resume", "OUT"],
    ["label", "DATA", "--expert", "demo:segmentation", "--out", "OUT"],
    ["labels", "import", "DATA", "FILES", "--format", "files", "--set", "task=edges", "--out", "OUT"],
)  # fmt: skip


@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: " ".join(command[:2]) + command[-3])
@pytest.mark.parametrize("place", ["/proc/clipzoo-x", "file/x"])
def test_an_output_that_cannot_be_written_is_a_sentence(
    command: list[str], place: str, run: Path, dataset: Path, labels: Path, boxes: Path, tmp_path: Path, answer: Answer
) -> None:
    (tmp_path / "file").touch()
    Image.new("L", (32, 32)).save("picture.png")
    (tmp_path / "files").mkdir()
    for number in range(48):
        Image.new("L", (32, 32)).save(tmp_path / "files" / f"{number // 16}{number % 16:03d}.png")
    known = {
        "DATA": dataset, "LABELS": labels, "BOXES": boxes, "STUDENT": run / "arms" / "clipzoo" / "3" / "student",
        "PICTURE": "picture.png", "FILES": "files",
    }  # fmt: skip
    said = answer(*[str(known.get(word, word)).replace("OUT", place) for word in command])
    assert "clipzoo-x" in said or "file" in said
    assert ".tmp" not in said
    assert ".partial" not in said


@pytest.mark.parametrize("to", ["coco", "png", "hf"])
def test_an_export_names_the_output_that_was_given(
    to: str, dataset: Path, labels: Path, boxes: Path, answer: Answer
) -> None:
    Path("there").mkdir()
    Path("there/x").touch()
    store = boxes if to == "coco" else labels
    said = answer("labels", "export", store, "--data", dataset, "--to", to, "--out", "there")
    assert said.startswith("error: there")
    assert ".tmp" not in said


def test_counts_have_the_right_noun() -> None:
    assert [counted(n, "sample") for n in (0, 1, 2000)] == ["0 samples", "1 sample", "2,000 samples"]
    assert counted(1, "class", "classes") == "1 class"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("columns.1", {"expert": "dmo:depth"}, "did you mean demo?"),
        ("columns.1", {"expert": "demo:dept"}, "did you mean depth?"),
        ("columns.1", {"column": "depht/x"}, "has no column depht/x"),
        ("training.batch_size", 3, "holds arms that were trained with another recipe"),
    ],
)
def test_a_misspelt_name_in_the_recipe_of_a_run_is_called_so(run: Path, field: str, value: object, says: str) -> None:
    changed = recipe.load(run / "recipe.yaml", [f"{field}={json.dumps(value)}"], trust=True)
    with pytest.raises(ClipzooError) as error:
        runs.Run(changed, run)
    assert says in str(error.value)


def test_no_sizes_is_the_recipe_without_sizes(run: Path) -> None:
    first, second = (recipe.load(run / "recipe.yaml", text, trust=True) for text in ((), ["training.sizes=[]"]))
    assert first == second
    assert first.differences(second) == {}
    with pytest.raises(RecipeError, match="sizes is null; give a list"):
        recipe.load(run / "recipe.yaml", ["training.sizes=null"], trust=True)


@pytest.mark.slow
def test_a_view_leaves_no_data_in_a_store(tmp_path: Path) -> None:
    kept = tmp_path / "labels" / ".data" / "rooms-test-3"
    with locations.resolved("rooms:test?count=3", str(tmp_path / "labels")):
        assert not kept.exists()
    locations.resolve_into_store("rooms:test?count=3", str(tmp_path / "labels"))
    shard = kept / "images" / "00000.tar"
    before = shard.stat().st_mtime_ns
    with locations.resolved("rooms:test?count=3", str(tmp_path / "labels")) as found:
        assert Path(found).resolve() == kept / "images"
    with locations.resolved("rooms:test?count=2", str(tmp_path / "labels")) as found:
        assert len(open_dataset(found).index(open_dataset(found).shards[0])) == 2
    assert shard.stat().st_mtime_ns == before
    assert [path.name for path in kept.parent.iterdir()] == ["rooms-test-3"]


@pytest.mark.slow
def test_packaged_and_rendered_data_is_opened_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "_HOME", tmp_path)
    reader = clipzoo.open_dataset("rooms:test?count=2")
    assert len(reader.index(reader.shards[0])) == 2
    with pytest.raises(DatasetError, match="is not of the form rooms:<split>"):
        clipzoo.open_dataset("rooms:nothere")


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("data: photos/*.tar", "photos/*.tar"),
        ("data: [a, {data: b/x, name: web}]", several.combine({"a": "a", "web": "b/x"})),
        ("data:", None), ("[1]", None), ("a: [", None),
    ],
)  # fmt: skip
def test_a_recipe_that_is_overwritten_keeps_its_dataset(tmp_path: Path, text: str, data: str | None) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert dataset_of(tmp_path / "recipe.yaml") == data


def test_new_with_force_does_not_fall_back_to_the_demo(dataset: Path, tiny_clip: str, answer: Answer) -> None:
    common = ["--yes", "--model", tiny_clip, "--expert", "demo:depth", "--bench", "none", "--device", "cpu"]
    given = ["new", "--force", *common]
    Path("recipe.yaml").write_text(f"data: {dataset}\n")
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert f"the dataset stays that of recipe.yaml: {dataset}" in " ".join(result.output.split())
    assert recipe.load("recipe.yaml", trust=True).location == str(dataset)
    Path("recipe.yaml").write_text("no recipe")
    assert "recipe.yaml exists and is no recipe, so its dataset is unknown: add --data" in answer(*given)
    assert Path("recipe.yaml").read_text() == "no recipe"


def test_times_have_their_usual_unit() -> None:
    told = [words.duration(seconds) for seconds in (0.3, 12, 400, 9000, 3.6e6)]
    assert told == ["less than 1 s", "12 s", "7 min", "2.5 hours", "1,000.0 hours"]
