"""Stores and runs that somebody else made: nothing is written through their links, and nothing in them blocks."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clipzoo import files, locations, recipe
from clipzoo.cli import app
from clipzoo.cli._console import load_recipe
from clipzoo.data import Plan
from clipzoo.errors import CheckpointError, DatasetError, RecipeError, StoreError
from clipzoo.evaluation import zero_shot
from clipzoo.evaluation.measure import Scored
from clipzoo.export import Source, export_student
from clipzoo.labeling import label
from clipzoo.models import Student
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.runs import Run
from clipzoo.store import Column, Store, merge
from clipzoo.training import checkpoint
from making import Bright, image, make_dataset

PRECIOUS = b"not to be overwritten\n"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_bytes(PRECIOUS)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


def labeled(data: Path, out: Path, shards: list[str] | None = None) -> Column:
    label(str(data), [Bright()], out, shards=shards, progress=False)
    (column,) = Store(out).columns()
    return column


# One way to write ------------------------------------------------------------------------------------------


def test_a_link_at_a_files_place_is_replaced_and_not_followed(tmp_path, precious):
    link = tmp_path / "link"
    link.symlink_to(precious)
    files.write(link, b"new")
    assert (link.is_symlink(), link.read_bytes(), precious.read_bytes()) == (False, b"new", PRECIOUS)


def test_a_draft_is_a_new_file_whatever_is_there(tmp_path, precious, monkeypatch):
    class Foreseen:
        hex = "0" * 32

    monkeypatch.setattr("clipzoo.files._writing.uuid4", Foreseen)
    (tmp_path / "a.00000000.tmp").symlink_to(precious)
    with pytest.raises(FileExistsError):
        files.write(tmp_path / "a", b"new")
    assert precious.read_bytes() == PRECIOUS


def test_lines_are_not_added_through_a_link(tmp_path, precious):
    (tmp_path / "runs.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match=r"it is a link to .*precious, and nothing is written through links: remove it"):
        files.append(tmp_path / "runs.jsonl", b"{}")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe or a device"):
        files.append(tmp_path / "pipe", b"{}")
    assert precious.read_bytes() == PRECIOUS


def test_what_dead_writers_left_of_a_file_is_removed_by_its_only_writer(tmp_path):
    for name in ("a.01234567.tmp", "b.01234567.tmp"):
        (tmp_path / name).write_bytes(b"half")
    files.write(tmp_path / "a", b"whole", exclusive=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.01234567.tmp"]


def test_a_file_that_the_user_has_named_is_written_through_the_users_link(tmp_path, precious):
    (tmp_path / "page.html").symlink_to(precious)
    files.write_output(tmp_path / "page.html", b"<html>")
    assert (tmp_path / "page.html").is_symlink()
    assert precious.read_bytes() == b"<html>"
    files.write_output(Path("/dev/null"), b"<html>")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize(("sync", "synced"), [(True, 2), (False, 0)])
def test_contents_and_name_are_synced_unless_it_is_not_asked_for(tmp_path, monkeypatch, sync, synced):
    seen = []
    monkeypatch.setattr("clipzoo.files._writing._sync", seen.append)
    files.write(tmp_path / "a", b"x", sync=sync)
    assert len(seen) == synced


def test_new_folders_are_synced_too(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("clipzoo.files._writing._sync", seen.append)
    files.write(tmp_path / "a" / "b" / "c", b"x")
    assert [tmp_path, tmp_path / "a", tmp_path / "a" / "b"] == [path for path in seen if path.is_dir()]


# Stores ----------------------------------------------------------------------------------------------------


def test_a_lock_that_is_a_link_is_refused(tmp_path, data, precious):
    column = labeled(data, tmp_path / "out")
    (column.path / ".lock").unlink()
    (column.path / ".lock").symlink_to(precious)
    with pytest.raises(StoreError, match=r"\.lock: it is a link to .*: remove it$"), column.lock():
        pass
    with pytest.raises(StoreError, match=r"\.lock \(it is a link to .*: remove it\), which shows if"):
        merge([Store(tmp_path / "out")], Store(tmp_path / "merged"))
    assert precious.read_bytes() == PRECIOUS


def test_a_merge_replaces_links_and_does_not_follow_them(tmp_path, data, precious):
    source, target = labeled(data, tmp_path / "a"), labeled(data, tmp_path / "b", ["00000"])
    for name in ("00001.tar", "00001.parquet.tmp", "00001.tar.tmp"):
        (target.path / name).symlink_to(precious)
    merge([Store(tmp_path / "a")], Store(tmp_path / "b"))
    assert precious.read_bytes() == PRECIOUS
    assert not list(target.path.glob("*.tmp"))
    assert (target.path / "00001.tar").read_bytes() == (source.path / "00001.tar").read_bytes()
    assert not (target.path / "00001.tar").is_symlink()


def test_a_manifest_or_a_log_of_runs_that_is_a_link(tmp_path, data, precious):
    column = labeled(data, tmp_path / "a")
    (column.path / "manifest.json").rename(tmp_path / "manifest.json")
    (column.path / "manifest.json").symlink_to(tmp_path / "manifest.json")
    before = (tmp_path / "manifest.json").read_bytes()
    column.finish(note="again")
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert not (column.path / "manifest.json").is_symlink()
    (column.path / "runs.jsonl").unlink()
    (column.path / "runs.jsonl").symlink_to(precious)
    with pytest.raises(StoreError, match=r"runs\.jsonl|test-bright: it is a link to .*precious"):
        column.finish()
    assert precious.read_bytes() == PRECIOUS


@pytest.mark.parametrize("at", ["segmentation", "segmentation/test-bright", "segmentation/test-bright/deep"])
def test_a_folder_of_a_store_that_leads_elsewhere_is_not_written_into(tmp_path, data, at):
    labeled(data, tmp_path / "a", ["00000"])
    inside, outside = tmp_path / "a" / at, tmp_path / "outside"
    if inside.exists():
        inside.rename(outside)
    else:
        outside.mkdir()
    inside.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    with pytest.raises(StoreError, match=rf"{at} is a link to .*outside, outside of .*/a\. Nothing is written"):
        label(str(data), [Bright()], tmp_path / "a", progress=False)
    labeled(data, tmp_path / "b")
    with pytest.raises(StoreError, match="Nothing is written through it"):
        merge([Store(tmp_path / "b")], Store(tmp_path / "a"))
    assert sorted(outside.rglob("*")) == before


def test_a_store_that_the_user_names_may_be_a_link_itself(tmp_path, data):
    (tmp_path / "large").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large")
    assert labeled(data, tmp_path / "out").committed() == {"00000", "00001"}


@pytest.mark.parametrize("name", ["manifest.json", "runs.jsonl", "00000.parquet", "00000.tar"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_in_a_store_blocks_nobody(tmp_path, data, name, kind):
    column = labeled(data, tmp_path / "a")
    (column.path / name).unlink()
    if kind == "pipe":
        os.mkfifo(column.path / name)
    else:
        (column.path / name).symlink_to("/dev/zero")
    asked = {
        "manifest.json": lambda: Store(tmp_path / "a").columns(),
        "runs.jsonl": column.seconds_in_use,
        "00000.parquet": lambda: column.rows("00000"),
        "00000.tar": lambda: column.read("00000", 0, 512),
    }
    with pytest.raises(StoreError, match=r"pipe or a device|not a file"):
        asked[name]()
    with pytest.raises(StoreError, match=rf"{name} is a pipe or device, but only files are expected there|not a file"):
        label(str(data), [Bright()], tmp_path / "a", progress=False)


def test_a_pipe_among_shards_of_a_dataset_blocks_nobody(tmp_path, data):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(OSError, match="pipe or a device"):
        files.open_raw(tmp_path / "pipe.tar")
    with pytest.raises(OSError, match="pipe or a device"):
        files.read_at(tmp_path / "pipe.tar", 0, 10)
    (tmp_path / "pipe.tar").rename(data / "00002.tar")
    assert open_dataset(str(data)).shards


# Merging from what can only be read -------------------------------------------------------------------------


def test_a_merge_writes_nothing_into_its_sources(tmp_path, data):
    source = labeled(data, tmp_path / "a")
    (source.path / ".lock").unlink()
    (source.path / "00009.tar.01234567.tmp").write_bytes(b"half")
    kept = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "a").rglob("*")}
    merge([Store(tmp_path / "a")], Store(tmp_path / "out"))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "a").rglob("*")} == kept


def test_a_source_that_is_being_written_is_refused_without_touching_its_lock(tmp_path, data):
    source = labeled(data, tmp_path / "a")
    with source.lock(), pytest.raises(StoreError, match=rf"is in use by process {os.getpid()} on \S+: a merge would"):
        merge([Store(tmp_path / "a")], Store(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nobody_begins_to_write_a_source_while_it_is_merged(tmp_path, data):
    source = labeled(data, tmp_path / "a")
    tried = []

    def begin(*told: object) -> None:
        with pytest.raises(StoreError, match="in use"), source.lock():
            pass
        tried.append(told)

    merge([Store(tmp_path / "a")], Store(tmp_path / "out"), begin)
    assert tried
    with source.lock():
        pass


def test_a_merge_takes_the_file_that_a_link_leads_to(tmp_path, data):
    """Hubs keep a downloaded store as links to files elsewhere."""
    source = labeled(data, tmp_path / "a")
    for name in ("00000.tar", "00000.parquet"):
        (source.path / name).rename(tmp_path / name)
        (source.path / name).symlink_to(tmp_path / name)
    (merged,) = merge([Store(tmp_path / "a")], Store(tmp_path / "out"))
    assert not [path for path in merged.path.iterdir() if path.is_symlink()]
    assert json.loads((merged.path / "manifest.json").read_bytes())["counts"]["labels"] == 12


# Runs ------------------------------------------------------------------------------------------------------


def simple(data: Path, **values: object) -> recipe.Recipe:
    columns = [{"expert": "demo:depth", "weight": 1}]
    student = {"model": "demo:clip", "layers": [1]}
    return recipe.parse(
        {"name": "a", "data": str(data), "student": student, "columns": columns, "training": {"steps": 1}, **values}
    )


@pytest.mark.parametrize("name", ["labels", "arms", "data", "scores", "arms/clipzoo/0"])
def test_a_folder_of_a_run_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path, data, name):
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(outside)
    with pytest.raises(CheckpointError, match=rf"run/{name} is a link to .*outside, outside of .*as store:"):
        Run(simple(data), run)
    assert not (run / "recipe.yaml").exists()
    assert not list(outside.iterdir())


def test_a_pipe_in_a_runs_folder_blocks_nobody(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    os.mkfifo(run / "recipe.yaml")
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is a pipe or device, but only files are expected there"):
        load_recipe(run, None, None, trust=False)


def test_files_of_a_run_that_are_links_are_replaced_and_not_followed(tmp_path, data, precious):
    reader = open_dataset(str(data))
    score = Scored("zero_shot", ("a",), np.ones((1, 3)), zero_shot.METRIC)
    writers = {
        "plan.parquet": Plan.build(reader, {}).save,
        "checkpoint.pt": lambda path: checkpoint.save(path, {"step": 1}),
        "zero_shot.npz": score.save,
        "00000.tar": lambda path: write_shard(path, [("a", {"txt": b"a"})]),
    }
    for name, write in writers.items():
        (tmp_path / name).symlink_to(precious)
        for left in (f"{name}.tmp", f"{name}.01234567.tmp", "checkpoint.tmp"):
            if not (tmp_path / left).is_symlink():
                (tmp_path / left).symlink_to(precious)
        write(tmp_path / name)
        assert (precious.read_bytes(), (tmp_path / name).is_symlink()) == (PRECIOUS, False), name
        assert not (tmp_path / f"{name}.01234567.tmp").is_symlink(), "what a dead writer left"


def test_a_student_is_saved_through_no_link(tmp_path, tiny_clip, precious):
    student, folder = Student.create(tiny_clip), tmp_path / "student"
    student.save(tmp_path / "plain")
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert len(names) >= 4
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(precious)
    student.save(folder)
    assert precious.read_bytes() == PRECIOUS
    assert {name: (folder / name).read_bytes() for name in names} == {
        name: (tmp_path / "plain" / name).read_bytes() for name in names
    }


def test_an_export_is_begun_in_a_new_folder(tmp_path, tiny_clip):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out.partial").symlink_to(outside)
    pixels = [image(0, (32, 32))]
    export_student("open_clip", Source(Student.create(tiny_clip), pixels, ["a picture"]), tmp_path / "out")
    assert not list(outside.iterdir())
    assert (tmp_path / "out" / "parity.json").is_file()


def test_packaged_data_is_unpacked_into_the_store_and_nowhere_else(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / ".data").symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match=r"labels/\.data is a link to .*outside"):
        locations.resolve_into_store("demo:captioned", str(tmp_path / "labels"))
    assert not list((tmp_path / "outside").iterdir())


# Everything that writes a file ------------------------------------------------------------------------------


def test_every_file_is_written_by_one_way():
    """What opens a file for writing by its name would follow a link there."""
    source = Path(files.__file__).parent.parent
    by_name = re.compile(r"\.write_(text|bytes)\(|\.touch\(|\.open\(\"[wax]|\bopen\([^)]*\"[wax]b?\+?\"")
    allowed = {
        "files/_writing.py": 2,  # into the draft; into a pipe of the user's
        "files/_copies.py": 1,  # a scratch file
        "evaluation/measure.py": 1, "readers/webdataset/writing.py": 1, "store/writer.py": 1,
        "training/checkpoint.py": 1, "labeling/exports/coco.py": 1, "labeling/exports/__init__.py": 1,
        "labeling/exports/_folder.py": 1, "labeling/exports/fiftyone.py": 1, "labeling/exports/hf.py": 1,
        "labeling/exports/png.py": 1, "labeling/exports/voc.py": 2, "labeling/exports/webdataset.py": 1,  # into drafts
        "app/page.py": 1,  # into a folder of its own
        "labeling/_progress.py": 1, "store/manifest.py": 1, "runs/new_recipe.py": 1,  # what the user has named
    }  # fmt: skip
    found = {
        path.relative_to(source).as_posix(): count
        for path in sorted(source.rglob("*.py"))
        if (count := len(by_name.findall(path.read_text())))
    }
    assert found == allowed


# What is refused leaves nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "options", "says"),
    [
        ("run", [], "evaluation.test is not set"),
        ("eval", [], "evaluation.test is not set"),
        ("train", ["--arm", "clip"], "arm"),
    ],
)
def test_a_recipe_that_a_verb_refuses_leaves_no_folder(tmp_path, data, verb, options, says):
    path = tmp_path / "a.yaml"
    path.write_text(simple(data).to_yaml())
    ended = CliRunner().invoke(app, [verb, str(path), "--out", str(tmp_path / "run"), *options])
    assert isinstance(ended.exception, RecipeError)
    assert says in str(ended.exception)
    assert not (tmp_path / "run").exists()
