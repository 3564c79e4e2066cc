"""Preflight checks: mistakes in the paths of a recipe are found before labeling and training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv, parquet
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.experts import ExpertCard
from clipzoo.models._open_clip import check_model
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.runs.before.preflight import check_places, check_splits
from clipzoo.store import Store
from clipzoo.tasks import Convention
from making import make_dataset


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Return a folder with data and three different splits."""
    make_dataset(tmp_path / "data", shards=1)
    for more, split in enumerate(("probe", "validation", "test"), 1):
        make_dataset(tmp_path / "bench" / split / "images", shards=1, count=6 + more)
    return tmp_path


def made(root: Path, **splits: str) -> recipe.Recipe:
    given = (
        {"data": str(root / "data")} | {s: str(root / "bench" / s) for s in ("probe", "validation", "test")} | splits
    )
    return recipe.parse(
        {
            "name": "x", "data": given.pop("data"), "student": {"model": "demo:clip"}, "training": {"steps": 1},
            "arms": ["clip"], "evaluation": given,
        }
    )  # fmt: skip


def test_disjoint_splits_are_accepted(places: Path) -> None:
    check_splits(made(places))
    check_splits(made(places, data="demo:captioned", probe="demo:probe", test="rooms:test?count=9"))


def test_labels_that_are_not_used_may_differ(places: Path) -> None:
    label(places / "bench" / "test", "a", "b")
    label(places / "bench" / "probe", "a", "b")
    label(places / "bench" / "validation", "c", "d")
    with pytest.raises(RecipeError, match=r"the true labels of evaluation\.\w+ and evaluation\.\w+ differ"):
        check_splits(made(places))
    check_splits(made(places), {"probe", "test"})  # a preset of `clipzoo eval RUN` on other benchmarks
    guarded = made(places).model_dump(mode="json")
    guarded["training"]["guard"] = {"benchmark": guarded["evaluation"].pop("validation")}
    del guarded["evaluation"]["probe"]
    check_splits(recipe.parse(guarded))


def label(folder: Path, *classes: str) -> None:
    """Add true labels of segmentation with these classes to a benchmark; no image has one."""
    card = ExpertCard("truth", "segmentation", Convention(classes))
    Store(folder / "truth").create(card, fingerprint(open_dataset(str(folder / "images"))))


def test_a_split_that_is_not_a_benchmark_is_refused(places: Path) -> None:
    images = places / "bench" / "test" / "images"
    make_dataset(places / "bench" / "test" / "truth" / "x", shards=1)
    with pytest.raises(RecipeError, match=r"evaluation.test .* has no column <task>/truth; it has: none"):
        check_splits(made(places))
    shutil.rmtree(images)
    (images / "0").mkdir(parents=True)
    (images / "0" / "a.jpg").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"evaluation.test .* is not a benchmark folder: .* holds a .tar"):
        check_splits(made(places))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test": "bench/probe"}, "evaluation.test is .*bench/probe', whose images are those of evaluation.probe"),
        ({"test": "bench/probe/../probe"}, "those of evaluation.probe"),
        ({"test": "link"}, "those of evaluation.validation"),
        ({"test": "copy"}, "those of evaluation.validation"),
        ({"heldout": "bench/test"}, "evaluation.heldout is .* those of evaluation.test"),
        ({"data": "bench"}, "evaluation.probe is .* those of data"),
        ({"data": "bench/test/images"}, "evaluation.test is .* those of data"),
        ({"validation": "demo:probe", "probe": "rooms:probe?count=50"}, "those of evaluation.probe"),
        ({"data": "rooms:captioned?count=50", "test": "demo:captioned"}, "those of data"),
    ],
)
def test_splits_with_common_pictures_are_refused(places: Path, change: dict[str, str], says: str) -> None:
    shutil.copytree(places / "bench" / "validation", places / "copy")
    (places / "link").symlink_to(places / "bench" / "validation")
    there = {name: text if ":" in text else str(places / text) for name, text in change.items()}
    with pytest.raises(RecipeError, match=says):
        check_splits(made(places, **there))


def test_a_dry_run_refuses_equal_splits(places: Path) -> None:
    (places / "r.yaml").write_text(made(places, test=str(places / "bench" / "probe")).to_yaml())
    result = CliRunner().invoke(app, ["run", str(places / "r.yaml"), "--out", str(places / "run"), "--dry-run"])
    assert "whose images are those of evaluation.probe" in str(result.exception)


def test_paths_relative_to_the_recipe_are_refused_with_the_folder_to_start_in(
    places: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "card.yaml").touch()
    (places / "my clip").mkdir()
    values: dict[str, Any] = {
        "name": "x", "data": "data/{00000..00001}.tar", "store": "bench", "training": {"steps": 1},
        "student": {"model": "local-dir:my clip"}, "evaluation": {"test": "bench/test"},
        "columns": [{"expert": "onnx:card.yaml?batch_size=1"}, {"expert": "demo:depth"}],
    }  # fmt: skip
    (places / "r.yaml").write_text(recipe.parse(values).to_yaml())
    monkeypatch.chdir(places)
    check_places(recipe.load("r.yaml"), Path("r.yaml"))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    result = CliRunner().invoke(app, ["train", str(places / "r.yaml"), "--dry-run"])
    told = str(result.exception)
    for name, place in {
        "data": "data", "store": "bench", "student.model": "my clip", "evaluation.test": "bench/test",
        "columns.0.expert": "card.yaml",
    }.items():  # fmt: skip
        assert f"  {name}: {elsewhere / place} does not exist, but {places / place} does\n" in told
    assert "columns.1" not in told
    assert f"Start clipzoo in {places}, or change these paths" in told


@pytest.mark.parametrize(
    ("model", "weights", "says"),
    [
        ("ViT-B-17", None, "no model 'ViT-B-17'.*did you mean ViT-B-16"),
        ("ViT-B/16", "openai", "did you mean ViT-B-16"),
        ("zzz", None, "the nearest of .* are: "),
        ("RN50", "opanai", "no weights 'opanai'.*its tags are openai, yfcc15m, cc12m; did you mean openai"),
    ],
)
def test_unknown_models_and_weights_come_with_suggestions(model: str, weights: str | None, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        check_model(model, weights)


def test_weights_may_be_a_file_or_a_tag_with_hyphens(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    check_model("RN50", str(tmp_path / "w.pt"))
    check_model("ViT-B-32", "laion2b-s34b-b79k")


def test_data_that_names_files_of_a_benchmark_is_refused(places: Path) -> None:
    tar, other = places / "bench" / "test" / "images" / "00000.tar", places / "data" / "00000.tar"
    (places / "list.txt").write_text(f"{other}\n{tar}\n")
    (places / "apart.txt").write_text(f"{other}\n")
    for data in (tar, places / "bench" / "*" / "images" / "*.tar", places / "list.txt"):
        with pytest.raises(RecipeError, match=r"evaluation\.\w+ is .*, whose images are those of data"):
            check_splits(made(places, data=str(data)))
    check_splits(made(places, data=str(places / "apart.txt")))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_that_names_pictures_of_a_benchmark_is_refused(places: Path, kind: str) -> None:
    voc = places / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for name in ("seen", "new"):
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(voc / "JPEGImages" / f"{name}.jpg")
        Image.new("P", (8, 8)).save(voc / "SegmentationClass" / f"{name}.png")
    (voc / "ImageSets/Segmentation/val.txt").write_text("seen\n")
    for name, expected in (("seen", True), ("new", False)):
        table = pa.table({"image": [f"JPEGImages/{name}.jpg"], "caption": ["a thing"]})
        path = voc / f"{name}.{kind}"
        csv.write_csv(table, path) if kind == "csv" else parquet.write_table(table, path)
        recipe_of_table = made(places, data=str(path), test=f"voc:{voc}?split=val")
        if expected:
            with pytest.raises(RecipeError, match=r"evaluation\.test is .*, whose images are those of data"):
                check_splits(recipe_of_table, measured=("probe",))
        else:
            check_splits(recipe_of_table, measured=("probe",))


def test_tars_next_to_those_that_a_benchmark_reads_may_be_trained_on(places: Path) -> None:
    """In CLIP_benchmark's layout, ``images/`` has ``train/`` and ``test/``, and only the latter is measured."""
    images = places / "bench" / "test" / "images"
    shutil.rmtree(images)
    make_dataset(images / "test", shards=1, count=5)
    make_dataset(images / "train", shards=1, count=13)
    for data in (images / "train" / "00000.tar", images / "train" / "*.tar"):
        check_splits(made(places, data=str(data)))
    for data in (images / "test" / "00000.tar", images / "*" / "*.tar"):
        with pytest.raises(RecipeError, match=r"evaluation\.test is .*, whose images are those of data"):
            check_splits(made(places, data=str(data)))


def test_a_damaged_row_group_does_not_end_the_comparison(places: Path) -> None:
    table = pa.table({"image": [f"{i:08d}.jpg" for i in range(64)], "caption": [f"thing {i}" for i in range(64)]})
    path = places / "names.parquet"
    parquet.write_table(table, path, row_group_size=32, compression="NONE", use_dictionary=False)
    meta = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    damaged = bytearray(path.read_bytes())
    damaged[meta.data_page_offset : meta.data_page_offset + 40] = bytes(40)
    path.write_bytes(damaged)
    (named,) = open_dataset(str(path)).shards
    assert len(open_dataset(str(path)).named_files(named)) == 32
