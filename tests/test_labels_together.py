"""Label stores in combinations: several columns of a task, several codecs, lists of datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import clipzoo
from clipzoo import conformance, experts
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, DatasetError, ExpertError, StoreError
from clipzoo.labeling import export_labels, label
from clipzoo.labeling.colors import survey
from clipzoo.readers import open_dataset
from clipzoo.runs.folder import Folder
from clipzoo.store import Store, merge
from clipzoo.viewer.server import open_viewer
from making import Bright, Near, encoded, image, make_dataset, raw_tar


def test_a_task_with_several_columns_needs_the_name_of_one(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=1)
    label(str(data), [Bright("a"), Bright("b")], tmp_path / "labels", progress=False, check=False)
    for command in ("show", "rm"):
        with pytest.raises(StoreError, match=r"has 2 columns of segmentation. Give one of them: segmentation/test-a,"):
            CliRunner().invoke(
                app, ["labels", command, str(tmp_path / "labels"), "segmentation"], catch_exceptions=False
            )
    with pytest.raises(StoreError, match=r"has no column depth; it has: segmentation/test-a"):
        CliRunner().invoke(app, ["labels", "show", str(tmp_path / "labels"), "depth"], catch_exceptions=False)


def test_columns_with_and_without_levels_are_not_merged(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=2)
    stores = []
    for shard, codec in (("00000", "png-levels"), ("00001", "png-rle")):
        label(str(data), [Bright()], tmp_path / codec, shards=[shard], codec=codec, progress=False, check=False)
        stores.append(Store(tmp_path / codec))
    with pytest.raises(StoreError, match=r"has labels of the codec 'png-levels', .* of 'png-rle'. .* --codec"):
        merge(stores, Store(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("entry", ["chats é: data", "a: 3"])
def test_the_invalid_entry_of_a_list_of_datasets_is_shown(entry: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(f"datasets:\n  fine: data\n  {entry}\n", encoding="utf-8")
    name, _, value = entry.partition(": ")
    with pytest.raises(DatasetError, match=f"has the invalid entry '{name}': .*{value}.*a name has letters, digits"):
        open_dataset(str(tmp_path / "all.yaml"))


def test_the_invalid_name_of_a_mapping_of_datasets_is_shown() -> None:
    with pytest.raises(DatasetError, match=r"has the invalid entry 'b b': 'y'. Write names of letters"):
        open_dataset('{"a": "x", "b b": "y"}')


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("column:depth/x?to=normals&fov=60", "reads the column depth/x"),
        ("files:.?task=depth&{}", "reads existing labels"),
    ],
)
def test_labels_that_no_model_predicts_are_not_checked_as_an_expert(uri: str, what: str) -> None:
    expert = experts.create(uri.format("kind=metric&along=z&scale=1&invalid=0"))
    with pytest.raises(ExpertError, match=rf"{what}, so .* `clipzoo labels verify STORE --data DATA`"):
        conformance.check(expert)


def test_the_colors_of_a_folder_that_does_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match=r"none is not a folder. Give the folder of the masks"):
        survey(tmp_path / "none")


def test_a_page_is_not_written_over_a_folder(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=1)
    with pytest.raises(StoreError, match=r"data: it is a folder. Give the path of a file"):
        clipzoo.check(str(data), data, progress=False)


def test_a_table_has_lists_of_classes_only_for_columns_with_classes(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=1)
    label(str(data), [Bright(), Near()], tmp_path / "labels", progress=False, check=False)
    export_labels(tmp_path / "labels", data, "hf", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.classes.txt")] == ["segmentation.classes.txt"]
    assert "the number of the class in segmentation.classes.txt" in (tmp_path / "out" / "README.md").read_text()


def test_an_import_counts_every_sample_once(tmp_path: Path) -> None:
    picture = encoded(image(0))
    raw_tar(tmp_path / "data" / "0.tar", [("a.png", picture), ("a.txt", b"a"), ("b.png", picture), ("b.txt", b"b")])
    raw_tar(tmp_path / "data" / "1.tar", [("c.png", picture)])  # no caption
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(encoded(np.zeros((12, 16), np.uint8)))
    options = ["task=segmentation", "classes=x,y", "void=none"]
    command = ["import", str(tmp_path / "data"), str(tmp_path / "masks"), "--format", "files", "--max-failures", "1"]
    given = [part for option in options for part in ("--set", option)]
    told = CliRunner().invoke(app, ["labels", *command, "--out", str(tmp_path / "labels"), *given])
    assert "3 samples, 1 without a label: 1 labeled, 2 failed" in told.output


def test_a_variant_finds_its_run_by_a_path_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run, variant = Folder("../run"), Folder("../run/advice/short")
    variant.path.mkdir(parents=True)
    variant.share(run, ["clip"], rates=False)
    assert variant.base is not None
    assert variant.base.folder.path == tmp_path / "run"


def test_a_similar_path_is_a_question_inside_of_the_sentence(tmp_path: Path) -> None:
    (tmp_path / "myrun").mkdir()
    with pytest.raises(CheckpointError, match=r"norun does not exist \(did you mean myrun\?\)\. Give the folder"):
        clipzoo.load(tmp_path / "norun")


@pytest.mark.parametrize(("made", "shown"), [("", ""), ("?captions=optional", ""), ("?captions=optional",) * 2])
def test_the_viewer_shows_labels_of_data_where_a_sample_has_no_caption(made: str, shown: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, content in (("a.png", encoded(image(0))), ("a.txt", b"a"), ("b.png", encoded(image(1)))):
        (data / name).write_bytes(content)
    label(f"{data}{made}", [Bright()], tmp_path / "labels", progress=False, check=False, max_failures=1.0)
    viewer = open_viewer(tmp_path / "labels", f"{data}{shown}")
    viewer.start()
    try:
        assert viewer.entries.of(0).key == "a"  # its pictures are those that were labeled
        assert viewer.entries.of(1).error is None  # shown, also if it was not labeled for want of a caption
    finally:
        viewer.close()


def test_the_viewer_refuses_another_dataset(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=1)
    label(str(data), [Bright()], tmp_path / "labels", progress=False, check=False)
    with pytest.raises(StoreError, match="is a label store of another dataset"):
        open_viewer(tmp_path / "labels", make_dataset(tmp_path / "other", shards=1, count=3))
