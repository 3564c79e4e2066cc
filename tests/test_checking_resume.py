"""A dataset check resumes: results of finished shards are kept, and reused while the shard is unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clipzoo
import hostile
from clipzoo.checking import Findings, engine
from clipzoo.checking.engine import scan_sample
from clipzoo.pages.check import rows
from clipzoo.readers.webdataset import write_shard
from making import encoded, image, make_dataset, samples


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys: list[str] = []

    def recorded(reader: object, entry: object) -> object:
        keys.append(entry.key)  # type: ignore[attr-defined]
        return scan_sample(reader, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "scan_sample", recorded)
    return keys


def comparable(found: Findings) -> dict[str, object]:
    return {name: value for name, value in vars(found).items() if name not in ("seconds", "reused", "_draw")}


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.slow] * (form != "shards")) for form in hostile.DATASETS]
)
def test_kept_results_are_those_of_a_new_check(tmp_path: Path, form: str, scanned: list[str]) -> None:
    where = hostile.DATASETS[form](tmp_path / "data") + "?format=folder" * (form == "folder")
    plain = clipzoo.check(where, progress=False)
    first = clipzoo.check(where, resume=tmp_path / "kept", progress=False)
    scanned.clear()
    again = clipzoo.check(where, resume=tmp_path / "kept", progress=False)
    assert comparable(again) == comparable(first) == comparable(plain)
    assert rows(again) == rows(plain)
    assert again.reused > 0
    assert len(scanned) <= sum(one.count for one in plain.broken.values()) + plain.usable


def test_only_changed_shards_are_checked_again(tmp_path: Path, scanned: list[str]) -> None:
    data = make_dataset(tmp_path / "data", shards=3, count=5)
    clipzoo.check(str(data), resume=tmp_path / "kept", progress=False)
    scanned.clear()
    write_shard(data / "00001.tar", samples(6, 50))
    write_shard(data / "00003.tar", samples(2, 90))
    found = clipzoo.check(str(data), resume=tmp_path / "kept", progress=False)
    assert scanned == [f"{i:06d}" for i in (*range(50, 56), 90, 91)]
    assert (found.seen, found.reused) == (18, 2)
    scanned.clear()
    clipzoo.check(f"{data}?key=last-dot", resume=tmp_path / "kept", progress=False)
    assert len(scanned) == 18  # other options read other samples


def test_a_picture_that_is_replaced_in_a_folder_is_checked_again(tmp_path: Path, scanned: list[str]) -> None:
    for i in range(4):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{i}.bmp").write_bytes(encoded(image(i), "BMP"))
        (tmp_path / "data" / f"{i}.txt").write_text("a picture")
    clipzoo.check(str(tmp_path / "data"), resume=tmp_path / "kept", progress=False)
    scanned.clear()
    (tmp_path / "data" / "2.bmp").write_bytes(encoded(image(9), "BMP"))  # of the same size
    os.utime(tmp_path / "data" / "2.bmp", ns=(1, 1))
    found = clipzoo.check(str(tmp_path / "data"), resume=tmp_path / "kept", progress=False)
    assert len(scanned) == 4
    assert found.reused == 0


STOPPED = """
import os, signal, sys
number = int(sys.argv[3])
from clipzoo.checking import engine
scan_sample, seen = engine.scan_sample, []
def slow(reader, entry):
    seen.append(entry)
    if len(seen) == 40:
        os.kill(os.getpid(), number)
    return scan_sample(reader, entry)
engine.scan_sample = slow
from clipzoo.cli import main
sys.argv = ["clipzoo", "check", sys.argv[1], "--resume", sys.argv[2]]
main()
"""


@pytest.mark.parametrize("sent", [15, pytest.param(9, marks=pytest.mark.slow)])
def test_a_stopped_check_resumes_after_its_finished_shards(tmp_path: Path, sent: int, scanned: list[str]) -> None:
    data = make_dataset(tmp_path / "data", shards=3, count=30)
    command = [sys.executable, "-c", STOPPED, str(data), str(tmp_path / "kept"), str(sent)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode in (143, -9)
    assert not (tmp_path / "kept" / "groups.parquet").exists()
    found = clipzoo.check(str(data), resume=tmp_path / "kept", progress=False)
    assert found.reused == 1
    assert len(scanned) == 60
    assert (found.seen, found.of_all) == (90, True)
    assert (tmp_path / "kept" / "groups.parquet").exists()


def test_samples_that_could_not_be_read_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=5)

    def failing(data: bytes, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("clipzoo.readers.decode.decode_image", failing)
    assert clipzoo.check(str(data), resume=tmp_path / "kept", progress=False).usable == 0
    monkeypatch.undo()
    assert clipzoo.check(str(data), resume=tmp_path / "kept", progress=False).usable == 10


def test_a_damaged_file_of_results_is_ignored(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=5)
    clipzoo.check(str(data), resume=tmp_path / "kept", progress=False)
    for path in (tmp_path / "kept" / "shards").iterdir():
        path.write_bytes(path.read_bytes()[:30])
    found = clipzoo.check(str(data), resume=tmp_path / "kept", progress=False)
    assert (found.usable, found.reused) == (10, 0)


def test_a_benchmark_without_captions_can_be_checked(tmp_path: Path) -> None:
    write_shard(tmp_path / "images" / "0.tar", [(str(i), {"png": encoded(image(i)), "cls": b"1"}) for i in range(3)])
    assert clipzoo.check(str(tmp_path / "images"), progress=False).usable == 0
    assert clipzoo.check(f"{tmp_path / 'images'}?captions=optional", progress=False).usable == 3


def test_progress_is_a_line_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=5)
    monkeypatch.setattr(engine, "PERIOD", 0.0)
    clipzoo.check(str(data))
    assert "checking: 1/2 shards, 5 samples, 0 broken" in capfd.readouterr().err
