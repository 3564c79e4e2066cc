"""Indexes, plans and verification of large datasets."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from clipzoo.cli import app
from clipzoo.data import Plan, joining, planfile
from clipzoo.data.mixture import Mixture
from clipzoo.data.order import EpochOrder
from clipzoo.data.sampling import PlanSampler
from clipzoo.errors import CheckpointError
from clipzoo.labeling import label
from clipzoo.readers import Entry, Reader, open_dataset
from clipzoo.readers.webdataset import reader, walk
from clipzoo.readers.webdataset import tar as tars
from clipzoo.readers.webdataset.layout import Layout
from clipzoo.store import Column, Store, verification, verify
from clipzoo.types import Failure
from hostile import tars as crafted
from making import Bright, make_dataset

VERIFY = importlib.import_module("clipzoo.store.verify")  # the room exports a function of this name

# Index -----------------------------------------------------------------------------------------------------


def tar_of(form: int) -> bytes:
    """Long names, names that are not ASCII, fractional times and large owners."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for key in ("a", "b" * 120, "folder/" + "ü" * 90):
            for ext in ("jpg", "txt"):
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size, info.mtime, info.uid = 9, 1.5, 2**22
                tar.addfile(info, io.BytesIO(b"x" * 9))
    return file.getvalue()


def walked(path: Path) -> list[str]:
    with path.open("rb", buffering=0) as file:
        return [name for names, _ in walk.walk(file) for name in names]


def split_alone(names: list[str], layout: Layout) -> list[tuple[str, list[str]]]:
    """Samples by the layout's rule for single names, without knowledge of the member before."""
    groups: list[tuple[str, list[str]]] = []
    latest: dict[str, list[str]] = {}
    for key, ext in filter(None, map(layout.split, names)):
        if key not in latest or ext in latest[key]:
            latest[key] = []
            groups.append((key, latest[key]))
        latest[key].append(ext)
    return groups


def test_members_are_grouped_by_their_names_alone() -> None:
    rng = random.Random(0)
    parts = ("a", "b", "a.b", "a/b", "a.d/b", "/a", ".a", "A")
    ends = ("", ".", ".jpg", ".JPG", ".seg.png", ".txt", ".d/x.jpg", "/.jpg")
    for layout in (Layout(), Layout(images=("seg.png", "jpg"))):
        for _ in range(3000):
            names = [rng.choice(parts) + rng.choice(ends) for _ in range(6)]
            members = [(name, (i, 1), None, True) for i, name in enumerate(names)]
            found = [(one.key, list(one.members)) for one in reader._grouped(members, layout, "s")]
            assert found == split_alone(names, layout), names


def test_places_have_the_digest_of_earlier_plans() -> None:
    class Named:
        def contents(self, shard: str) -> str:
            return f"contents of {shard}"

    spans = {"txt": (512, 30), "jpg": (2048, 99), "it's 5%.seg": (9, 1), "10%s": (4096, 0)}
    failed = Failure("no-image", "100 % of it")
    entries = [
        Entry("a%s", "s", spans, "jpg", "txt"), Entry("ü\udcff", "s", dict(reversed(spans.items())), "jpg", "txt"),
        Entry("b", "s", {}, failure=failed), Entry("c", "s", {"row": (3, 1)}, "row", "row"),
    ]  # fmt: skip
    lines = [
        f"{e.key} {e.failure.detail if e.failure else None} {e.image} {e.caption} {sorted(e.members.items())}"
        for e in entries
    ]
    text = "\n".join([*lines, "contents of s"]).encode("utf-8", "surrogateescape")
    assert joining.places_of(cast(Reader, Named()), "s", entries) == hashlib.sha256(text).hexdigest()[:16]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_of_both_formats_are_read_without_tarfile(form: int, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(form))
    assert walked(tmp_path / "a.tar")[2:4] == ["b" * 120 + ".jpg", "b" * 120 + ".txt"]
    assert list(tars.members(tmp_path / "a.tar")) == list(tars.by_tarfile(tmp_path / "a.tar"))


@pytest.mark.parametrize("one", [one for one in crafted() if one.usable >= 0], ids=lambda one: one.name)
def test_members_of_a_crafted_tar_are_those_of_tarfile(one, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(one.data)
    assert list(tars.members(tmp_path / "a.tar")) == list(tars.by_tarfile(tmp_path / "a.tar"))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_of_tars_with_changed_headers_are_those_of_tarfile(form: int, tmp_path: Path) -> None:
    rng, whole, path = random.Random(form), tar_of(form), tmp_path / "a.tar"
    heads = [at for at in range(0, len(whole) - 511, 512) if whole[at + 257 : at + 262] == b"ustar"]
    odd = 0
    for _ in range(300):
        data, head = bytearray(whole), rng.choice(heads)
        for _ in range(rng.randint(1, 2)):
            place = rng.choice([rng.randrange(512), rng.randrange(100, 157), 512 + rng.randrange(512)])
            data[head + place] = rng.choice([0, 32, 48, 55, 56, 95, 128, 255, rng.randrange(256)])
        if rng.random() < 0.8:
            total = 256 + sum(data[head : head + 148]) + sum(data[head + 156 : head + 512])
            data[head + 148 : head + 156] = b"%06o\0 " % total
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)
        assert list(tars.members(path)) == list(tars.by_tarfile(path))
        try:
            walked(path)
        except walk.OddTar:
            odd += 1
    assert 50 < odd < 290, "both ways are tested"


def test_a_shard_of_many_members_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "CHUNK", 3)
    (tmp_path / "a.tar").write_bytes(tar_of(tarfile.PAX_FORMAT)[:-10_240])
    found = list(tars.members(tmp_path / "a.tar"))
    assert found == list(tars.by_tarfile(tmp_path / "a.tar"))
    assert found[-1][2] is not None, "the end mark is missing: tarfile reads the rest"


# Plan ------------------------------------------------------------------------------------------------------


def old_order(starts: np.ndarray, seed: int, epoch: int, group: int = 16) -> np.ndarray:
    """The order as it was generated at once, by earlier versions."""
    rng = np.random.default_rng([seed, epoch])
    permuted = rng.permutation(len(starts) - 1)
    parts = []
    for first in range(0, len(permuted), group):
        rows = [np.arange(starts[s], starts[s + 1]) for s in permuted[first : first + group]]
        parts.append(rng.permutation(np.concatenate(rows)))
    return np.concatenate(parts)


@pytest.mark.parametrize(("shards", "group"), [(1, 16), (16, 16), (17, 16), (90, 7)])
def test_the_order_by_groups_is_that_of_earlier_versions(shards: int, group: int) -> None:
    rng = np.random.default_rng(shards)
    starts = np.append(0, np.cumsum(rng.integers(1, 40, shards)))
    for epoch in range(2):
        order, expected = EpochOrder(starts, 3, epoch, group), old_order(starts, 3, epoch, group)
        np.testing.assert_array_equal(order.take(np.arange(len(order))), expected)
        jumps = rng.integers(0, len(order), 50)
        np.testing.assert_array_equal(order.take(jumps), expected[jumps])
        assert [order[int(jump)] for jump in jumps] == expected[jumps].tolist()
    with pytest.raises(IndexError):
        order.take(np.array([len(order)]))


def plan_of(folder: Path, rows: int, per_shard: int = 50, key_bytes: int = 9) -> Plan:
    """A plan without a dataset, written to a file; every seventh label is missing."""
    folder.mkdir(exist_ok=True)
    shards = [f"{'ab'[i % 2 == 0]}/{i:04d}" for i in range(-(-rows // per_shard))]
    shards = sorted(shards)
    with planfile.PlanWriter(str(folder / "plan.arrow"), shards, ["depth/x"]) as writer:
        for number in range(len(shards)):
            places = list(range(number * per_shard, min((number + 1) * per_shard, rows)))
            sizes, keys = pa.array(places, pa.int64()), [str(place).zfill(key_bytes) for place in places]
            columns = {"key": pa.array(keys, pa.large_string())}
            for part in ("image", "caption"):
                columns |= {f"{part}:ext": pa.array([f"e{place % 3}" for place in places], pa.large_string())}
                columns |= {f"{part}:offset": sizes, f"{part}:size": sizes}
            labels = pa.array([place if place % 7 else None for place in places], pa.int64())
            writer.add(number, pa.table({**columns, "depth/x:offset": labels, "depth/x:size": labels}))
        writer.finish({"left_out": "empty\t3", "tars": '{"depth/x": {}}', "places": "{}"})
    return Plan.load(folder / "plan.arrow")


def test_a_plan_of_many_batches_gives_the_rows_of_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan_of(tmp_path / "whole", 1030)
    monkeypatch.setattr(planfile, "BATCH", 120)
    parts = plan_of(tmp_path / "parts", 1030)
    assert (whole.table["key"].num_chunks, parts.table["key"].num_chunks) == (1, 7)
    assert parts.table.to_pylist() == whole.table.to_pylist()
    assert parts.left_out == {"empty": 3}
    assert parts.coverage() == whole.coverage()
    some = [1029, 0, 500, 499, 0]
    assert parts.rows(some) == whole.rows(some) == [whole.table.slice(i, 1).to_pylist()[0] for i in some]
    np.testing.assert_array_equal(parts.starts, np.append(np.arange(0, 1030, 50), 1030))
    np.testing.assert_array_equal(parts.order(1, 2), old_order(parts.starts, 1, 2))
    for wrong in (-1, 1030):
        with pytest.raises(IndexError, match="1030 rows"):
            parts.rows([wrong])


def test_a_plan_without_some_rows_keeps_the_order_of_a_copied_one(tmp_path: Path) -> None:
    plan, held = plan_of(tmp_path, 400), [0, 1, 2, 77, 399]
    kept = np.setdiff1d(np.arange(400), held)
    copied = replace(plan, table=plan.table.take(pa.array(kept)))
    rest = plan.without(held)
    assert rest.table.to_pylist() == copied.table.to_pylist()
    np.testing.assert_array_equal(rest.order(0, 0), copied.order(0, 0))
    assert len(plan.without(range(400))) == 0


def test_ranks_and_resumed_runs_read_one_order(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 1000, 20)
    steps = list(PlanSampler(plan, 24, 5, 0, 90))
    assert list(PlanSampler(plan, 24, 5, 31, 90)) == steps[31:]
    ranks = [list(PlanSampler(plan, 8, 5, 0, 90, rank, 3)) for rank in range(3)]
    for whole, *parts in zip(steps, *ranks, strict=True):
        assert sorted(whole) == sorted(position for part in parts for position in part)
    mixed = Mixture(plan, {"a": 3}, 0)
    assert Mixture(plan, {"a": 3}, 0).positions(range(700, 900)) == mixed.positions(range(900))[700:]


def test_an_epoch_keeps_the_rows_of_one_group_only(tmp_path: Path) -> None:
    starts = np.arange(0, 2_000_001, 1000)
    order = EpochOrder(starts, 0, 0)
    order.take(np.array([1_500_000]))
    arrays = [value for value in vars(order).values() if isinstance(value, np.ndarray)]
    assert sum(value.nbytes for value in arrays) < 16 * 1000 * 8 + 3 * starts.nbytes


PRIVATE = """
import sys
import numpy as np
from pathlib import Path
from clipzoo.data import Plan
def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) * 1024
Plan.load(sys.argv[2]).rows([0])  # what pyarrow and numpy allocate once
before = private()
plan = Plan.load(sys.argv[1])
order = plan.epoch(0, 0)
for first in range(0, len(plan), 4096):
    plan.rows(order.take(np.arange(first, min(first + 64, len(plan)))).tolist())
print((private() - before) / len(plan))
"""


@pytest.mark.slow
def test_private_memory_of_a_plan_is_small(tmp_path: Path) -> None:
    plan_of(tmp_path / "large", 300_000, 10_000)
    plan_of(tmp_path / "small", 10)
    files = [tmp_path / name / "plan.arrow" for name in ("large", "small")]
    done = subprocess.run([sys.executable, "-c", PRIVATE, *map(str, files)], check=True, capture_output=True, text=True)
    assert float(done.stdout) <= 24, "bytes a row; the file has 90"


def test_keys_beyond_two_gigabytes_are_read(tmp_path: Path) -> None:
    """One key column of 2^31 bytes and more, in which two keys have contents: the others are holes of the file."""
    count, each = 4200, 2**19
    offsets = np.arange(count + 1, dtype=np.int64) * each
    path = tmp_path / "text"
    with path.open("wb") as file:
        file.truncate(count * each)
        for row, letter in ((0, b"a"), (count - 1, b"z")):
            file.seek(row * each)
            file.write(letter * each)
    text = pa.memory_map(str(path)).read_buffer()
    keys = pa.Array.from_buffers(pa.large_string(), count, [None, pa.py_buffer(offsets), text])
    assert count * each > 2**31
    shards = pa.DictionaryArray.from_arrays(pa.array(np.arange(count) // 100, pa.int32()), [str(i) for i in range(42)])
    plan = Plan(pa.table({"shard": shards, "key": keys}), {})
    first, last = plan.rows([0, count - 1])
    assert (first["key"], last["key"]) == ("a" * each, "z" * each)
    assert sorted(plan.order(0, 0)) == list(range(count))


def test_a_plan_that_was_not_written_to_its_end_is_refused(tmp_path: Path) -> None:
    plan_of(tmp_path, 100)
    data = (tmp_path / "plan.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match=r"cut\.arrow is not a plan"):
        Plan.load(tmp_path / "cut.arrow")


def test_a_plan_is_written_to_its_file_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_dataset(str(make_dataset(tmp_path / "data", 4, 5)))
    monkeypatch.setattr(planfile, "BATCH", 5)
    plan = Plan.build(reader, {}, path=tmp_path / "plan.arrow")
    assert plan.table["key"].num_chunks == 4
    assert plan.table.to_pylist() == Plan.build(reader, {}).table.to_pylist()
    assert Plan.load(tmp_path / "plan.arrow").places == plan.places
    assert len(Plan.build(reader, {}, max_samples=7)) == 7


# Verification ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards of 12 samples, and its labels."""
    folder = tmp_path_factory.mktemp("verified")
    make_dataset(folder / "data", 2, 12)
    label(str(folder / "data"), [Bright()], folder / "labels", device="cpu", progress=False)
    return folder


def column_of(folder: Path) -> Column:
    (column,) = Store(folder / "labels").columns()
    return column


def test_a_sample_of_labels_is_decoded_and_that_is_said(labeled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VERIFY, "SAMPLE", 6)
    store, reader = Store(labeled / "labels"), open_dataset(str(labeled / "data"))
    found = verification(store, reader)
    assert (found.problems, found.labels, found.decoded) == ([], 24, 6)
    assert found.describe() == (
        "checksums of all shards were compared; 6 of 24 labels were decoded. --deep decodes all"
    )
    deep = verification(store, reader, deep=True)
    assert (deep.problems, deep.decoded) == ([], 24)
    assert deep.describe() == "all 24 labels were decoded, and checksums of all shards compared"


@pytest.mark.parametrize("marked", [True, False])
def test_all_labels_of_a_shard_are_decoded_if_its_checksum_differs_or_is_missing(
    marked: bool, labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VERIFY, "SAMPLE", 2)
    shutil.copytree(labeled / "labels", tmp_path / "labels")
    column = column_of(tmp_path)
    tar, rows = column.file("00000", ".tar"), column.file("00000", ".parquet")
    table = column.rows("00000")
    if not marked:
        marks = {name: text for name, text in table.schema.metadata.items() if name != b"tar_sha256"}
        pq.write_table(table.replace_schema_metadata(marks), rows)
    offset = table["offset"][5].as_py()
    data = bytearray(tar.read_bytes())
    data[offset : offset + 4] = b"XXXX"
    tar.write_bytes(data)
    found = verification(Store(tmp_path / "labels"))
    messages = "\n".join(map(str, found.problems))
    assert "000005: cannot read the segmentation label" in messages
    assert ("the tar has changed" in messages) == marked
    assert (found.decoded, found.unmarked) == (12, int(not marked)), "one label is unreadable, one of the other shard"
    assert marked or "among them all of 1 shards without a checksum" in found.describe()


def test_a_verification_resumes_and_reads_changed_shards_again(
    labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(labeled / "labels", tmp_path / "labels")
    store, log = Store(tmp_path / "labels"), tmp_path / "log"
    read: list[str] = []
    original = Column.rows
    monkeypatch.setattr(Column, "rows", lambda self, shard: read.append(shard) or original(self, shard))

    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verification(store, progress=stop, resume=log)
    assert len(log.read_text().splitlines()) in (1, 2), "shards that had begun"
    first = verification(store, resume=log)
    assert (first.problems, first.labels, first.decoded) == ([], 24, 24)
    read.clear()
    assert verification(store, resume=log) == first
    assert read == []
    column = column_of(tmp_path)
    column.file("00001", ".tar").write_bytes(b"other")
    log.write_bytes(log.read_bytes() + b"{")
    again = verification(store, resume=log).problems
    assert read == ["00001"]
    assert again == verify(store)
    assert "the tar has changed" in str(again[0])


def test_a_verification_that_needs_fewer_labels_reads_no_shard_again(
    labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column with more shards needs fewer labels of each."""
    store, log = Store(labeled / "labels"), tmp_path / "log"
    read: list[str] = []
    original = Column.rows
    monkeypatch.setattr(Column, "rows", lambda self, shard: read.append(shard) or original(self, shard))
    for sample, deep, decoded, count in ((8, False, 8, 2), (4, False, 8, 0), (9**9, True, 24, 2), (8, False, 24, 0)):
        monkeypatch.setattr(VERIFY, "SAMPLE", sample)
        read.clear()
        assert (verification(store, deep=deep, resume=log).decoded, len(read)) == (decoded, count)


def test_the_command_says_what_was_decoded(labeled: Path, tmp_path: Path) -> None:
    for _ in range(2):
        arguments = ["labels", "verify", str(labeled / "labels"), "--deep", "--resume", str(tmp_path / "log")]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0
        said = " ".join(done.output.split())
        assert "no problems in 24 labels of 1 column: all 24 labels were decoded" in said
    assert len((tmp_path / "log").read_text().splitlines()) == 2


# Benchmark -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "scale.py"
    subprocess.run([sys.executable, str(script), "--quick", "--out", str(tmp_path)], check=True)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert "2,000 samples, now" in results
    assert "400 M" in (tmp_path / "results.md").read_text()
