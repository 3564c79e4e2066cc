"""Stores looked after: listed, removed, merged, verified, from Python and from the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipzoo import files
from clipzoo.cli import app
from clipzoo.errors import ExpertError, StoreError
from clipzoo.labeling import label
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Column, Store, merge, verify
from making import Bright, Near, encoded, image, make_dataset, samples

DOCS = Path(__file__).parent.parent / "docs" / "labels.md"


def labeled(data: Path, out: Path, shards: list[str], *experts, **options) -> Store:
    options = {"max_failures": 0.5, "progress": False, **options}
    label(str(data), experts or [Bright()], out, shards=shards, **options)
    return Store(out)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.suffix in (".tar", ".parquet")}


@pytest.fixture
def data(tmp_path) -> Path:
    return make_dataset(tmp_path / "data", shards=4)


@pytest.fixture
def parts(tmp_path, data) -> list[Store]:
    """Four shards labeled on two machines, one of which has a column more."""
    poisoned = Bright(poison=[image(3)[0, 0].tobytes()])
    first = labeled(data, tmp_path / "a", ["00000", "00002"], poisoned)
    labeled(data, tmp_path / "b", ["00001", "00003"], poisoned)
    second = labeled(data, tmp_path / "b", ["00001"], Near())
    for store, seconds in ((first, 20), (second, 300)):
        store.column("segmentation", "test-bright").finish(seconds)  # as if labeling had taken so long
    return [first, second]


# Merging ---------------------------------------------------------------------------------------------------


def test_merged_stores_are_the_store_that_one_machine_makes(tmp_path, data, parts):
    seen = []
    columns = merge(parts, Store(tmp_path / "out"), lambda *told: seen.append(told))
    assert [column.name for column in columns] == ["depth/test-near", "segmentation/test-bright"]
    assert seen[-1] == ("segmentation/test-bright", 4, 4)
    poisoned = Bright(poison=[image(3)[0, 0].tobytes()])
    labeled(data, tmp_path / "one", ["00001"], Near())
    labeled(data, tmp_path / "one", ["00000", "00001", "00002", "00003"], poisoned)
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    merged, alone = (Store(tmp_path / name).column("segmentation", "test-bright") for name in ("out", "one"))
    assert merged.manifest.counts == alone.manifest.counts
    assert (merged.manifest.counts.labels, merged.manifest.counts.failures) == (23, 1)
    assert merged.manifest.seconds == pytest.approx(320, abs=5)
    assert verify(Store(tmp_path / "out"), open_dataset(str(data))) == []


def test_merging_again_changes_nothing_and_a_source_may_be_the_target(tmp_path, parts):
    merge(parts, Store(tmp_path / "out"))
    before, spent = contents(tmp_path / "out"), Store(tmp_path / "out").columns()[1].manifest.seconds
    target = tmp_path / "out" / "segmentation" / "test-bright"
    for name in ("00003.parquet", "00003.tar", "00001.parquet"):  # as if killed before one, and in the midst of another
        (target / name).unlink()
    merge(parts, Store(tmp_path / "out"))
    assert contents(tmp_path / "out") == before
    assert not list(target.glob("*.tmp"))
    assert Store(tmp_path / "out").columns()[1].manifest.seconds == pytest.approx(spent)
    (again,) = merge([parts[0], Store(tmp_path / "out")], Store(tmp_path / "again"))[1:]
    assert again.manifest.seconds == pytest.approx(spent)
    merge([*parts, parts[0]], parts[0])
    assert contents(tmp_path / "a") == before


def test_a_shard_that_is_not_whole_is_left_out_and_said(tmp_path, parts, caplog):
    (parts[0].columns()[0].path / "00002.tar").unlink()
    (_, column) = merge(parts, Store(tmp_path / "out"))
    assert column.committed() == {"00000", "00001", "00003"}
    assert re.search(
        r"00002 is skipped: it is incomplete, .*a/segmentation/test-bright/00002\.tar is missing", caplog.text
    )


def test_a_merged_shard_does_not_change_with_its_source(tmp_path, parts):
    merge(parts, Store(tmp_path / "out"))
    before = contents(tmp_path / "out")
    label(str(tmp_path / "data"), [Bright()], tmp_path / "a", retry_failed=True, progress=False)
    assert contents(tmp_path / "a")["segmentation/test-bright/00000.tar"] not in before.values()
    assert contents(tmp_path / "out") == before


def test_files_are_copied_where_they_cannot_be_linked(tmp_path, parts, monkeypatch):
    def refuse(*paths: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    merge(parts, Store(tmp_path / "out"))
    assert len(contents(tmp_path / "out")) == 10


def test_conflicts_are_refused_before_anything_is_written(tmp_path, data, parts):
    labeled(data, tmp_path / "c", ["00000"])  # without the poison
    with pytest.raises(StoreError, match=r"have different labels for the shard '00000'. Remove 00000.parquet"):
        merge([*parts, Store(tmp_path / "c")], Store(tmp_path / "out"))
    other = Bright()
    other.card = replace(other.card, weights_sha256="ff")
    labeled(data, tmp_path / "d", ["00001"], other)
    with pytest.raises(StoreError, match="made with weights_sha256 = '00', the expert now has 'ff'"):
        merge([parts[0], Store(tmp_path / "d")], Store(tmp_path / "out"))
    elsewhere = make_dataset(tmp_path / "elsewhere", shards=3)
    labeled(elsewhere, tmp_path / "e", ["00001"], Near())  # of which the other store has no column
    said = r"a/segmentation/test-bright is a label store of another dataset: it has 4 .*e/depth/test-near has 3 shards"
    with pytest.raises(StoreError, match=said):
        merge([parts[0], Store(tmp_path / "e")], Store(tmp_path / "out"))
    with pytest.raises(StoreError, match="e/depth/test-near is a label store of another dataset"):
        merge(parts[:1], Store(tmp_path / "e"))
    with pytest.raises(StoreError, match=r"there is no label store at '.*none': the folder does not exist"):
        merge([parts[0], Store(tmp_path / "none")], Store(tmp_path / "out"))
    with parts[0].columns()[0].lock(), pytest.raises(StoreError, match="in use by process"):
        merge(parts, Store(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_target_is_locked_before_it_is_looked_at(tmp_path, parts, monkeypatch):
    """A run that ends between the look and the work would have its shards replaced."""
    merge(parts[:1], Store(tmp_path / "out"))
    locked, look = [], Column.committed

    def looked(self):
        if self.path.is_relative_to(tmp_path / "out"):
            try:
                with self.lock():
                    locked.append(False)
            except StoreError:
                locked.append(True)
        return look(self)

    monkeypatch.setattr(Column, "committed", looked)
    merge(parts, Store(tmp_path / "out"))
    assert locked[0]


def test_runs_are_added_at_once(tmp_path, parts, monkeypatch):
    """A store far away gets the whole file anew each time."""
    asked, append = [], files.append
    monkeypatch.setattr("clipzoo.files.append", lambda path, lines: asked.append(lines) or append(path, lines))
    merge(parts, Store(tmp_path / "out"))
    assert len(asked) == 4, "the runs of the sources and the end, of two columns"
    assert len(asked[-2].splitlines()) > 4


@pytest.mark.parametrize(("slug", "says"), [("../../../x", "not the name of a folder"), ("x", "Rename the folder to ")])
def test_a_manifest_cannot_lead_out_of_the_merged_store(tmp_path, parts, slug, says):
    path = parts[0].columns()[0].path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"slug": slug}))
    with pytest.raises(StoreError, match=says):
        merge(parts, Store(tmp_path / "out"))


# Removing --------------------------------------------------------------------------------------------------


def test_a_column_is_removed_and_nothing_else(tmp_path, data, parts):
    store = parts[1]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.tar").write_bytes(b"x")
    (store.root / "depth" / "test-near" / "link").symlink_to(outside)
    store.remove("depth", "test-near")
    assert [column.name for column in store.columns()] == ["segmentation/test-bright"]
    assert sorted(path.name for path in store.root.iterdir()) == ["segmentation"]
    assert (outside / "precious.tar").read_bytes() == b"x"
    assert verify(store, open_dataset(str(data))) == []


def test_what_is_no_column_of_the_store_is_not_removed(tmp_path, parts):
    first, second = parts
    with pytest.raises(StoreError, match="has no column"):
        first.remove("..", "b/depth")
    with first.columns()[0].lock(), pytest.raises(StoreError, match="in use by process"):
        first.remove("segmentation", "test-bright")
    shutil.move(tmp_path / "b" / "depth", tmp_path / "moved")
    (second.root / "depth").symlink_to(tmp_path / "moved")
    with pytest.raises(StoreError, match=r"is a link to .*moved/test-near"):
        second.remove("depth", "test-near")
    assert (tmp_path / "moved" / "test-near" / "manifest.json").exists()


def test_a_removal_that_is_killed_leaves_no_half_column(tmp_path, parts, monkeypatch):
    def die(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        parts[0].remove("segmentation", "test-bright")
    assert parts[0].columns() == []
    assert not (tmp_path / "a" / "segmentation" / "test-bright").exists()


# Command line ----------------------------------------------------------------------------------------------


def run(*arguments: object, answer: str = "", code: int = 0) -> str:
    result = CliRunner().invoke(app, ["labels", *map(str, arguments)], input=answer, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_ls_and_show(tmp_path, parts):
    told = run("ls", tmp_path / "b")
    for part in ("depth/test-near", "segmentation/test-bright", "unknown"):
        assert part in told
    told = run("show", tmp_path / "a", "segmentation/test-bright")
    assert '"weights_sha256": "00"' in told
    assert "event: shard" in told
    assert "1 × expert-failed: RuntimeError: out of luck\n" in told
    assert "    for example 00000/000003: the expert failed: RuntimeError: out of luck (on purpose)\n" in told
    with pytest.raises(StoreError, match="it has: segmentation/test-bright"):
        CliRunner().invoke(app, ["labels", "show", str(tmp_path / "a"), "depth/none"], catch_exceptions=False)


def test_every_failure_is_a_line(tmp_path, data, monkeypatch):
    def predict(images):
        raise RuntimeError("one\ttab,\ntwo lines \x1b[2J " + "long " * 100)

    expert = Bright()
    monkeypatch.setattr(expert, "predict", predict)
    with pytest.raises(ExpertError, match="all 12 samples failed"):
        labeled(data, tmp_path / "out", ["00000", "00002"], expert, max_failures=1.0)
    rows = [line.split("\t") for line in run("show", tmp_path / "out", "segmentation", "--failed").splitlines()]
    assert [row[:2] for row in rows] == [[f"0000{i // 6}", f"{i:06d}"] for i in (*range(6), *range(12, 18))]
    reason = r"the expert failed: RuntimeError: one\ttab,\ntwo lines \x1b[2J " + "long " * 100
    assert all(row[2:] == [reason] for row in rows)
    monkeypatch.undo()
    labeled(data, tmp_path / "out", ["00000", "00002"], expert, retry_failed=True)
    assert run("show", tmp_path / "out", "segmentation", "--failed") == ""


def test_a_damaged_column_is_no_hindrance_to_others(tmp_path, parts):
    (tmp_path / "b" / "depth" / "test-near" / "manifest.json").write_text("{")
    assert "test:bright" in run("show", tmp_path / "b", "segmentation/test-bright")
    assert "test:bright" in run("show", tmp_path / "b", "segmentation")
    told = run("ls", tmp_path / "b")
    assert re.search(r"depth/test-near .*manifest.json is damaged: .*labels rm", told)
    assert re.search(r"segmentation/test-bright .*test:bright", told)
    assert "manifest.json is damaged" in run("verify", tmp_path / "b", code=1)
    assert "deleted depth/test-near" in run("rm", tmp_path / "b", "depth/test-near", "--yes")
    assert "test-bright" in run("ls", tmp_path / "b")


def test_brackets_are_no_markup(tmp_path, data):
    expert = Bright()
    expert.card = replace(expert.card, uri="onnx:/m/[old]/n.yaml", license="[/x]")
    labeled(data, tmp_path / "[a]", ["00000"], expert)
    told = run("ls", tmp_path / "[a]")
    assert "onnx:/m/[old]/n.yaml" in told
    assert "[/x]" in told
    page = tmp_path / "[deep]" / "page.html"
    found = CliRunner().invoke(
        app, ["inspect", str(tmp_path / "[a]"), "--data", str(data), "--out", str(page)], env={"COLUMNS": "300"}
    )
    assert found.exit_code == 0, found.output
    assert "onnx:/m/[old]/n.yaml" in found.output
    assert "[deep]" in found.output
    assert page.exists()


def test_rm_asks(tmp_path, parts):
    assert "Delete 11 labels in" in run("rm", tmp_path / "a", "segmentation/test-bright", answer="n\n", code=1)
    assert len(parts[0].columns()) == 1
    run("rm", tmp_path / "a", "segmentation/test-bright", "--yes")
    assert parts[0].columns() == []


def test_merge_and_verify(tmp_path, data, parts):
    assert "segmentation/test-bright: 4 shards, 23 labels, 1 failure" in run(
        "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out"
    )
    alone = run("merge", tmp_path / "b", "--out", tmp_path / "part")
    assert "segmentation/test-bright: 2 of 4 shards" in alone
    assert "no problems" in run("verify", tmp_path / "out", "--data", data)
    other = make_dataset(tmp_path / "other", count=5)
    assert "is a label store of another dataset" in run("verify", tmp_path / "out", "--data", other, code=1)
    (tmp_path / "empty").mkdir()
    for verb in ("verify", "ls"):
        for name, why in (("uot", "the folder does not exist"), ("empty", "it has no column")):
            with pytest.raises(StoreError, match=f"there is no label store at '.*{name}': {why}"):
                CliRunner().invoke(app, ["labels", verb, str(tmp_path / name)], catch_exceptions=False)
    (tmp_path / "out" / "segmentation" / "test-bright" / "00001.tar").unlink()
    assert "00001: the tar is missing" in run("verify", tmp_path / "out", code=1)


def test_import_says_how_many_samples_matched(tmp_path, data):
    for i in range(5):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((12, 16), i % 2, np.uint8)).save(tmp_path / "masks" / f"{i:06d}.png")
    answers = ["--set", "task=segmentation", "--set", "classes=a b,c=d & e", "--set", "void=none"]
    command = ["import", data, tmp_path / "masks", "--format", "files", "--out", tmp_path / "out", *answers]
    with pytest.raises(
        ExpertError, match=r"19 of 24 .*Examples of their keys: '000005', .* is intended: --max-failures 80%"
    ):
        CliRunner().invoke(app, ["labels", *map(str, command)], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
    told = run(*command, "--max-failures", "80%")
    assert "24 samples, 19 without a label: 5 labeled, 19 failed" in told
    (column,) = Store(tmp_path / "out").columns()
    assert column.convention.classes == ("a b", "c=d & e")
    assert column.manifest.counts.labels == 5


def test_colors(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(np.array([[[128, 0, 0], [0, 0, 0]]], np.uint8)))
    assert "--set classes=palette:voc --set void=#e0e0c0" in run("colors", tmp_path)


# Documentation ---------------------------------------------------------------------------------------------


def test_the_documented_examples_run(tmp_path, monkeypatch):
    """Every command of docs/labels.md, on files of the form that it names."""
    monkeypatch.chdir(tmp_path)
    documented(tmp_path)
    commands = re.findall(r"^clipzoo labels ((?:.*\\\n)*.*)", DOCS.read_text(), re.MULTILINE)
    assert len(commands) >= 10
    for command in (command for command in commands if not re.search("…|://", command)):
        words = [word.strip("'") for word in command.partition("#  ")[0].replace("\\\n", " ").split()]
        result = CliRunner().invoke(app, ["labels", *words], catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
    columns = {column.name: column for column in Store("labels").columns()}
    assert all(column.manifest.counts.labels == 12 for column in columns.values())
    assert {column.task for column in columns.values()} == {"depth", "detection", "segmentation"}
    assert Store("bench/test/truth").names() == ["segmentation/truth"]
    (nyu,), (again,) = Store("nyu-labels").columns(), Store("again").columns()
    assert (nyu.manifest.counts.labels, again.manifest.counts.labels) == (12, 12)
    assert columns["depth/files-sunrgbd"].label("00000", columns["depth/files-sunrgbd"].rows("00000").to_pylist()[0])


def documented(root: Path) -> None:
    """The files that the examples name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("shards", "bench/test/images"):
        make_dataset(root / name)
    keys = [f"{i:06d}" for i in range(12)]
    folders = "depth masks ids Annotations panoptic sunrgbd alpha nyu/attic nyu-depth/attic"
    for name in folders.split():
        (root / name).mkdir(parents=True)
    gray = np.arange(500, 692).reshape(12, 16).astype(np.uint16)
    colors = np.zeros((12, 16, 3), np.uint8)
    colors[3:, 5:] = (128, 0, 0)
    sides = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>10</ymax>"
    xml = "<annotation><size><width>16</width><height>12</height></size>"
    xml += f"<object><name>dog</name><bndbox>{sides}</bndbox></object></annotation>"
    for i, key in enumerate(keys):  # no two alike
        moved = np.roll(colors, i, 1)
        Image.fromarray(gray + np.uint16(i)).save(root / "depth" / f"{key}.png")
        Image.fromarray((gray + np.uint16(i)) << 3).save(root / "sunrgbd" / f"{key}.png")
        Image.fromarray(gray + np.uint16(i)).save(root / "nyu-depth" / "attic" / f"sync_depth_{key}.png")
        Image.fromarray(image(i)).save(root / "nyu" / "attic" / f"rgb_{key}.png")
        (root / "nyu" / "attic" / f"rgb_{key}.txt").write_text("an attic")
        Image.fromarray(moved[..., 0]).save(root / "alpha" / f"{key}.png")
        Image.fromarray(moved).save(root / "masks" / f"{key}.png")
        Image.fromarray(moved[..., 0] // 128).save(root / "ids" / f"{key}.png")
        Image.fromarray(np.maximum(moved, (64, 0, 0)).astype(np.uint8)).save(root / "panoptic" / f"{key}.png")
        (root / "Annotations" / f"{key}.xml").write_text(xml.replace("<xmax>9", f"<xmax>{4 + i}"))
    white = [encoded(np.roll(colors[..., 0] // 128 * 255, i, 1)) for i in range(12)]
    both = [(key, {**dict(samples(1, i)[0][1]), "seg.png": white[i]}) for i, key in enumerate(keys)]
    write_shard(root / "masked" / "0.tar", both)
    images = [{"id": i, "file_name": f"{key}.jpg", "height": 12, "width": 16} for i, key in enumerate(keys)]
    file = {"images": images, "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "sky"}]}
    box = {"category_id": 1, "iscrowd": 0, "segmentation": [[1, 2, 4, 2, 4, 6, 1, 6]]}
    objects = [{"id": i, "image_id": i, "bbox": [1, 2, 3 + i, 4], **box} for i in range(12)]
    (root / "instances.json").write_text(json.dumps({**file, "annotations": objects}))
    segments = [{"id": 128, "category_id": 1}, {"id": 64, "category_id": 2}]
    maps = [{"image_id": i, "file_name": f"{key}.png", "segments_info": segments} for i, key in enumerate(keys)]
    (root / "panoptic.json").write_text(json.dumps({**file, "annotations": maps}))
    pictures = [{"bytes": encoded(image(i)), "path": None} for i in range(12)]
    told = [{"bbox": [[1.0, 2.0, 3.0 + i, 4.0]], "category": [0]} for i in range(12)]
    depth = [encoded(gray + np.uint16(i)) for i in range(12)]
    rows = {"image": pictures, "caption": ["a dog"] * 12, "objects": told, "depth": depth}
    pq.write_table(pa.table(rows), root / "photos.parquet")
    for name, shard in (("machine-a", "00000"), ("machine-b", "00001")):
        labeled(root / "shards", root / name, [shard], Near())
