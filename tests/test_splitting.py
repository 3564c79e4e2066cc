"""``clipzoo split``: parts are exact and complete, groups stay together, output is deterministic and resumable."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import clipzoo
from clipzoo.benchmarks import open_benchmark
from clipzoo.checking import engine
from clipzoo.cli import app
from clipzoo.errors import DatasetError
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.splitting import Options, split, writing
from clipzoo.splitting.parts import PARTS, assign
from clipzoo.splitting.report import PartReport, SplitReport, notes
from clipzoo.types import decode_image
from making import encoded, image, make_dataset, raw_tar, samples
from test_checking import photo

Row = dict[str, object]


def rows(out: Path) -> list[Row]:
    return pq.read_table(out / "samples.parquet").to_pylist()


def members(out: Path) -> dict[str, dict[str, bytes]]:
    """Part/shard/name of every member of every tar -> bytes."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as tar:
            part = path.relative_to(out).parts[0]
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                found.setdefault(part, {})[f"{path.stem}/{info.name}"] = file.read()
    return found


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def classed(folder: Path, counts: dict[str, int], shards: int = 2) -> Path:
    """Shards of pictures under a folder for each class."""
    keys = [(name, i) for name, count in counts.items() for i in range(count)]
    for shard in range(shards):
        listed = [
            (f"{name}/{i:04d}", {"png": encoded(image(1000 * n + i)), "txt": f"a {name} {i}".encode()})
            for n, (name, i) in enumerate(keys)
            if n % shards == shard
        ]
        write_shard(folder / f"{shard:05d}.tar", listed)
    return folder


# Sizes and classes -----------------------------------------------------------------------------------------


def test_every_sample_is_in_one_part_or_left_out_with_its_reason(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=3, count=20)
    broken = [("bad", {"png": b"no picture", "txt": b"x"}), ("mute", {"png": encoded(image(99))})]
    write_shard(data / "00003.tar", broken)
    report = split(str(data), tmp_path / "out", Options(probe="5", validation="10%", test="0.2", shard_size=7))
    listed = rows(tmp_path / "out")
    assert len(listed) == report.samples == 62
    assert len({(row["source_shard"], row["source_key"]) for row in listed}) == 62
    assert Counter(row["part"] for row in listed) == {"train": 37, "probe": 5, "validation": 6, "test": 12, "": 2}
    assert {row["source_key"]: str(row["reason"]).partition(":")[0] for row in listed if not row["part"]} == {
        "bad": "cannot-decode", "mute": "no-caption",
    }  # fmt: skip
    assert report.left_out == {"cannot-decode": 1, "no-caption": 1}
    source = {
        entry.key: data for shard in open_dataset(str(data)).shards for entry in open_dataset(str(data)).index(shard)
    }
    assert len(source) == 62
    original = {key: content for i in range(3) for key, content in samples(20, 20 * i)}
    written = members(tmp_path / "out")
    for row in listed:
        for name, value in original.get(str(row["source_key"]), {}).items():
            assert written[str(row["part"])].pop(f"{row['shard']}/{row['key']}.{name}") == value
    assert not any(written.values())
    assert max(int(str(row["shard"])) for row in listed if row["part"] == "train") == 5  # 37 samples, 7 in a shard


@pytest.mark.parametrize("seed", range(3))
def test_parts_have_their_sizes_and_the_shares_of_every_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 40, 5000)
    wanted = [3500, 500, 250, 750]
    parts = assign(np.arange(5000), classes, wanted, seed)
    assert np.bincount(parts).tolist() == wanted
    table = np.zeros((40, 4))
    np.add.at(table, (classes, parts), 1)
    expected = np.bincount(classes)[:, None] * np.array(wanted) / 5000
    assert np.abs(table - expected).max() < 2.5


def test_groups_stay_together_and_large_ones_fit() -> None:
    roots = np.arange(1000)
    for start, size in ((0, 300), (300, 40), (340, 40), (400, 30), (500, 2), (600, 2), (700, 2)):
        roots[start : start + size] = start
    parts = assign(roots, np.zeros(1000, np.int64), [700, 100, 100, 100], 0)
    assert all(len(np.unique(parts[roots == root])) == 1 for root in np.unique(roots))
    assert np.bincount(parts).tolist() == [700, 100, 100, 100]
    whole = assign(np.zeros(10, np.int64), np.zeros(10, np.int64), [7, 1, 1, 1], 0)
    assert np.bincount(whole).tolist() == [10]


def test_small_classes_reach_the_measured_parts() -> None:
    classes = np.repeat(np.arange(100), 3)
    parts = assign(np.arange(300), classes, [240, 0, 30, 30], 0)
    assert np.bincount(parts, minlength=4).tolist() == [240, 0, 30, 30]
    assert len(set(classes[parts == 3])) > 20


def test_parts_are_benchmark_folders_with_classes(tmp_path: Path) -> None:
    data = classed(tmp_path / "data", {"red chair": 20, "lamp": 40, "10": 10})
    out = tmp_path / "out"
    report = split(str(data), out, Options(classes="folder", heldout=("10",)))
    assert {name: part.samples for name, part in report.parts.items()} == {
        "train": 42, "probe": 6, "validation": 6, "test": 6, "heldout": 10,
    }  # fmt: skip
    assert report.parts["train"].classes == {"lamp": 28, "red chair": 14}
    for part in ("probe", "validation", "test", "heldout"):
        benchmark = open_benchmark(str(out / part))
        assert benchmark.classnames == ("10", "lamp", "red chair")
        for shard in benchmark.shards:
            for entry in benchmark.reader.index(shard):
                target = benchmark.target(entry)
                assert target is not None
                assert benchmark.classnames[target] == entry.key.split("/")[0]
                caption = benchmark.captions(entry, benchmark.reader.read(entry))
                assert caption == (f"a {entry.key.split('/')[0]} {int(entry.key.split('/')[1])}",)
    reader = open_dataset(str(out / "train"))
    assert sum(entry.error is None for shard in reader.shards for entry in reader.index(shard)) == 42


# Groups ----------------------------------------------------------------------------------------------------


def test_copies_of_a_picture_stay_in_one_part(tmp_path: Path) -> None:
    """Copies in other shards, sizes and formats, against many pictures of one kind each."""
    shards: list[list[tuple[str, dict[str, bytes]]]] = [[], [], []]
    for i in range(60):
        copies = [encoded(photo(i)), encoded(np.asarray(Image.fromarray(photo(i)).resize((90, 90))), "JPEG")]
        copies.append(copies[0])
        for shard, content in zip(shards, copies[: 1 + i % 3], strict=False):
            shard.append((f"{i:03d}", {"jpg" if content[:2] == b"\xff\xd8" else "png": content, "txt": b"a photo"}))
    for i, listed in enumerate(shards):
        write_shard(tmp_path / "data" / f"{i}.tar", listed)
    report = split(str(tmp_path / "data"), tmp_path / "out", Options(test="25%"))
    parts: dict[str, set[object]] = {}
    for row in rows(tmp_path / "out"):
        parts.setdefault(str(row["source_key"]), set()).add(row["part"])
        assert bool(row["reason"]) == (int(str(row["source_key"])) % 3 > 0)
    assert len(parts) == 60
    assert all(len(one) == 1 for one in parts.values())
    assert set(report.reasons) == {"equal picture", "nearly equal picture"}
    assert report.parts["test"].groups > 2  # not only single pictures are measured


@pytest.mark.parametrize("by", ["pattern", "folder", "field"])
def test_series_stay_in_one_part(tmp_path: Path, by: str) -> None:
    listed = [
        (f"{i % 12:02d}/shot_{i:03d}" if by == "folder" else f"film{i % 12:02d}_{i:03d}",
         {"png": encoded(image(i)), "json": json.dumps({"caption": f"picture {i}", "film": f"f {i % 12}"}).encode()})
        for i in range(96)
    ]  # fmt: skip
    write_shard(tmp_path / "data" / "0.tar", listed)
    options = {
        "pattern": Options(series_pattern=r"(.+)_\d+"), "folder": Options(series="folder"),
        "field": Options(series="film"),
    }[by]  # fmt: skip
    report = split(str(tmp_path / "data"), tmp_path / "out", options)
    parts: dict[int, set[object]] = {}
    for row in rows(tmp_path / "out"):
        parts.setdefault(int(str(row["source_key"])[-3:]) % 12, set()).add(row["part"])
        assert row["reason"] == "series"
    assert all(len(one) == 1 for one in parts.values())
    assert set(report.parts) <= set(PARTS)
    assert report.parts["train"].samples >= 64


def in_folders(folder: Path, counts: dict[str, int]) -> Path:
    """A shard with ``counts[name]`` pictures under each name."""
    keys = [f"{name}/{i:04d}" for name, count in counts.items() for i in range(count)]
    write_shard(
        folder / "0.tar", [(key, {"png": encoded(image(n)), "txt": key.encode()}) for n, key in enumerate(keys)]
    )
    return folder


@pytest.mark.parametrize(
    ("counts", "options", "said"),
    [
        ({"a": 30, "b": 30}, Options(series="folder"), r"'probe' would be empty instead of 6 .* --probe 0 to leave"),
        ({"a": 60}, Options(series="folder", probe="0", validation="0", test="50%"), "'test' would be empty instead"),
        ({"a": 30, "b": 30}, Options(series="folder", probe="0", validation="29", test="29"), "'train' would be empty"),
    ],
)
def test_a_part_without_samples_is_refused(tmp_path: Path, counts: dict[str, int], options: Options, said: str) -> None:
    data = in_folders(tmp_path / "data", counts)
    with pytest.raises(DatasetError, match=said):
        split(str(data), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_folders_of_one_name_in_two_folders_are_two_series(tmp_path: Path) -> None:
    data = in_folders(tmp_path / "data", {f"{outer}/{inner}": 3 for outer in "abcdefgh" for inner in "12"})
    split(str(data), tmp_path / "out", Options(series="folder"))
    groups = {str(row["source_key"])[:3]: row["group"] for row in rows(tmp_path / "out")}
    assert len(set(groups.values())) == len(groups) == 16


def test_a_field_of_a_series_that_does_not_exist_is_refused_next_to_a_pattern(tmp_path: Path) -> None:
    data = in_folders(tmp_path / "data", {f"film{i}": 2 for i in range(20)})
    with pytest.raises(DatasetError, match="--series flim: no sample has text in this field"):
        split(str(data), tmp_path / "out", Options(series="flim", series_pattern="(.+)/"))


# Other formats ---------------------------------------------------------------------------------------------


def test_tables_and_folders_keep_captions_and_fields(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    with (tmp_path / "table" / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "title", "alt", "label"])
        for i in range(20):
            (tmp_path / "table" / f"p.{i}.png").write_bytes(encoded(image(i)))
            writer.writerow([f"p.{i}.png", f"title {i}", "two\nlines" if i == 3 else f"alt {i}", f"class {i % 2}"])
    split(f"{tmp_path / 'table' / 't.csv'}?caption=title|alt", tmp_path / "out", Options(classes="label", test="4"))
    train = open_dataset(str(tmp_path / "out" / "train"))
    read = [train.read(entry) for entry in train.index(train.shards[0])]
    for sample in read:
        number = int(sample.caption.split()[1])
        assert sample.others == (("two\nlines" if number == 3 else f"alt {number}"),)
    fields = train.fields(train.index(train.shards[0])[0])
    assert fields["label"][0].startswith("class")
    benchmark = open_benchmark(str(tmp_path / "out" / "test"))
    assert benchmark.classnames == ("class 0", "class 1")
    entry = benchmark.reader.index(benchmark.shards[0])[0]
    assert len(benchmark.captions(entry, benchmark.reader.read(entry))) == 2


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_folder_keeps_its_json_files(case: Callable[[str], str], tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{i}.{case('png')}").write_bytes(encoded(image(i)))
        (tmp_path / "data" / f"{i}.{case('txt')}").write_text(f"picture {i}")
        (tmp_path / "data" / f"{i}.{case('json')}").write_text(json.dumps({"id": i}))
    split(str(tmp_path / "data"), tmp_path / "out", Options(probe="0", validation="0", test="6"))
    for part in members(tmp_path / "out").values():
        assert sorted(json.loads(part[name])["id"] for name in part if name.endswith("json")) == sorted(
            int(part[name].split()[1]) for name in part if name.endswith("txt")
        )
        assert len(part) == 18


def test_further_members_of_a_tar_are_kept(tmp_path: Path) -> None:
    listed = [
        (f"{i:02d}",
         {"input.png": encoded(image(i)), "out.txt": b"words", "png": encoded(image(i + 50)), "mask.png": b"mask",
          "json": b'{"id": 7, "alt": "b"}'})
        for i in range(12)
    ]  # fmt: skip
    write_shard(tmp_path / "data" / "0.tar", listed)
    split(f"{tmp_path / 'data'}?image=input&caption=out", tmp_path / "out", Options(probe="0", validation="0"))
    for part in members(tmp_path / "out").values():
        assert part
        key = next(iter(part))[:8]
        assert {name[9:]: part[name] for name in part if name.startswith(key)} == {
            "png": encoded(image(int(key[-2:]))), "txt": b"words", "source.png": encoded(image(int(key[-2:]) + 50)),
            "mask.png": b"mask", "json": b'{"id": 7, "alt": "b"}',
        }  # fmt: skip


@pytest.mark.parametrize("data", [b'[1, "boxes"]', b'{"a": 1', b"\xff", b"7", b""])
def test_a_json_file_that_is_no_object_is_kept_as_it_is(tmp_path: Path, data: bytes) -> None:
    listed = [(f"{i:02d}", {"png": encoded(image(i)), "txt": b"words", "json": data}) for i in range(6)]
    write_shard(tmp_path / "data" / "0.tar", listed)
    split(str(tmp_path / "data"), tmp_path / "out", Options(probe="0", validation="0", test="2"))
    kept = [part[name] for part in members(tmp_path / "out").values() for name in part if name.endswith(".source.json")]
    assert kept == [data] * 6


def test_escapes_in_a_json_file_are_kept(tmp_path: Path) -> None:
    data = b'{"name": "a\\udcff"}'
    listed = [(f"{i:02d}", {"png": encoded(image(i)), "txt": b"words", "json": data}) for i in range(6)]
    write_shard(tmp_path / "data" / "0.tar", listed)
    split(str(tmp_path / "data"), tmp_path / "out", Options(probe="0", validation="0", test="2"))
    parts = members(tmp_path / "out").values()
    assert [part[name] for part in parts for name in part if name.endswith(".json")] == [data] * 6


@pytest.mark.parametrize("out", [".", "..", "../empty", "/", "sub/.."])
def test_the_working_folder_is_not_replaced(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset(tmp_path / "data", shards=1, count=3)
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DatasetError, match=r"is the working folder or contains it, .*; give another --out"):
        split(str(data), out)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data", "empty"]


def test_pictures_without_captions_can_be_split_by_their_folders(tmp_path: Path) -> None:
    for i in range(30):
        path = tmp_path / "data" / ("cat" if i % 3 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image(i)))
    with pytest.raises(DatasetError, match=r"\?captions=optional"):
        split(str(tmp_path / "data"), tmp_path / "out", Options(classes="folder"))
    split(f"{tmp_path / 'data'}?captions=optional", tmp_path / "out", Options(classes="folder"))
    assert open_benchmark(str(tmp_path / "out" / "test")).classnames == ("cat", "dog")


def test_equal_keys_of_several_shards_and_keys_with_dots_get_keys_of_their_own(tmp_path: Path) -> None:
    for shard in range(2):
        listed = {f"Track {i}.{shard} (A).{ext}": content for i in range(6) for ext, content in
                  (("png", encoded(image(10 * shard + i))), ("txt", f"track {shard} {i}".encode()))}  # fmt: skip
        path = tmp_path / "data" / f"{shard}.tar"
        raw_tar(path, list(listed.items()))
    make_dataset(tmp_path / "more" / "a", shards=1)
    (tmp_path / "more" / "b").mkdir()
    (tmp_path / "more" / "b" / "00000.tar").write_bytes((tmp_path / "more" / "a" / "00000.tar").read_bytes())
    for data, count in ((f"{tmp_path / 'data'}?key=last-dot", 12), (str(tmp_path / "more"), 12)):
        out = tmp_path / "out" / str(len(data))
        split(data, out, Options(probe="0", validation="0", test="0"))
        assert len({key for part in members(out).values() for key in part if key.endswith(".txt")}) == count


def test_keys_that_no_reader_would_use_in_a_tar_are_changed(tmp_path: Path) -> None:
    keys = ["/data/0", "../1", "./2", "a\\3", "a/../4", "fine/5"]
    lines = [f"{i}.png,c {i},{key}" for i, key in enumerate(keys)]
    for i in range(len(keys)):
        (tmp_path / f"{i}.png").write_bytes(encoded(image(i)))
    (tmp_path / "a.csv").write_text("\n".join(["image,caption,key", *lines]))
    split(tmp_path / "a.csv", tmp_path / "out", Options(probe="0", validation="0", test="0"))
    reader = open_dataset(tmp_path / "out" / "train")
    entries = [entry for shard in reader.shards for entry in reader.index(shard)]
    assert [entry.error for entry in entries] == [None] * len(keys)
    assert [entry.key for entry in entries] == [row["key"] for row in rows(tmp_path / "out")]
    assert entries[-1].key == "fine/5"


@pytest.mark.parametrize(
    "exif", ['{"Image Orientation": "Rotated 90 CW", "Make": "x"}', {"Image Orientation": "Rotated 90 CW"}]
)
def test_a_picture_that_was_turned_is_not_turned_again(tmp_path: Path, exif: object) -> None:
    note = json.dumps({"caption": "c", "exif": exif}).encode()
    members = [(f"{i}", {"png": encoded(image(i)), "json": note}) for i in range(4)]
    write_shard(tmp_path / "tars" / "0.tar", members)
    (tmp_path / "folder").mkdir()
    for key, files in members:
        for ext, data in files.items():
            (tmp_path / "folder" / f"{key}.{ext}").write_bytes(data)
    for data in ("tars", "folder"):
        split(f"{tmp_path / data}?exif=json", tmp_path / f"{data}-out", Options(probe="0", validation="0", test="0"))
        for options in ("", "?exif=json"):
            reader = open_dataset(f"{tmp_path / f'{data}-out'}/train{options}")
            entry = reader.index("00000")[0]
            found = reader.read(entry)
            assert decode_image(found.image).shape == (16, 12, 3)
            assert reader.sideways(entry, found.image) == ""
            assert found.caption == "c"


# Determinism, stops, and what exists ---------------------------------------------------------------------


def test_equal_options_give_equal_bytes_and_another_seed_another_split(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=30)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        split(str(data), tmp_path / name, Options(seed=seed))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


STOPPED = """
import os, signal, sys
number = int(sys.argv[3])
from clipzoo.splitting import engine, writing
written, write_shard = [], writing.write_shard
def slow(path, samples):
    if len(written) == 2:
        os.kill(os.getpid(), number)
    count = write_shard(path, samples)
    written.append(path)
    return count
writing.write_shard = slow
from clipzoo.cli import main
sys.argv = ["clipzoo", "split", sys.argv[1], "--out", sys.argv[2], "--shard-size", "8"]
main()
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stopped_split_resumes_with_the_shards_it_has(
    tmp_path: Path, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=20)
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED, str(data), str(tmp_path / "out"), str(int(sent))],
        capture_output=True,
        text=True,
    )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()
    partial = tmp_path / ".out.partial"
    finished = {path: path.stat().st_ino for path in partial.rglob("*.tar")}
    assert len(finished) >= 2
    scanned: list[object] = []
    monkeypatch.setattr(engine, "scan_sample", lambda reader, entry: scanned.append(entry))
    split(str(data), tmp_path / "out", Options(shard_size=8))
    monkeypatch.undo()
    assert not scanned
    assert all((tmp_path / "out" / path.relative_to(partial)).stat().st_ino == node for path, node in finished.items())
    split(str(data), tmp_path / "whole", Options(shard_size=8))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not partial.exists()


def test_a_stopped_split_with_other_options_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=20)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_shard", full)
    with pytest.raises(OSError, match="No space"):
        split(str(data), tmp_path / "out", Options(seed=1))
    monkeypatch.undo()
    split(str(data), tmp_path / "out", Options(seed=2, shard_size=8))
    split(str(data), tmp_path / "whole", Options(seed=2, shard_size=8))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_existing_folder_is_replaced_only_by_force_and_only_if_it_is_a_split(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=1, count=20)
    split(str(data), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(DatasetError, match="--force"):
        split(str(data), tmp_path / "out", Options(seed=3))
    assert contents(tmp_path / "out") == before
    split(str(data), tmp_path / "out", Options(seed=3), force=True)
    assert contents(tmp_path / "out") != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DatasetError, match=r"no split\.json"):
        split(str(data), tmp_path / "mine", force=True)
    with pytest.raises(DatasetError, match="inside the dataset"):
        split(str(data), data / "parts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine", "out"]


@pytest.mark.parametrize("data", ["out/train", "out/train/*.tar", "out", "list.yaml"])
def test_an_output_that_contains_its_dataset_is_not_replaced(tmp_path: Path, data: str) -> None:
    split(str(make_dataset(tmp_path / "data", shards=1, count=20)), tmp_path / "out")
    (tmp_path / "list.yaml").write_text("datasets: {a: out/train, b: data}\n")
    before = contents(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"contains the dataset .*, which would be removed .*; give another --out"):
        split(str(tmp_path / data), tmp_path / "out", force=True)
    assert contents(tmp_path / "out") == before


def test_an_output_that_contains_the_folder_of_check_is_not_replaced(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=1, count=20)
    split(str(data), tmp_path / "out")
    clipzoo.check(str(data), resume=tmp_path / "out" / "checked", progress=False)
    before = contents(tmp_path / "out")
    with pytest.raises(DatasetError, match="contains the folder of --check"):
        split(str(data), tmp_path / "out", check=tmp_path / "out" / "checked", force=True)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(test="much"), "--test much is not a size"), (Options(test="-3"), "is not a size"),
        (Options(test="130%"), "is not a size"), (Options(test="1.5"), "is not a size"),
        (Options(probe="15", test="10"), "ask for 27 samples, but there are 20"),
        (Options(probe="1%"), "would be empty"), (Options(shard_size=0), "--shard-size 0"),
        (Options(heldout=("cat",)), "names classes, but the samples have none"),
        (Options(series_pattern="("), "not a regular expression"), (Options(series_pattern="a+"), "has no group"),
        (Options(series_pattern="(cat)"), "matches no key"), (Options(classes="kind"), "no sample has text in this"),
        (Options(classes="folder"), "no sample is in a folder"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused_in_a_sentence(tmp_path: Path, options: Options, said: str) -> None:
    data = make_dataset(tmp_path / "data", shards=1, count=20)
    with pytest.raises(DatasetError, match=said):
        split(str(data), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_class_that_does_not_exist_cannot_be_held_out(tmp_path: Path) -> None:
    data = classed(tmp_path / "data", {"cat": 10, "dog": 10})
    with pytest.raises(DatasetError, match="'bird', which no sample has; the classes are cat, dog"):
        split(str(data), tmp_path / "out", Options(classes="folder", heldout=("bird",)))


# With the results of a check -----------------------------------------------------------------------------


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(reader: object, entry: object) -> None:
        raise AssertionError("a picture was decoded again")

    monkeypatch.setattr(engine, "scan_sample", refuse)
    yield
    monkeypatch.undo()


def test_the_groups_of_a_check_are_used_and_can_be_edited(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=20)
    write_shard(data / "00002.tar", [("copy", dict(samples(1)[0][1])), *samples(1, 70)])
    clipzoo.check(str(data), resume=tmp_path / "check", progress=False)
    table = pq.read_table(tmp_path / "check" / "groups.parquet")
    assert [(row["shard"], row["key"], row["reason"]) for row in table.to_pylist()] == [
        ("00000", "000000", "equal picture"), ("00002", "copy", "equal picture"),
    ]  # fmt: skip
    request.getfixturevalue("no_decoding")
    split(str(data), tmp_path / "out", check=tmp_path / "check")
    grouped = {str(row["source_key"]): row for row in rows(tmp_path / "out") if row["group"] is not None}
    assert grouped.keys() == {"000000", "copy"}
    assert grouped["copy"]["part"] == grouped["000000"]["part"]
    own = [{"shard": "00000", "key": f"{i:06d}", "group": 5, "reason": "one room"} for i in range(9)]
    pq.write_table(table.from_pylist(own, table.schema), tmp_path / "check" / "groups.parquet")
    report = split(str(data), tmp_path / "edited", check=tmp_path / "check")
    assert report.reasons == {"one room": 9}
    assert len({row["part"] for row in rows(tmp_path / "edited") if row["reason"] == "one room"}) == 1
    own[1]["group"] = own[2]["group"] = None
    pq.write_table(table.from_pylist(own, table.schema), tmp_path / "check" / "groups.parquet")
    assert split(str(data), tmp_path / "apart", check=tmp_path / "check").reasons == {"one room": 7}
    own[0]["key"] = "nobody"
    pq.write_table(table.from_pylist(own, table.schema), tmp_path / "check" / "groups.parquet")
    with pytest.raises(DatasetError, match="'nobody'"):
        split(str(data), tmp_path / "more", check=tmp_path / "check")


def test_groups_of_other_data_are_refused(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=20)
    clipzoo.check(str(data), resume=tmp_path / "check", progress=False)
    write_shard(data / "00001.tar", samples(20, 100))
    with pytest.raises(DatasetError, match=r"groups of other data[\s\S]*--resume"):
        split(str(data), tmp_path / "out", check=tmp_path / "check")
    with pytest.raises(DatasetError, match="is not a folder"):
        split(str(data), tmp_path / "out", check=tmp_path / "nowhere")
    (tmp_path / "other" / "shards").mkdir(parents=True)
    with pytest.raises(DatasetError, match="is not a folder of `clipzoo check DATA --resume FOLDER`"):
        split(str(data), tmp_path / "out", check=tmp_path / "other")
    assert not list((tmp_path / "other" / "shards").iterdir())


def test_the_command_prints_where_samples_went(tmp_path: Path) -> None:
    data = classed(tmp_path / "data", {"cat": 30, "dog": 20})
    arguments = ["split", str(data), "--out", str(tmp_path / "out"), "--classes", "folder", "--heldout", "dog"]
    result = CliRunner().invoke(app, [*arguments, "--test", "20%", "--seed", "4"])
    assert result.exit_code == 0, result.output
    assert "heldout" in result.output
    assert clipzoo.split is split
    saved = json.loads((tmp_path / "out" / "split.json").read_text())
    assert saved["parts"]["test"]["samples"] == 6
    assert saved["options"]["seed"] == 4


def test_notes_name_classes_without_probe_samples_and_classes_that_are_numbers() -> None:
    def noted(parts: dict[str, dict[str, int]]) -> list[str]:
        listed = {name: PartReport(sum(of.values()), sum(of.values()), classes=of) for name, of in parts.items()}
        return notes(SplitReport(Path("out"), "data", parts=listed))

    numbered = {"train": {"3": 9, "8": 2}, "probe": {"3": 1}, "test": {"3": 1, "8": 1}}
    first, second = noted(numbered)
    assert first == "1 class without a probe sample: 8"
    assert "prompts need names" in second
    assert len(noted({name: {f"a{key}": n for key, n in of.items()} for name, of in numbered.items()})) == 1
