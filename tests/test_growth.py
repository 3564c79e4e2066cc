"""A dataset that has got more shards goes on with its labels; one that has changed does not."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipzoo.data import Plan
from clipzoo.errors import StoreError
from clipzoo.labeling import label
from clipzoo.readers import fingerprint, open_dataset, parquet
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store, dataset, merge, verify
from making import Bright, Near, encoded, image, make_dataset, samples
from serving import put


def run(data: object, out: Path, expert=None, **options):
    options = {"progress": False, "check": False, "device": "cpu", **options}
    (report,) = label(str(data), [expert or Bright()], out, **options)
    return report


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in (".tar", ".parquet")}


def test_what_is_new_is_labeled_and_the_store_is_that_of_one_run(tmp_path, caplog):
    data = make_dataset(tmp_path / "data", shards=2)
    run(data, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tar")}
    make_dataset(data, shards=4)
    expert = Bright()
    assert run(data, tmp_path / "out", expert).labeled == 12
    assert sum(len(call) for call in expert.calls) == 12
    assert (
        "segmentation/test-bright now belongs to a dataset with other shards: its 2 labeled shards are unchanged"
        in caplog.text
    )
    assert before == {path: path.stat().st_mtime_ns for path in before}
    run(data, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    reader, (column,) = open_dataset(str(data)), Store(tmp_path / "out").columns()
    assert column.manifest.dataset == fingerprint(reader)
    assert verify(Store(tmp_path / "out"), reader) == []
    assert Plan.build(reader, {column.name: column}).coverage() == {column.name: 1}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_that_have_not_changed_are_not_compared_again(tmp_path: Path, form: str, monkeypatch) -> None:
    """Another key column, or another file, makes other samples of the same names of shards."""
    data, compared = tmp_path / "data", []
    data.mkdir()
    for i in range(4):
        (data / f"{i}.png").write_bytes(encoded(image(i)))

    def written(order: Sequence[int]) -> Path:
        rows = [{"image": f"{i}.png", "caption": f"c{i}", "first": f"a{i}", "second": f"b{i}"} for i in order]
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), data / "t.parquet")
        else:
            lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
            (data / "t.csv").write_text("\n".join(lines))
        return data / f"t.{form}"

    own = dataset.shard_fingerprint
    monkeypatch.setattr(dataset, "shard_fingerprint", lambda *given: compared.append(given[1]) or own(*given))
    table = written(range(4))
    for _ in range(3):
        run(f"{table}?key=first", tmp_path / "out")
    assert len(compared) == 1, "by the second run"
    with pytest.raises(StoreError, match="of another dataset, or the dataset has changed"):
        run(f"{table}?key=second", tmp_path / "out")
    reader = open_dataset(f"{table}?key=first")
    assert reader.state(reader.shards[0])
    written([1, 0, 2, 3])
    os.utime(table, ns=(1, 1))
    assert not reader.state(reader.shards[0]), "the reader's rows are those of the file before"
    with pytest.raises(StoreError, match="of another dataset, or the dataset has changed"):
        run(f"{table}?key=first", tmp_path / "out")


def test_footers_of_tables_on_a_network_are_read_at_the_same_time(memory, tmp_path: Path, monkeypatch) -> None:
    for i in range(3):
        path = tmp_path / "data" / f"{i}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": [encoded(image(i))], "caption": ["c"]}), path)
    barrier, own = Barrier(3, timeout=20), parquet._opened
    monkeypatch.setattr(parquet, "_opened", lambda path: barrier.wait() is None or own(path))
    assert len(open_dataset(put(tmp_path / "data", f"{memory}/data")).shards) == 3


def test_a_trial_shard_is_the_beginning_of_the_whole(tmp_path):
    data = make_dataset(tmp_path / "data", shards=3)
    run(data / "00001.tar", tmp_path / "out")
    assert run(data, tmp_path / "out").labeled == 12
    with pytest.raises(
        StoreError, match=r"2 of its 3 shards, the first is '00000', are not in .*00001.tar'.* by --shards"
    ):
        run(data / "00001.tar", tmp_path / "out")


def test_labels_are_read_with_the_grown_dataset_once_they_are_its_own(tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    for name in ("out", "other"):
        run(data, tmp_path / name)
    make_dataset(data, shards=2)
    reader = open_dataset(str(data))
    with pytest.raises(StoreError, match="first rerun the command that made the column: it keeps the existing labels"):
        Plan.build(reader, {"x": Store(tmp_path / "out").columns()[0]})
    run(data, tmp_path / "out", shards=["00000"])  # nothing is left to do, but it knows the dataset now
    assert Plan.build(reader, {"x": Store(tmp_path / "out").columns()[0]}).coverage() == {"x": 0.5}
    with pytest.raises(StoreError, match="of another dataset"):
        merge([Store(tmp_path / "out"), Store(tmp_path / "other")], Store(tmp_path / "all"))
    run(data, tmp_path / "other", shards=["00001"])
    (column,) = merge([Store(tmp_path / "out"), Store(tmp_path / "other")], Store(tmp_path / "all"))
    assert column.committed() == {"00000", "00001"}


def resized(data: Path) -> None:
    write_shard(data / "00001.tar", samples(6, 6, size=(13, 16)))


def more(data: Path) -> None:
    write_shard(data / "00001.tar", samples(7, 6))


def renamed(data: Path) -> None:
    write_shard(data / "00001.tar", [(f"x{key}", members) for key, members in samples(6, 6)])


@pytest.mark.parametrize("change", [resized, more, renamed])
def test_a_changed_shard_is_refused_by_name(tmp_path, change: Callable[[Path], None]):
    """Also if it is not the first one, and the dataset has grown besides."""
    data = make_dataset(tmp_path / "data", shards=2)
    run(data, tmp_path / "out")
    before = contents(tmp_path / "out")
    change(data)
    write_shard(data / "00002.tar", samples(6, 12))
    with pytest.raises(
        StoreError, match=r"the shard '00001' has other samples in .*remove 00001.parquet and 00001.tar"
    ):
        run(data, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    for suffix in ("parquet", "tar"):
        (tmp_path / "out" / "segmentation" / "test-bright" / f"00001.{suffix}").unlink()
    run(data, tmp_path / "out")
    assert verify(Store(tmp_path / "out"), open_dataset(str(data))) == []


def test_shards_of_which_nothing_is_known_are_refused(tmp_path):
    """Of a clipzoo that kept the first shard's identity alone."""
    data = make_dataset(tmp_path / "data", shards=1)
    run(data, tmp_path / "out")
    path = tmp_path / "out" / "segmentation" / "test-bright" / "00000.parquet"
    table = pq.read_table(path)
    marks = {name: value for name, value in table.schema.metadata.items() if name != b"source"}
    pq.write_table(table.replace_schema_metadata(marks), path)
    run(data, tmp_path / "out")  # nothing has changed
    make_dataset(data, shards=2)
    with pytest.raises(StoreError, match=r"'00000' was labeled by an older clipzoo, .*remove 00000.parquet"):
        run(data, tmp_path / "out")


def table_of(path: Path, first: int, swapped: bool = False) -> None:
    """Two rows without keys; ``swapped`` they have as many bytes, and other pictures."""
    names = [f"{first + i}.png" for i in range(2)]
    for i, name in enumerate(names):
        path.parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(encoded(image(first + i)))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *([name, "x"] for name in names[:: -1 if swapped else 1])])


def rows_of(path: Path, first: int, swapped: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    pictures = [encoded(image(first + i)) + b" " * 1000 * swapped for i in range(2)]
    pq.write_table(pa.table({"image": pictures, "caption": ["x", "x"]}), path)


@pytest.mark.parametrize(("suffix", "make"), [("csv", table_of), ("parquet", rows_of)])
def test_rows_that_are_but_numbered_are_known_by_what_they_refer_to(tmp_path, suffix, make):
    data = f"{tmp_path / 'data'}?format={'table' if suffix == 'csv' else suffix}"
    for i, name in enumerate("ab"):
        make(tmp_path / "data" / f"{name}.{suffix}", 2 * i)
    run(data, tmp_path / "out")
    make(tmp_path / "data" / f"c.{suffix}", 4)
    assert run(data, tmp_path / "out").labeled == 2
    make(tmp_path / "data" / f"d.{suffix}", 6)
    make(tmp_path / "data" / f"b.{suffix}", 2, swapped=True)
    with pytest.raises(StoreError, match=r"the shard 'b.*/00000' has other samples"):
        run(data, tmp_path / "out")


def test_a_list_of_datasets_may_get_longer(tmp_path):
    make_dataset(tmp_path / "a", shards=1)
    make_dataset(tmp_path / "b", shards=1, count=5)
    (tmp_path / "both.yaml").write_text("datasets:\n  a: a\n")
    run(tmp_path / "both.yaml", tmp_path / "out")
    (tmp_path / "both.yaml").write_text("datasets:\n  a: a\n  b: b\n")
    assert run(tmp_path / "both.yaml", tmp_path / "out").labeled == 5


# Shards that are not whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_half_a_shard_is_labeled_again_and_said(tmp_path, suffix, caplog):
    data = make_dataset(tmp_path / "data", shards=3)
    run(data, tmp_path / "out")
    run(data, tmp_path / "out", Near())
    before = contents(tmp_path / "out")
    lost = tmp_path / "out" / "segmentation" / "test-bright" / f"00001{suffix}"
    lost.unlink()
    assert run(data, tmp_path / "out", Near()).labeled == 0
    assert not caplog.text
    assert run(data, tmp_path / "out", retry_failed=True).labeled == 6
    assert re.search(f"00001 is incomplete, {lost} is missing: it is labeled again", caplog.text)
    assert contents(tmp_path / "out") == before
