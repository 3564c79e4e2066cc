"""Datasets and stores behind a network: the same samples and bytes as on a disk, and plain words when it fails."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from clipzoo import files
from clipzoo.checking import check
from clipzoo.cli import app
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing
from clipzoo.data.batches import loader
from clipzoo.errors import DatasetError, RemoteError, SampleError, StoreError
from clipzoo.files import _near, _remote, lock
from clipzoo.files._remote import Remote
from clipzoo.labeling import label
from clipzoo.readers import Reader, fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store, verify
from making import Bright, Near, encoded, image, make_dataset
from serving import S3, Web, s3, web

BUCKET = "bucket"


@pytest.fixture(scope="session")
def store_server() -> Iterator[S3]:
    for name in ("s3fs", "moto", "flask", "flask_cors", "boto3"):
        pytest.importorskip(name)
    with s3(BUCKET) as server:
        yield server


@pytest.fixture
def in_s3(store_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The environment of a user of the server."""
    for name, value in store_server.environment.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield store_server
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place in a store."""
    if request.param == "s3":
        request.getfixturevalue("in_s3")
        yield f"s3://{BUCKET}/{tmp_path.name}"
    else:
        yield "memory://here"
        fsspec.filesystem("memory").store.clear()


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://here"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data", shards=3)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(_remote, "WAIT", 0.01)
    with web(tmp_path) as server:
        yield server


def put(folder: Path, address: str) -> str:
    """A folder of the disk, in a store."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            Remote.parse(f"{address}/{path.relative_to(folder)}").write(path.read_bytes())
    return address


def everything(reader: Reader) -> list[tuple[object, ...]]:
    """Every sample that a reader gives, and every reason."""
    entries = [entry for shard in reader.shards for entry in reader.index(shard)]
    return [
        (e.shard, e.key, e.error) if e.error else (e.shard, e.key, (s := reader.read(e)).image, s.caption)
        for e in entries
    ]


def run(data: object, out: object, *experts: object, **options: object):
    return label(str(data), list(experts) or [Bright(), Near()], str(out), device="cpu", progress=False, **options)


def contents(out: object) -> dict[str, bytes]:
    """Every byte of a store that is not a cost."""
    root = files.place(str(out))
    return {
        name: (root / name).read_bytes() for name in sorted(files.below(root)) if re.search(r"(tar|parquet)$", name)
    }


# Datasets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["", "/00001.tar", "/{00000..00002}.tar", "/*.tar", "/{00000,00001}.tar"])
def test_tars_in_a_store_are_those_of_the_disk(far, data, pattern):
    (data / ".hidden.tar").write_bytes(b"no tar")
    there, here = open_dataset(put(data, f"{far}/data") + pattern), open_dataset(str(data) + pattern)
    assert there.shards == here.shards
    assert everything(there) == everything(here)
    assert fingerprint(there) == fingerprint(here)
    with there.near(there.shards[0]):
        assert everything(there) == everything(here)


def test_tables_in_a_store_are_those_of_the_disk(far, tmp_path):
    folder = tmp_path / "data"
    (folder / "cats").mkdir(parents=True)
    for i in range(3):
        (folder / "cats" / f"{i}.png").write_bytes(encoded(image(i)))
    rows = [["cats/0.png", "a"], ["cats/1.png", "b"], ["cats/9.png", "gone"], ["../x.png", "out"]]
    rows += [["file:///etc/hostname", "out"], ["cats/2.png", "c"]]
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *rows])
    images = [encoded(image(i)) for i in range(7)]
    table = pa.table({"image": images, "caption": list("abcdefg"), "key": list("tuvwxyz")})
    pq.write_table(table, folder / "many.parquet", row_group_size=2)
    (folder / "both.yaml").write_text("datasets:\n  one: many.parquet\n  two: photos.csv?caption=caption\n")
    put(folder, far)

    def told(reader):
        found = []
        for entry in [e for shard in reader.shards for e in reader.index(shard)]:
            try:
                found.append((entry, reader.read(entry)))
            except SampleError as error:
                found.append((entry, str(error).split(":")[0]))
        return found

    for name in ("many.parquet", "photos.csv", "photos.csv?image=image", "both.yaml"):
        there, here = open_dataset(f"{far}/{name}"), open_dataset(f"{folder}/{name}")
        assert (there.shards, there.identity) == (here.shards, here.identity)
        assert told(there) == told(here), name
    assert sum(isinstance(result, str) for _, result in told(open_dataset(f"{far}/photos.csv"))) == 3


def test_a_file_of_the_disk_may_join_what_lies_elsewhere_and_not_the_other_way_round(memory, data, tmp_path):
    put(data, f"{memory}/data")
    (tmp_path / "both.yaml").write_text(f"datasets:\n  far: {memory}/data\n  here: {data}\n")
    reader = open_dataset(str(tmp_path / "both.yaml"))
    assert [s.partition("/")[0] for s in reader.shards] == ["far"] * 3 + ["here"] * 3
    assert len({sample[1:] for sample in everything(reader)}) == 18
    Remote.parse(f"{memory}/evil.yaml").write(f"datasets:\n  here: file://{data}\n".encode())
    Remote.parse(f"{memory}/evil.txt").write(f"file://{data}/00000.tar\n".encode())
    for name in ("evil.yaml", "evil.txt"):
        with pytest.raises(RemoteError, match="may name addresses only"):
            open_dataset(f"{memory}/{name}")
    assert everything(open_dataset(f"file://{data}")) == everything(open_dataset(str(data)))


@pytest.mark.parametrize("made", ["images", "arrow"])
def test_formats_of_the_disk_say_so(memory, made):
    name = "a.png" if made == "images" else "state.json"
    Remote.parse(f"{memory}/x/{name}").write(b"{}")
    with pytest.raises(DatasetError, match=r"read from a disk only.*write it as tars"):
        open_dataset(f"{memory}/x")


def test_shards_on_the_web_are_named_by_a_pattern_or_a_list_or_an_index(site, data, tmp_path):
    here = everything(open_dataset(str(data)))
    at = f"{site.address}/data"
    assert everything(open_dataset(at + "/{00000..00002}.tar")) == here
    (data / "list.txt").write_text("# three of them\n00000.tar\n\n00001.tar\n" + at + "/00002.tar\n")
    (tmp_path / "list.txt").write_text("\n".join(f"{at}/{i:05d}.tar" for i in range(3)))
    assert everything(open_dataset(f"{at}/list.txt")) == here
    assert everything(open_dataset(str(tmp_path / "list.txt"))) == here
    for unlisted in (at, at + "/*.tar"):
        with pytest.raises((DatasetError, RemoteError), match=r"lists? no files|cannot be listed|no data|refused"):
            open_dataset(unlisted)
    (data / "list.txt").unlink()
    site.index = True
    assert everything(open_dataset(at)) == here


def test_gaps_in_a_pattern_are_said(site, data, caplog):
    assert len(open_dataset(f"{site.address}/data/{{00001..00004}}.tar").shards) == 2
    assert "2 of the 4 files" in caplog.text
    with pytest.raises(DatasetError, match="no data was found"):
        open_dataset(f"{site.address}/data/{{7..9}}.tar")


def test_what_is_read_whole_is_fetched_once_and_what_is_only_indexed_is_not_fetched(site, tmp_path):
    big = [(f"{i:03d}", {"png": encoded(image(i, (600, 700))), "txt": b"big"}) for i in range(3)]
    write_shard(tmp_path / "data" / "0.tar", big)
    size = (tmp_path / "data" / "0.tar").stat().st_size
    assert size > 3_000_000
    address = f"{site.address}/data/{{0..0}}.tar"
    reader = open_dataset(address)
    site.asked.clear()
    entries = reader.index("0")
    assert site.sent() < size / 5
    site.asked.clear()
    reader.read(entries[1])
    assert len(site.asked) == 1, "image and caption lie together"
    identity = fingerprint(reader)
    site.asked.clear()
    with reader.near("0"):
        assert [reader.read(entry).image for entry in reader.index("0")] == [files_["png"] for _, files_ in big]
        assert fingerprint(reader) == identity
    assert site.sent() == size
    assert not [*_near._folder(os.getpid()).glob("*.tar")], "the copy is gone"
    site.asked.clear()
    run(address, tmp_path / "labels")
    assert site.sent() < 1.3 * size, "opening and the fingerprint read headers; labelling each byte once"
    site.asked.clear()
    assert check(address, progress=False).usable == 3
    assert site.sent() < 1.3 * size


def test_files_read_by_ranges_are_the_files(site, tmp_path):
    data = random.Random(0).randbytes(300_000)
    (tmp_path / "x.bin").write_bytes(data)
    where = Remote.parse(f"{site.address}/x.bin")
    draw = random.Random(1)
    with where.open() as file:
        for _ in range(60):
            at, size = draw.randrange(310_000), draw.choice([0, 1, 7, 512, 70_000])
            assert file.seek(at) == at
            assert file.read(size) == data[at : at + size]
    assert where.read(290_000, 20_000) == data[290_000:]
    assert where.read(400_000, 10) == b""
    assert where.read_bytes() == data


def test_labels_of_a_store_far_away_train_as_those_of_the_disk(far, data, tmp_path):
    run(data, tmp_path / "labels")
    put(tmp_path / "labels", f"{far}/labels")
    put(data, f"{far}/data")
    batches = []
    for at in (str(tmp_path), far):
        store, reader = Store(f"{at}/labels"), open_dataset(f"{at}/data")
        columns = {column.name: column for column in store.columns()}
        plan = Plan.build(reader, columns)
        dataset = TrainingSet(plan, reader, {n: LabelColumn(c) for n, c in columns.items()}, Viewing((8, 8)))
        for workers in (0, 2):  # two: after a fork
            found = loader(dataset, 6, lambda texts: torch.zeros(len(texts), 1), workers=workers)
            batches.append([(batch.captions, batch.images, batch.targets) for batch in found])
            assert not dataset.collate([], lambda texts: torch.zeros(0, 1)).skipped
    assert len(batches[0]) == 3
    for other in batches[1:]:
        for (captions, images, targets), (captions_, images_, targets_) in zip(batches[0], other, strict=True):
            assert captions == captions_
            assert torch.equal(images, images_)
            assert targets.keys() == targets_.keys()
            assert all(torch.equal(v, targets_[n][k]) for n, t in targets.items() for k, v in t.items())


def test_labels_on_the_web_are_read_by_name(site, data, tmp_path):
    run(data, tmp_path / "labels", Near())
    here, there = (Store(at).column("depth", "test-near") for at in (tmp_path / "labels", f"{site.address}/labels"))
    reader = open_dataset(str(data))
    plan = Plan.build(reader, {"depth": there})
    assert plan.table == Plan.build(reader, {"depth": here}).table
    row = here.rows("00000").to_pylist()[2]
    assert np.array_equal(there.label("00000", row).values, here.label("00000", row).values)
    with pytest.raises(RemoteError, match=r"cannot be listed|refused"):
        there.committed()


# Stores ----------------------------------------------------------------------------------------------------


def test_a_store_far_away_is_the_store_of_the_disk_and_goes_on_where_it_stopped(far, data, tmp_path):
    (data / "00001.tar").write_bytes((data / "00001.tar").read_bytes()[:-9000])  # some fail
    run(data, tmp_path / "labels", max_failures=1)
    there = put(data, f"{far}/data")
    run(there, f"{far}/labels", shards=["00001"], max_failures=1)
    assert len(contents(f"{far}/labels")) == 4
    reports = run(there, f"{far}/labels", max_failures=1)
    assert [report.shards for report in reports] == [3, 3]
    assert sum(report.labelled for report in reports) < sum(report.labels for report in reports)
    assert contents(f"{far}/labels") == contents(tmp_path / "labels")
    assert [report.labelled for report in run(there, f"{far}/labels", max_failures=1)] == [0, 0]
    assert run(there, f"{far}/labels", max_failures=1, retry_failed=True)[0].failures > 0
    assert contents(f"{far}/labels") == contents(tmp_path / "labels")
    assert verify(Store(f"{far}/labels"), open_dataset(there)) == verify(
        Store(tmp_path / "labels"), open_dataset(there)
    )
    for column in Store(f"{far}/labels").columns():
        same = Store(tmp_path / "labels").column(column.task, column.slug).manifest
        assert column.manifest.counts == same.counts
        assert [line["event"] for line in files_lines(column.path)].count("end") >= 2
        assert not (column.path / ".lock").exists()


def files_lines(folder) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_bytes().splitlines()]


def test_verify_finds_what_is_wrong_far_away(memory, data):
    run(data, f"{memory}/labels", Bright())
    assert verify(Store(f"{memory}/labels"), open_dataset(str(data))) == []
    column = Store(f"{memory}/labels").column("segmentation", "test-bright")
    tar = column.file("00000", ".tar")
    tar.write(tar.read_bytes()[:3000])
    column.file("00001", ".tar").unlink()
    problems = [str(problem) for problem in verify(Store(f"{memory}/labels"))]
    assert any("truncated" in problem for problem in problems)
    assert any("the tar is missing" in problem for problem in problems)


def test_the_verbs_take_addresses(far, data, tmp_path):
    run(data, tmp_path / "a", Bright(), shards=["00000"])
    run(data, f"{far}/b", Bright(), shards=["00001", "00002"])
    run(data, f"{far}/b", Near(), shards=["00001"])

    def cli(*words: str) -> str:
        result = CliRunner().invoke(app, [*words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return re.sub(r"\s+", " ", result.output)

    cli("labels", "merge", str(tmp_path / "a"), f"{far}/b", "--out", f"{far}/all")
    run(data, tmp_path / "whole", Bright())
    column = "segmentation/test-bright"
    merged = {name: data for name, data in contents(f"{far}/all").items() if name.startswith(column)}
    assert merged == contents(tmp_path / "whole")
    assert column in cli("labels", "ls", f"{far}/all")
    assert "test:bright" in cli("labels", "show", f"{far}/all", column)
    assert "nothing is wrong" in cli("labels", "verify", f"{far}/all", "--data", str(data))
    cli("labels", "merge", f"{far}/all", "--out", str(tmp_path / "back"))
    assert contents(tmp_path / "back") == contents(f"{far}/all")
    cli("inspect", f"{far}/all", "--data", str(data), "--out", str(tmp_path / "gallery.html"))
    cli("labels", "rm", f"{far}/all", column, "--yes")
    assert [one.name for one in Store(f"{far}/all").columns()] == ["depth/test-near"]
    assert not [name for name in files.below(files.place(f"{far}/all")) if "bright" in name]
    with pytest.raises(StoreError, match="it has: depth/test-near"):
        Store(f"{far}/all").column("segmentation", "test-bright")


def test_a_killed_removal_leaves_a_smaller_column(memory, data, monkeypatch):
    run(data, f"{memory}/labels", Bright())
    store, left = Store(f"{memory}/labels"), [2]
    unlink = Remote.unlink

    def stop(self, missing_ok=False):
        left[0] -= 1
        if left[0] < 0 and self.name != ".lock":
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    monkeypatch.setattr(Remote, "unlink", stop)
    with pytest.raises(KeyboardInterrupt):
        store.remove("segmentation", "test-bright")
    monkeypatch.undo()
    assert len(store.columns()[0].committed()) == 1
    store.remove("segmentation", "test-bright")
    assert store.columns() == []


def test_a_shard_counts_when_it_is_whole(memory, data, monkeypatch):
    """The upload of a shard's mark is the last one; what stops before leaves nothing that counts."""
    upload = Remote.upload

    def stop(self, path):
        if self.name == "00001.parquet":
            raise KeyboardInterrupt
        upload(self, path)

    monkeypatch.setattr(Remote, "upload", stop)
    with pytest.raises(KeyboardInterrupt):
        run(data, f"{memory}/labels", Bright())
    monkeypatch.undo()
    column = Store(f"{memory}/labels").columns()[0]
    assert column.file("00001", ".tar").exists()
    assert column.committed() == {"00000"}
    assert not [*_near._folder(os.getpid()).glob("*.tar")]
    run(data, f"{memory}/labels", Bright())
    assert column.committed() == {"00000", "00001", "00002"}


@pytest.mark.slow
def test_killed_in_the_middle_of_an_upload_it_goes_on(in_s3, data, tmp_path):
    run(data, tmp_path / "labels", Bright())
    out = f"s3://{BUCKET}/killed"
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from making import Bright; from clipzoo.labeling import label\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "label(sys.argv[2], [Bright()], sys.argv[3], device='cpu', progress=False)"
    )
    for kill_at in (2, 1):
        worker = subprocess.Popen(
            [sys.executable, "-c", script, str(Path(__file__).parent), str(data), out],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        in_s3.victim, in_s3.kill_at = worker.pid, kill_at
        worker.communicate("\n", timeout=120)
        assert worker.returncode == -signal.SIGKILL
        column = Store(out).columns()[0]
        assert column.committed() == {"00000"}
        assert (column.path / ".lock").exists(), "of the dead process"
    assert [*tmp_path.glob("clipzoo-*/*.tar")], "its draft"
    with pytest.MonkeyPatch.context() as patch:  # the next run on this machine clears up
        patch.setattr("tempfile.tempdir", str(tmp_path))
        _near._folder(-1)
        assert not [*tmp_path.glob("clipzoo-*/*.tar")]
    run(data, out, Bright())
    assert contents(out) == contents(tmp_path / "labels")
    assert verify(Store(out), open_dataset(str(data))) == []


# One writer ------------------------------------------------------------------------------------------------


def held(far: str, **changes: object) -> Remote:
    """A lock as another machine would have left it."""
    path = Remote.parse(f"{far}/x/.lock")
    values = {"host": "elsewhere", "machine": "m", "pid": 1, "token": "t", "time": time.time(), **changes}
    path.write(json.dumps(values).encode())
    return path


def test_one_writes_at_a_time(far):
    folder = files.place(f"{far}/x")
    with lock.alone(folder, StoreError, "why not"):
        said = rf"process {os.getpid()} on .*sign of life.*why not.*remove .*x/\.lock"
        with pytest.raises(StoreError, match=said), lock.alone(folder, StoreError, "why not"):
            raise AssertionError
        with pytest.raises(FileExistsError):
            (folder / ".lock").write(b"", new=True)
    with lock.alone(folder, StoreError, "why not"):
        pass
    assert not (folder / ".lock").exists()


def test_of_two_that_come_at_once_one_gets_it(far, monkeypatch):
    """Neither sees a lock when it looks."""
    folder, both, got = files.place(f"{far}/x"), threading.Barrier(2), []
    look = lock._holder
    monkeypatch.setattr(lock, "_holder", lambda path: {} if not both.wait(10) < 0 else look(path))

    def take() -> None:
        try:
            with lock.alone(folder, StoreError, "why"):
                got.append("in")
                both.wait(10)
        except StoreError:
            got.append("out")
        except threading.BrokenBarrierError:
            pass

    with ThreadPoolExecutor(2) as pool:
        [*pool.map(lambda _: take(), range(2))]
    assert sorted(got) == ["in", "out"]


def test_a_lock_ends_with_its_holder(memory):
    folder = files.place(f"{memory}/x")
    for living in ({}, {"pid": os.getpid(), "machine": lock._machine()}, {"time": time.time() - 600}):
        held(memory, **living)
        with pytest.raises(StoreError, match="in use"), lock.alone(folder, StoreError, "why"):
            raise AssertionError
    dead = subprocess.Popen(["true"])
    dead.wait()
    for gone in ({"time": time.time() - 901}, {"pid": dead.pid, "machine": lock._machine()}):
        path = held(memory, **gone)
        with lock.alone(folder, StoreError, "why"):
            assert lock._holder(path)["pid"] == os.getpid()
    path.write(b"garbage")
    with pytest.raises(StoreError, match="unknown"), lock.alone(folder, StoreError, "why"):
        raise AssertionError


def test_a_lock_gives_signs_of_life_and_leaves_anothers_alone(memory, monkeypatch):
    monkeypatch.setattr(lock, "RENEWED", 0.02)
    folder = files.place(f"{memory}/x")
    with lock.alone(folder, StoreError, "why"):
        first = lock._holder(folder / ".lock")["time"]
        until = time.monotonic() + 10
        while lock._holder(folder / ".lock")["time"] == first and time.monotonic() < until:
            time.sleep(0.02)
        assert lock._holder(folder / ".lock")["time"] > first
        held(memory)
        time.sleep(0.1)
        assert lock._holder(folder / ".lock")["host"] == "elsewhere"
    assert lock._holder(folder / ".lock")["host"] == "elsewhere"


# Plain words -----------------------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RemoteError, match=r"pip install 'clipzoo\[gcs\]'"):
        open_dataset("gs://bucket/data")
    result = CliRunner().invoke(app, ["labels", "ls", "gs://bucket/labels"])
    assert isinstance(result.exception, RemoteError)


@pytest.mark.parametrize(
    ("address", "said"),
    [("s4://bucket/x", "s4:// is not known"), ("s3://", "names no bucket"), ("simplecache::s3://b/x", "not known")],
)
def test_addresses_of_no_kind_are_refused(address, said):
    with pytest.raises(RemoteError, match=said):
        open_dataset(address)


def test_a_bucket_or_rights_that_are_missing_are_told(in_s3, data, monkeypatch, tmp_path):
    import s3fs

    with pytest.raises(DatasetError, match="there is no file or folder 's3://nobody/x'"):
        open_dataset("s3://nobody/x")
    with pytest.raises(StoreError, match="bucket does not exist"):
        run(data, "s3://nobody/labels", Bright())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match=r"refused.*AWS_ACCESS_KEY_ID.*FSSPEC_S3_ANON=true"):
        open_dataset(f"s3://{BUCKET}/x")


def test_a_web_server_is_asked_again_and_then_named(site, data):
    at = f"{site.address}/data/{{00000..00002}}.tar"
    reader, here = open_dataset(at), everything(open_dataset(str(data)))
    site.faults = [503, 0, 429]
    assert everything(reader) == here
    site.faults = [503] * 2 * _remote.TRIES  # fsspec asks by GET where HEAD fails
    with pytest.raises(RemoteError, match=rf"cannot be reached, {_remote.TRIES} times.*503.*run the same again"):
        reader.read(reader.index("00000")[0])
    site.faults = [403, 403]
    with pytest.raises(RemoteError, match="access was refused"):
        reader.index("00000")
    site.faults = [404, 404]
    with pytest.raises(DatasetError, match="nothing is there"):
        reader.index("00000")


def test_an_outage_stops_labelling_and_loses_nothing(site, data, tmp_path):
    """It is no failure of a sample: no row, no truncated shard; the same again goes on."""
    at = f"{site.address}/data/{{00000..00002}}.tar"

    class Outage(Bright):
        def predict(self, images):
            site.faults = [503] * 1000 if len(self.calls) == 2 else site.faults
            return super().predict(images)

    with pytest.raises(RemoteError, match="503"):
        run(at, tmp_path / "labels", Outage())
    site.faults = []
    column = Store(tmp_path / "labels").columns()[0]
    assert 1 <= len(column.committed()) < 3
    run(at, tmp_path / "labels", Bright())
    run(data, tmp_path / "undisturbed", Bright())
    assert contents(tmp_path / "labels") == contents(tmp_path / "undisturbed")
    assert column.manifest.counts.failures == 0


def test_a_server_that_stalls_or_is_away_is_told(site, data, monkeypatch):
    monkeypatch.setattr(_remote, "TIMEOUT", 0.1)
    monkeypatch.setattr(_remote, "TRIES", 2)
    fsspec.get_filesystem_class("http").clear_instance_cache()
    site.stall = 0.5
    with pytest.raises(RemoteError, match=r"cannot be reached, 2 times.*imeout"):
        open_dataset(f"{site.address}/data/00000.tar")
    with pytest.raises(RemoteError, match=r"cannot be reached, 2 times.*check the network"):
        open_dataset("http://127.0.0.1:9/data/00000.tar")


def test_a_server_without_ranges_is_told(site, data):
    site.ranges = False
    with pytest.raises(RemoteError, match=r"range requests.*copy the files"):
        open_dataset(f"{site.address}/data/00000.tar").index("00000")


def test_the_web_is_read_only(site, data):
    with pytest.raises(StoreError, match=r"cannot be written.*s3://"):
        run(data, f"{site.address}/labels", Bright())


def test_a_full_disk_is_told(memory, data, monkeypatch):
    put(data, f"{memory}/data")
    monkeypatch.setattr(os, "pwrite", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    reader = open_dataset(f"{memory}/data")
    with pytest.raises(RemoteError, match=r"No space left.*TMPDIR"), reader.near("00000"):
        raise AssertionError
    assert not [*_near._folder(os.getpid()).glob("*.tar")]


def test_a_file_that_shrinks_while_it_is_fetched_is_not_taken(memory, monkeypatch):
    where = Remote.parse(f"{memory}/x.bin")
    where.write(bytes(100))
    monkeypatch.setattr(Remote, "size", lambda self: 200)
    with pytest.raises(RemoteError, match="200 bytes and gave 100"), files.near(where):
        raise AssertionError
    assert np.all(np.frombuffer(where.read_bytes(), np.uint8) == 0)
