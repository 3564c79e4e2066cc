"""The store on disk: layout, bytes, refusals, repair."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipzoo.data import Plan
from clipzoo.errors import LabelError, StoreError
from clipzoo.experts import ExpertCard
from clipzoo.files import _writing
from clipzoo.readers import fingerprint, open_dataset, shard_fingerprint
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import SCHEMA, Column, ColumnWriter, Store, merge, verification, verify
from clipzoo.tasks import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from making import Bright, Near, image, make_dataset, samples

KEYS = [f"{i:06d}" for i in range(6)]


@pytest.fixture
def reader(tmp_path):
    return open_dataset(str(make_dataset(tmp_path / "data")))


@pytest.fixture
def column(tmp_path, reader) -> Column:
    return Store(tmp_path / "labels").create(Bright().card, fingerprint(reader))


def fill(column: Column, shard: str = "00000", first: int = 0, order=None) -> None:
    keys = [f"{first + i:06d}" for i in range(6)]
    with ColumnWriter(column, shard, keys) as writer:
        for key in order or keys:
            if key == keys[4]:
                writer.fail(key, "no luck")
            else:
                writer.add(key, Bright.one(image(int(key))))


def files(column: Column) -> set[str]:
    return {path.relative_to(column.path).as_posix() for path in column.path.rglob("*") if path.is_file()}


def test_layout_and_rows(column):
    fill(column)
    assert column.path.parts[-2:] == ("segmentation", "test-bright")
    assert files(column) == {"manifest.json", "00000.tar", "00000.parquet"}
    assert column.committed() == {"00000"}
    rows = column.rows("00000")
    assert rows.schema == SCHEMA
    assert rows["key"].to_pylist() == KEYS
    failed = rows.to_pylist()[4]
    assert failed == {
        "key": "000004", "offset": None, "size": None, "valid_share": 0.0, "confidence": None, "error": "no luck",
        "code": "unusable",
    }  # fmt: skip


def test_labels_come_back(column):
    fill(column)
    for row in column.rows("00000").to_pylist():
        if row["error"] is None:
            label, expected = column.label("00000", row), Bright.one(image(int(row["key"])))
            assert np.array_equal(label.ids, expected.ids)
            assert row["valid_share"] == pytest.approx(expected.valid.mean())
            assert row["confidence"] == pytest.approx(0.75)
        else:
            with pytest.raises(StoreError, match="no luck"):
                column.label("00000", row)


def test_members_are_named_by_key_and_hold_what_rows_point_to(column):
    fill(column)
    rows = {row["key"]: row for row in column.rows("00000").to_pylist()}
    with tarfile.open(column.path / "00000.tar") as tar:
        for member in tar:
            row = rows[member.name.removesuffix(".png")]
            assert (member.offset_data, member.size, member.mtime, member.uid) == (row["offset"], row["size"], 0, 0)
            assert tar.extractfile(member).read() == column.read("00000", row["offset"], row["size"])


def test_equal_labels_give_equal_bytes_in_any_order_of_rows(tmp_path, reader):
    made = [Store(tmp_path / name).create(Bright().card, fingerprint(reader)) for name in "ab"]
    for column in made:
        fill(column)
    for name in ("00000.tar", "00000.parquet", "manifest.json"):
        assert (made[0].path / name).read_bytes() == (made[1].path / name).read_bytes()
    fill(made[1], order=KEYS[::-1])
    assert made[1].rows("00000")["key"].to_pylist() == KEYS


THREADS = """
import sys
from pathlib import Path
from clipzoo.store import Store

def threads():  # without that of Arrow's allocator, which holds nothing of Python
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum(not name.startswith("jemalloc") for name in names)

(column,) = Store(sys.argv[1]).columns()
before = threads()
rows = column.rows("00000")
print(threads() - before, len(rows))
"""


def test_rows_are_read_without_threads_of_arrow(tmp_path: Path, column: Column) -> None:
    """Such a thread may free a buffer of Python while the interpreter ends, which aborts a run that was successful."""
    fill(column)
    command = [sys.executable, "-c", THREADS, str(column.path.parents[1])]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["0", "6"]


def test_nested_shards(column):
    fill(column, "train/00000")
    assert column.committed() == {"train/00000"}
    with pytest.raises(StoreError, match=r"without '\.\.'"):
        ColumnWriter(column, "../00000")


def test_an_exception_leaves_nothing(column):
    writer = ColumnWriter(column, "00000")
    writer.__enter__()
    writer.add("a", Bright.one(image(0)))
    assert {re.sub(r"\.\w{8}\.tmp", ".tmp", name) for name in files(column)} == {"manifest.json", "00000.tar.tmp"}
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert files(column) == {"manifest.json"}


def test_a_failed_rewrite_keeps_what_was_committed(column):
    fill(column)
    before = (column.path / "00000.tar").read_bytes()
    with pytest.raises(RuntimeError), ColumnWriter(column, "00000"):
        raise RuntimeError
    assert column.committed() == {"00000"}
    assert (column.path / "00000.tar").read_bytes() == before


def test_commit_demands_a_row_a_key_and_a_key_once(column):
    with pytest.raises(StoreError, match="'b' has none"), ColumnWriter(column, "0", ["a", "b"]) as writer:
        writer.fail("a", "x")
    with ColumnWriter(column, "0") as writer:
        writer.fail("a", "x")
        with pytest.raises(StoreError, match="occurs twice"):
            writer.fail("a", "y")
    assert column.committed() == {"0"}


def test_a_label_that_breaks_the_contract_is_not_written(column):
    with ColumnWriter(column, "0", ["a"]) as writer:
        with pytest.raises(LabelError, match="class id 9"):
            writer.add("a", Segmentation(np.full((2, 2), 9, np.uint16), np.ones((2, 2), bool)))
        writer.fail("a", "bad")
    assert column.rows("0").to_pylist()[0]["error"] == "bad"


# Manifest --------------------------------------------------------------------------------------------------


def test_manifest_says_what_the_labels_are(column, reader):
    fill(column)
    column.start(device="cpu")
    column.finish(2.5)
    values = json.loads((column.path / "manifest.json").read_text())
    assert values["convention"] == {"classes": ["dark", "bright"]}
    assert values["dataset"] == fingerprint(reader)
    assert values["software"]["numpy"] == np.__version__
    assert values["counts"] == {
        "shards": 1, "labels": 5, "failures": 1, "bytes": (column.path / "00000.tar").stat().st_size,
    }  # fmt: skip
    assert Column(column.path).convention == Convention(("dark", "bright"))


def test_seconds_sum_over_runs_even_after_a_torn_line(column):
    fill(column)
    column.finish(2.0)
    with (column.path / "runs.jsonl").open("a") as file:
        file.write('{"seconds": 100')
    fill(column, "00001", 6)
    column.finish(3.0)
    assert Column(column.path).manifest.seconds == 5.0
    assert column.manifest.counts.labels == 10


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights_sha256": "ff"}, "weights_sha256"),
        ({"convention": Convention(("bright", "dark"))}, "convention"),
        ({"revision": "2"}, "revision"),
        ({"preprocessing": {"size": 3}}, "preprocessing"),
        ({"uri": "test-bright"}, "uri"),
    ],
)
def test_other_labels_in_one_column_are_refused(tmp_path, reader, column, change, field):
    card, store = dataclasses.replace(Bright().card, **change), Store(tmp_path / "labels")
    fill(column)
    with pytest.raises(StoreError, match=f"made with {field} = .* give another output folder"):
        store.create(card, fingerprint(reader))
    (column.path / "00000.parquet").unlink()  # labels that may be taken up again
    with pytest.raises(StoreError, match=f"made with {field} = "):
        store.create(card, fingerprint(reader))
    (column.path / "00000.tar").unlink()
    assert store.create(card, fingerprint(reader)).manifest.counts.labels == 0


def test_a_revision_with_the_same_files_joins_its_column_and_not_another_store(tmp_path, reader):
    """Shards are marked with the revision of their manifest, so stores of two revisions are not merged."""
    known, one, two = (
        dataclasses.replace(Bright().card, revision="1", files_sha256="11"),
        tmp_path / "1",
        tmp_path / "2",
    )
    later = dataclasses.replace(known, revision="2")
    fill(Store(one).create(known, fingerprint(reader)))
    assert Store(one).create(later, fingerprint(reader)).manifest.expert["revision"] == "1"
    for change in ({"files_sha256": "22"}, {"files_sha256": ""}, {"weights_sha256": ""}):
        with pytest.raises(StoreError, match=r"was made with (revision|weights_sha256) = "):
            Store(one).create(dataclasses.replace(later, **change), fingerprint(reader))
    fill(Store(two).create(later, fingerprint(reader)), "00001", 6)
    with pytest.raises(StoreError, match="was made with revision = '1', the expert now has '2'"):
        merge([one, two], tmp_path / "merged")


def test_a_store_of_another_dataset_is_refused(tmp_path, column):
    other = open_dataset(str(make_dataset(tmp_path / "other", shards=3)))
    with pytest.raises(StoreError, match="a label store of another dataset"):
        Store(tmp_path / "labels").create(Bright().card, fingerprint(other))


@pytest.mark.parametrize("length", [99, 100, 101])
def test_labels_of_long_keys_are_read(tmp_path, length):
    """From 101 characters on, the name of a member is in a header of its own."""
    keys = [f"{i:0{length - len('.png')}d}" for i in range(2)]
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "0.tar", [(key, samples(1)[0][1]) for key in keys])
    reader = open_dataset(str(tmp_path / "data"))
    assert [entry.key for entry in reader.index("0")] == keys
    column = Store(tmp_path / "labels").create(Bright().card, fingerprint(reader))
    with ColumnWriter(column, "0", keys) as writer:
        for key in keys:
            writer.add(key, Bright.one(image(0)))
    assert [column.label("0", row).ids.shape for row in column.rows("0").to_pylist()] == [(12, 16)] * 2
    assert not verify(tmp_path / "labels", reader, deep=True)
    row = column.rows("0").to_pylist()[0]
    with pytest.raises(LabelError, match="rows and tar are from different runs"):
        column.label("0", {**row, "key": "1" + row["key"][1:]})


def test_columns_are_found_and_a_missing_one_is_named(tmp_path, reader, column):
    store = Store(tmp_path / "labels")
    store.create(Near().card, fingerprint(reader))
    assert [c.name for c in store.columns()] == ["depth/test-near", "segmentation/test-bright"]
    assert store.column("depth", "test-near").task == "depth"
    with pytest.raises(StoreError, match=r"it has: .*depth/test-near"):
        store.column("depth", "nobody")
    with pytest.raises(StoreError, match="has no column"):
        store.column("..", "labels")


def test_two_writers_of_one_shard_do_not_meet(column):
    """One was thought dead: the second to commit finds the first one's files, and leaves them."""
    one, other = ColumnWriter(column, "00000"), ColumnWriter(column, "00000")
    for writer in (one, other):
        writer.__enter__()
    for writer in (one, other, one, other):
        key = f"{len(writer._rows)}"
        writer.add(key, Bright.one(image(int(key))))
    one.__exit__(None, None, None)
    before = {name: (column.path / name).stat().st_ino for name in ("00000.tar", "00000.parquet")}
    other.__exit__(None, None, None)
    assert before == {name: (column.path / name).stat().st_ino for name in before}
    assert files(column) == {"manifest.json", *before}


def test_a_writer_of_other_labels_replaces_the_shard(column):
    fill(column, order=KEYS[::-1])
    before = (column.path / "00000.tar").read_bytes()
    fill(column)
    assert (column.path / "00000.tar").read_bytes() != before
    assert verify(Store(column.path.parent.parent)) == []


def test_damaged_manifests_are_said(column):
    (column.path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        Column(column.path)
    (column.path / "manifest.json").write_text('{"format": 99, "task": "t", "slug": "s", "expert": {}}')
    with pytest.raises(StoreError, match="update clipzoo"):
        Column(column.path)


def test_a_second_writer_is_told_and_stale_files_are_removed(column):
    (column.path / "00009.tar.tmp").write_bytes(b"of a run that died")
    with column.lock():
        assert "00009.tar.tmp" not in files(column)
        with pytest.raises(StoreError, match="is in use by process"), Column(column.path).lock():
            pass
    with column.lock():
        pass


def test_what_is_written_has_the_rights_of_any_new_file(tmp_path, reader):
    before = os.umask(0o027)
    try:
        column = Store(tmp_path / "other").create(Bright().card, fingerprint(reader))
        fill(column)
        column.finish()
        with _writing.atomic(tmp_path / "a") as beside:  # as safetensors writes
            beside.unlink()
            os.close(os.open(beside, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / "other").rglob("*") if path.is_file()]
    assert len(written) == 4
    assert {path.stat().st_mode & 0o777 for path in [*written, tmp_path / "a"]} == {0o640}


# Damage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path, reader, column) -> Store:
    fill(column)
    fill(column, "00001", 6)
    store = Store(tmp_path / "labels")
    assert verify(store, reader) == []
    return store


def messages(store: Store, reader=None) -> str:
    return "\n".join(map(str, verify(store, reader)))


def test_a_manifest_reaches_the_disk_and_two_writers_do_not_meet(column, monkeypatch):
    synced = []
    monkeypatch.setattr(_writing, "_sync", synced.append)
    for _ in range(2):
        column.manifest.write(column.path)
    first, folder, second, _ = synced
    assert folder == column.path
    assert first != second
    assert not list(column.path.glob("*.tmp"))


def test_a_file_system_without_locks_is_told(column, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StoreError, match=r"has no locks \(flock: Function not implemented\).*-o flock"), column.lock():
        raise AssertionError


def test_reasons_may_hold_names_that_are_no_text(column):
    with ColumnWriter(column, "00000") as writer:
        writer.fail("a", "cannot read caf\udce9.png")
    assert column.rows("00000")["error"].to_pylist() == [r"cannot read caf\udce9.png"]


def test_a_manifest_may_hold_names_that_are_no_text(column):
    told = column.manifest.model_copy(update={"dataset": {"first": "caf\udce9"}})
    told.write(column.path)
    assert Column(column.path).manifest == told


def test_a_damaged_column_can_be_removed(tmp_path, whole, column):
    (column.path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"is damaged.*Remove the column"):
        whole.column(column.path.parent.name, column.path.name)
    whole.remove("segmentation", "test-bright")
    assert not column.path.exists()


def test_verify_reads_the_dataset_once_for_all_columns(tmp_path, whole, column, reader, monkeypatch):
    shutil.copytree(column.path, tmp_path / "labels/segmentation/other")
    asked, index = [], type(reader).index
    monkeypatch.setattr(type(reader), "index", lambda self, shard: asked.append(shard) or index(self, shard))
    problems = [str(problem) for problem in verify(whole, reader)]
    assert sorted(set(asked)) == list(reader.shards)
    assert len(asked) == len(reader.shards) + 1, "once, and the first for the fingerprint"
    assert all("Rename the folder to " in problem for problem in problems)


def test_verify_a_tar_that_cannot_be_read(whole, column):
    tar = column.file("00000", ".tar")
    tar.unlink()
    tar.mkdir()
    found = messages(whole)
    assert "00000: the tar cannot be read (Is a directory)" in found
    with pytest.raises(StoreError, match=r"remove 00000\.parquet and label again"):
        column.read("00000", 0, 1)


def test_verify_missing_and_truncated_tars(whole, column):
    (column.path / "00000.tar").unlink()
    assert messages(whole) == ("segmentation/test-bright/00000: the tar is missing. Label again")
    path = column.path / "00001.tar"
    path.write_bytes(path.read_bytes()[:1024])
    assert "is truncated" in messages(whole)
    with pytest.raises(StoreError, match=r"remove 00000\.parquet and label again"):
        column.read("00000", 512, 10)


def test_a_shard_counts_when_both_of_its_files_are_there(whole, column, reader, tmp_path):
    (column.path / "00000.tar").unlink()
    (column.path / "00001.parquet").unlink()
    assert column.committed() == set()
    assert column.halves() == {"00000": ".tar", "00001": ".parquet"}
    assert not column.has("00001")
    with pytest.raises(
        StoreError, match=r"00000\.tar is missing, so the labels .* Rerun the command that made the column"
    ):
        column.has("00000")
    with pytest.raises(StoreError, match=r"00000\.tar is missing"):
        Plan.build(reader, {column.name: column})
    fill(column)  # the same rows, which are there, and the tar, which is not
    assert column.halves() == {"00001": ".parquet"}
    column.read("00000", 512, 10)


def test_verify_tells_of_a_damaged_manifest_and_goes_on(tmp_path, whole, column, reader):
    other = Store(tmp_path / "labels").create(Near().card, fingerprint(reader))
    (other.path / "manifest.json").write_text("{")
    (column.path / "00000.tar").unlink()
    damaged, missing = messages(whole, reader).splitlines()[:1], messages(whole, reader).splitlines()[-1]
    assert re.match(r"depth/test-near: .*manifest.json is damaged", damaged[0])
    assert missing == "segmentation/test-bright/00000: the tar is missing. Label again"


def test_verify_a_store_of_nothing(tmp_path):
    with pytest.raises(StoreError, match=r"there is no label store at .*: the folder does not exist. Check the path"):
        verify(Store(tmp_path / "none"))


def test_verify_other_pictures_under_the_same_keys(tmp_path, reader, column):
    shard = reader.shards[0]
    with ColumnWriter(column, shard, KEYS, shard_fingerprint(reader, shard)) as writer:
        for key in KEYS:
            writer.add(key, Bright.one(image(int(key))))
    assert verify(Store(tmp_path / "labels"), reader) == []
    write_shard(tmp_path / "data" / f"{shard}.tar", samples(6, size=(24, 16)))
    assert "00000: the dataset has other images under these keys" in messages(Store(tmp_path / "labels"), reader)


def test_verify_exchanged_and_overwritten_labels(whole, column):
    a, b = (column.path / f"0000{i}.tar" for i in range(2))
    old = a.read_bytes()
    a.write_bytes(b.read_bytes())
    assert "points to the member '000006.png'" in messages(whole)
    offset = column.rows("00000")["offset"][0].as_py()
    a.write_bytes(old[:offset] + b"XXXX" + old[offset + 4 :])
    assert "000000: cannot read the segmentation label" in messages(whole)


def test_verify_damaged_rows(whole, column):
    (column.path / "00000.parquet").write_bytes(b"PAR1 no more")
    assert "00000.parquet is damaged" in messages(whole)
    pq.write_table(column.rows("00001").drop_columns(["size"]), column.path / "00000.parquet")
    assert "has the columns" in messages(whole)
    with pytest.raises(StoreError, match="no committed shard"):
        column.rows("nine")


def test_verify_against_the_dataset(tmp_path, whole, column):
    def found(shards: int, count: int) -> list[str]:
        folder = make_dataset(tmp_path / f"{shards}-{count}", shards, count)
        return messages(whole, open_dataset(str(folder))).splitlines()

    assert found(2, 6) == []
    (line,) = found(1, 5)  # no shard fits: one line for a column
    assert "is a label store of another dataset" in line
    both = found(1, 6)  # the first shard fits
    assert "is a label store of another dataset" in both[0]
    assert both[1:] == ["segmentation/test-bright/00001: the dataset has no shard of this name"]
    write_shard(tmp_path / "2-6" / "00001.tar", samples(3, 6))
    fewer = messages(whole, open_dataset(str(tmp_path / "2-6")))
    name = "segmentation/test-bright/00001/000009"
    assert fewer == f"{name}: the dataset has no sample with this key (2 other samples likewise)"


def test_verify_collapses_other_pictures_of_every_shard(tmp_path, reader, column):
    for shard in reader.shards:
        keys = [entry.key for entry in reader.index(shard)]
        with ColumnWriter(column, shard, keys, shard_fingerprint(reader, shard)) as writer:
            for key in keys:
                writer.add(key, Bright.one(image(int(key))))
        write_shard(tmp_path / "data" / f"{shard}.tar", samples(6, int(keys[0]), size=(24, 16)))
    first, second = messages(Store(tmp_path / "labels"), open_dataset(str(tmp_path / "data"))).splitlines()
    assert "is a label store of another dataset" in first
    assert "00000: the dataset has other images under these keys" in second
    assert second.endswith("(1 other shard likewise)")


def test_verify_resumes_differences_from_the_dataset(tmp_path, whole):
    other = open_dataset(str(make_dataset(tmp_path / "other", shards=1, count=5)))
    first, second = (verification(whole, other, resume=tmp_path / "log.jsonl").problems for _ in range(2))
    assert first == second
    assert len(first) == 1


def flat(value: int, valid: bool = True) -> Segmentation:
    return Segmentation(np.full((4, 4), value, np.uint16), np.full((4, 4), valid))


def striped() -> Segmentation:
    return Segmentation(np.eye(4, dtype=np.uint16), np.ones((4, 4), bool))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([flat(0, False)] * 8, "all 8 labels are unknown everywhere"),
        ([flat(1)] * 8, "all 8 labels have only the class 'bright'"),
        ([flat(i % 2) for i in range(8)], "8 of the 8 labels are constant"),
        ([striped()] * 8, "all 8 labels are equal"),
        ([None] * 9 + [striped()], "9 of 10 samples have no label"),
        ([flat(1)] * 7, ""),
        ([flat(0), flat(1), *[striped()] * 6], ""),
        ([None] * 8 + [striped(), flat(1)], ""),
    ],
)
def test_verify_columns_that_smell(tmp_path, column, labels, message):
    with ColumnWriter(column, "0") as writer:
        for i, label in enumerate(labels):
            writer.fail(str(i), "no luck") if label is None else writer.add(str(i), label)
    found = messages(Store(tmp_path / "labels"))
    assert found.count("\n") == 0
    assert message in found if message else not found


def test_verify_boxes_that_are_nowhere(tmp_path, reader):
    card = ExpertCard("test:boxes", "detection", Convention(("cat", "dog")))
    column = Store(tmp_path / "labels").create(card, fingerprint(reader))
    none, one = Detection((9, 9), *_boxes(0)), Detection((9, 9), *_boxes(1))
    for shard, last in (("0", none), ("1", one)):
        with ColumnWriter(column, shard) as writer:
            for i in range(8):
                writer.add(str(i), last if i == 7 else none)
        found = messages(Store(tmp_path / "labels"))
        assert ("none of the 8 labels has an object" in found) == (shard == "0")


def _boxes(count: int) -> tuple[np.ndarray, ...]:
    return (
        np.tile(np.float32([1, 1, 4, 5]), (count, 1)), np.ones(count, np.uint16), np.ones(count, np.float32),
        np.zeros(count, bool),
    )  # fmt: skip


def test_verify_a_tar_that_was_changed_where_no_label_tells(whole, column):
    path = column.path / "00000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")  # padding behind the last label
    assert messages(whole).endswith("00000: the tar has changed. Remove the .parquet and label again")


def test_verify_mixed_experts(tmp_path, reader, whole, column):
    other = dataclasses.replace(Bright().card, uri="test:other", weights_sha256="77")
    strange = Store(tmp_path / "strange").create(other, fingerprint(reader))
    fill(strange, "00001", 6)
    for suffix in (".tar", ".parquet"):
        (column.path / f"00001{suffix}").write_bytes((strange.path / f"00001{suffix}").read_bytes())
    assert messages(whole) == (
        "segmentation/test-bright/00001: was labeled by another expert than that of the manifest. Label it again"
    )
    column.path.rename(column.path.with_name("renamed"))
    assert "Rename the folder to " in messages(whole)


def test_verify_files_of_no_shard(whole, column):
    (column.path / "00000.parquet").unlink()
    (column.path / "deep").mkdir()
    (column.path / "deep" / "9.parquet.tmp").touch()
    lines = messages(whole).splitlines()
    assert ["00000.tar belongs to no committed shard" in lines[0], "deep/9.parquet.tmp" in lines[1]] == [True, True]


def test_the_dataset_is_not_touched(tmp_path, whole):
    data = Path(tmp_path / "data")
    assert sorted(path.name for path in data.iterdir()) == ["00000.tar", "00001.tar"]
