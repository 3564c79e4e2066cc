"""Stores in buckets: the same bytes as on a disk, one writer at a time, whole whenever a run dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo import files
from clipzoo.cli import app
from clipzoo.errors import StoreError
from clipzoo.files import _copies, lock
from clipzoo.files._remote import Remote
from clipzoo.labeling import local
from clipzoo.readers import open_dataset
from clipzoo.store import Store, verify
from making import Bright, Near, make_dataset
from serving import BUCKET, contents, put, run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data", shards=3)


# Stores ----------------------------------------------------------------------------------------------------


def test_a_store_far_away_is_the_store_of_the_disk_and_goes_on_where_it_stopped(far, data, tmp_path):
    (data / "00001.tar").write_bytes((data / "00001.tar").read_bytes()[:-9000])  # some fail
    run(data, tmp_path / "labels", max_failures=1)
    there = put(data, f"{far}/data")
    run(there, f"{far}/labels", shards=["00001"], max_failures=1)
    assert len(contents(f"{far}/labels")) == 4
    reports = run(there, f"{far}/labels", max_failures=1)
    assert [report.shards for report in reports] == [3, 3]
    assert sum(report.labeled for report in reports) < sum(report.labels for report in reports)
    assert contents(f"{far}/labels") == contents(tmp_path / "labels")
    assert [report.labeled for report in run(there, f"{far}/labels", max_failures=1)] == [0, 0]
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
    assert "no problems" in cli("labels", "verify", f"{far}/all", "--data", str(data))
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
    assert not [*_copies._folder(os.getpid()).glob("*.tar")]
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
        _copies._folder(-1)
        assert not [*tmp_path.glob("clipzoo-*/*.tar")]
    run(data, out, Bright())
    assert contents(out) == contents(tmp_path / "labels")
    assert verify(Store(out), open_dataset(str(data))) == []


def test_the_record_of_runs_is_not_rewritten_for_each_shard(memory, tmp_path, monkeypatch):
    data, writes, write = make_dataset(tmp_path / "data", shards=8, count=2), [], Remote.write

    def counted(self, data, new=False):
        writes.append(self.name)
        write(self, data, new)

    monkeypatch.setattr(Remote, "write", counted)
    run(data, f"{memory}/labels", Bright())
    (column,) = Store(f"{memory}/labels").columns()
    assert writes.count("runs.jsonl") <= 4
    lines = files_lines(column.path)
    assert [line["event"] for line in lines] == ["start", *["shard"] * 8, "end"]
    assert column.manifest.seconds == pytest.approx(sum(line.get("seconds", 0) for line in lines), abs=1e-3)
    monkeypatch.setattr(local, "INTERVAL", 0.0)
    run(data, f"{memory}/each", Bright())
    assert writes.count("runs.jsonl") >= 10, "after this time lines are written"


# One writer ------------------------------------------------------------------------------------------------


def held(far: str, **changes: object) -> Remote:
    """A lock as another machine would have left it."""
    path = Remote.parse(f"{far}/x/.lock")
    values = {"host": "elsewhere", "machine": "m", "pid": 1, "token": "t", "time": time.time(), **changes}
    path.write(json.dumps(values).encode())
    return path


def test_one_writes_at_a_time(far):
    folder = files.place(f"{far}/x")
    with lock.locked(folder, StoreError, "why not"):
        said = rf"process {os.getpid()} on .*renewed its lock.*why not.*remove .*x/\.lock"
        with pytest.raises(StoreError, match=said), lock.locked(folder, StoreError, "why not"):
            raise AssertionError
        with pytest.raises(FileExistsError):
            (folder / ".lock").write(b"", new=True)
    with lock.locked(folder, StoreError, "why not"):
        pass
    assert not (folder / ".lock").exists()


def test_of_two_that_come_at_once_one_gets_it(far, monkeypatch):
    """Neither sees a lock when it looks."""
    folder, both, got, local = files.place(f"{far}/x"), threading.Barrier(2), [], threading.local()
    look = lock._holder

    def late(path):
        if not hasattr(local, "looked"):
            local.looked = both.wait(10)
            return {}
        return look(path)

    monkeypatch.setattr(lock, "_holder", late)

    def take() -> None:
        try:
            with lock.locked(folder, StoreError, "why"):
                got.append("in")
                both.wait(10)
        except StoreError:
            got.append("out")
            both.wait(10)

    with ThreadPoolExecutor(2) as pool:
        [*pool.map(lambda _: take(), range(2))]
    assert sorted(got) == ["in", "out"]


def test_a_lock_ends_with_its_holder(memory):
    folder = files.place(f"{memory}/x")
    for living in ({}, {"pid": os.getpid(), "machine": lock._machine()}, {"time": time.time() - 600}):
        held(memory, **living)
        with pytest.raises(StoreError, match="in use"), lock.locked(folder, StoreError, "why"):
            raise AssertionError
    dead = subprocess.Popen(["true"])
    dead.wait()
    for gone in ({"time": time.time() - 901}, {"pid": dead.pid, "machine": lock._machine()}):
        path = held(memory, **gone)
        with lock.locked(folder, StoreError, "why"):
            assert lock._holder(path)["pid"] == os.getpid()
    path.write(b"garbage")
    with pytest.raises(StoreError, match="unknown"), lock.locked(folder, StoreError, "why"):
        raise AssertionError


def test_a_stale_lock_is_taken_over_by_one(memory, monkeypatch):
    """The second one has seen it, too, when the first has just taken it over."""

    def taken_meanwhile(holder):
        held(memory, token="first")
        return True

    held(memory, time=time.time() - 901)
    monkeypatch.setattr(lock, "_is_dead", taken_meanwhile)
    with pytest.raises(StoreError, match="in use"), lock.locked(files.place(f"{memory}/x"), StoreError, "why"):
        raise AssertionError
    assert lock._holder(Remote.parse(f"{memory}/x/.lock"))["token"] == "first"


def test_a_lock_whose_first_answer_was_lost_is_ones_own(memory, monkeypatch):
    """The client tries again by itself, and is told that there is one."""
    write = Remote.write

    def lost(self, data, new=False):
        write(self, data, new)
        if new:
            raise FileExistsError

    monkeypatch.setattr(Remote, "write", lost)
    folder = files.place(f"{memory}/x")
    with lock.locked(folder, StoreError, "why"):
        assert lock._holder(folder / ".lock")["pid"] == os.getpid()
    assert not (folder / ".lock").exists()


def test_what_a_killed_driver_left_is_removed(memory, data):
    run(data, f"{memory}/labels", Bright())
    (column,) = Store(f"{memory}/labels").columns()
    (column.path / ".0123.tmp").write(b"")
    assert ".0123.tmp belongs to no committed shard" in str(verify(Store(f"{memory}/labels"))[0])
    run(data, f"{memory}/labels", Bright())
    assert verify(Store(f"{memory}/labels")) == []


def test_a_lock_gives_signs_of_life_and_leaves_anothers_alone(memory, monkeypatch):
    monkeypatch.setattr(lock, "RENEWED", 0.02)
    folder = files.place(f"{memory}/x")
    with lock.locked(folder, StoreError, "why"):
        first = lock._holder(folder / ".lock")["time"]
        until = time.monotonic() + 10
        while lock._holder(folder / ".lock")["time"] == first and time.monotonic() < until:
            time.sleep(0.02)
        assert lock._holder(folder / ".lock")["time"] > first
        held(memory)
        time.sleep(0.1)
        assert lock._holder(folder / ".lock")["host"] == "elsewhere"
    assert lock._holder(folder / ".lock")["host"] == "elsewhere"
