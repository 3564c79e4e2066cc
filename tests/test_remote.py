"""Datasets and stores behind a network: the same samples and bytes as on a disk, and plain words when it fails."""

from __future__ import annotations

import csv
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from clipzoo import files
from clipzoo.cli import app
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.errors import DatasetError, RemoteError, SampleError, StoreError
from clipzoo.files import _copies, _remote
from clipzoo.files._remote import Remote
from clipzoo.pages.check import check
from clipzoo.readers import Reader, fingerprint, open_dataset, prefetched
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store
from making import Bright, Near, encoded, image, make_dataset
from serving import BUCKET, Web, contents, put, run, web


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data", shards=3)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(_remote, "WAIT", 0.01)
    with web(tmp_path) as server:
        yield server


def everything(reader: Reader) -> list[tuple[object, ...]]:
    """Every sample that a reader gives, and every reason."""
    entries = [entry for shard in reader.shards for entry in reader.index(shard)]
    return [
        (e.shard, e.key, e.error) if e.error else (e.shard, e.key, (s := reader.read(e)).image, s.caption)
        for e in entries
    ]


# Datasets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["", "/00001.tar", "/{00000..00002}.tar", "/*.tar", "/{00000,00001}.tar"])
def test_tars_in_a_store_are_those_of_the_disk(far, data, pattern):
    (data / ".hidden.tar").write_bytes(b"no tar")
    there, here = open_dataset(put(data, f"{far}/data") + pattern), open_dataset(str(data) + pattern)
    assert there.shards == here.shards
    assert everything(there) == everything(here)
    assert fingerprint(there) == fingerprint(here)
    with there.cached(there.shards[0]):
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
        with pytest.raises(RemoteError, match="may only name addresses"):
            open_dataset(f"{memory}/{name}")
    assert everything(open_dataset(f"file://{data}")) == everything(open_dataset(str(data)))


def test_datasets_of_a_list_have_options_of_their_own(memory, tmp_path):
    """Which may hold addresses, and begin where the table lies."""
    Remote.parse(f"{memory}/far/images/0.png").write(encoded(image(0)))
    table = b"image,caption\n0.png,x\n"
    Remote.parse(f"{memory}/far/t.csv").write(table)
    Remote.parse(f"{memory}/list.yaml").write(b"datasets:\n  one: far/t.csv?root=images\n")
    (tmp_path / "t.csv").write_bytes(table)
    (tmp_path / "list.yaml").write_text(
        f"datasets:\n  one: t.csv?root={memory}/far/images\n  two: {memory}/far/t.csv?root=images&caption=caption\n"
    )
    for location, count in ((f"{memory}/list.yaml", 1), (str(tmp_path / "list.yaml"), 2)):
        assert [sample[2] for sample in everything(open_dataset(location))] == [encoded(image(0))] * count


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
    with reader.cached("0"):
        assert [reader.read(entry).image for entry in reader.index("0")] == [files_["png"] for _, files_ in big]
        assert fingerprint(reader) == identity
    assert site.sent() == size
    assert not [*_copies._folder(os.getpid()).glob("*.tar")], "the copy is gone"
    site.asked.clear()
    run(address, tmp_path / "labels")
    assert site.sent() < 1.3 * size, "opening and the fingerprint read headers; labeling each byte once"
    site.asked.clear()
    assert check(address, progress=False).usable == 3
    assert site.sent() < 1.3 * size


def test_the_next_shard_is_fetched_while_one_is_in_its_turn(far, data):
    reader = open_dataset(put(data, f"{far}/data"))
    paths = list(reader.paths.values())

    def copies(*awaited: int) -> list[int]:
        until = time.monotonic() + 30
        while (found := [i for i, path in enumerate(paths) if _copies.copy_of(path)]) != list(awaited):
            assert time.monotonic() < until, f"copies of the shards {found}"
            time.sleep(0.01)
        return found

    with prefetched(reader, reader.shards) as turns:
        for i, shard in enumerate(turns):
            assert shard == reader.shards[i]
            copies(*range(len(paths))[i : i + 2])
    copies()
    with prefetched(reader, reader.shards) as turns:
        next(turns)
    copies()
    paths[1].unlink()
    with prefetched(reader, reader.shards) as turns:
        next(turns)
        with pytest.raises((RemoteError, FileNotFoundError)):
            next(turns)
    copies()


def test_names_on_the_web_are_names_of_files(site, tmp_path):
    """Not addresses, in which some characters mean something else: the picture would be another one's."""
    folder = tmp_path / "with space"
    folder.mkdir()
    names = ["a#1.png", "a?b.png", "50%41.png", "a b.png", "é.png"]
    for i, name in enumerate(["a", "50A.png", "caf.png", *names]):
        (folder / name).write_bytes(encoded(image(i)))
    text = "image,caption\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)) + "caf\udce9.png,5\n"
    (folder / "all.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    reader = open_dataset(f"{site.address}/with%20space/all.csv")
    *sound, odd = reader.index(reader.shards[0])
    assert [reader.read(entry).image for entry in sound] == [encoded(image(i + 3)) for i in range(5)]
    with pytest.raises(SampleError, match="no file can have this name"):
        reader.read(odd)
    write_shard(folder / "of #1.tar", [("0", {"png": encoded(image(1)), "txt": b"x"})])
    site.index = True
    (folder / "all.csv").unlink()
    reader = open_dataset(f"{site.address}/with%20space/?format=webdataset")
    assert len(everything(reader)) == 1
    assert fingerprint(reader) == fingerprint(open_dataset(f"{folder}?format=webdataset"))


def test_the_size_of_a_picture_is_asked_for_once(site, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(image(i)))
    (tmp_path / "all.csv").write_text("image,caption\n" + "".join(f"{i}.png,x\n" for i in range(3)))
    reader, sizes = open_dataset(f"{site.address}/all.csv"), []
    entries = reader.index(reader.shards[0])
    with pytest.MonkeyPatch.context() as patch:
        size = Remote.size
        patch.setattr(Remote, "size", lambda self: (sizes.append(self), size(self))[1])
        assert len([reader.read(entry) for entry in entries]) == 3
    assert len(sizes) == 3


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


# Plain words -----------------------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RemoteError, match=r"pip install 'clipzoo\[gcs\]'"):
        open_dataset("gs://bucket/data")
    result = CliRunner().invoke(app, ["labels", "ls", "gs://bucket/labels"])
    assert isinstance(result.exception, RemoteError)


@pytest.mark.parametrize(
    ("address", "said"),
    [("s4://bucket/x", "s4:// is unknown"), ("s3://", "names no bucket"), ("simplecache::s3://b/x", "unknown")],
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
    with pytest.raises(
        RemoteError, match=rf"cannot be reached, {_remote.TRIES} times.*503.*rerun the command, which resumes"
    ):
        reader.read(reader.index("00000")[0])
    site.faults = [403, 403]
    with pytest.raises(RemoteError, match="access was refused"):
        reader.index("00000")
    site.faults = [404, 404]
    with pytest.raises(DatasetError, match="it does not exist"):
        reader.index("00000")


def test_an_outage_stops_labeling_and_loses_nothing(site, tmp_path):
    """It is no failure of a sample: no row, no truncated shard; the same again goes on."""
    data = make_dataset(tmp_path / "data", shards=6)  # more than are fetched in advance when the outage begins
    at = f"{site.address}/data/{{00000..00005}}.tar"

    class Outage(Bright):
        def predict(self, images):
            site.faults = [503] * 1000 if len(self.calls) == 2 else site.faults
            return super().predict(images)

    with pytest.raises(RemoteError, match="503"):
        run(at, tmp_path / "labels", Outage())
    site.faults = []
    column = Store(tmp_path / "labels").columns()[0]
    assert 1 <= len(column.committed()) < 6
    run(at, tmp_path / "labels", Bright())
    run(data, tmp_path / "undisturbed", Bright())
    assert contents(tmp_path / "labels") == contents(tmp_path / "undisturbed")
    assert column.manifest.counts.failures == 0


def test_an_outage_is_no_failure_of_a_sample(site, tmp_path):
    """Nor where each picture is asked for by itself; one that is missing is."""
    names = [f"{i}.png" for i in range(40)]
    for i, name in enumerate(names[1:]):
        (tmp_path / name).write_bytes(encoded(image(i)))
    (tmp_path / "all.csv").write_text("image,caption\n" + "".join(f"{name},a picture\n" for name in names))

    site.outage = "/30.png"
    with pytest.raises(RemoteError, match="503"):
        run(f"{site.address}/all.csv", tmp_path / "labels", Bright(), max_failures=1)
    site.faults = [0] * 40 + [503] * 1000
    with pytest.raises(RemoteError):
        check(f"{site.address}/all.csv", progress=False)
    site.faults = []
    assert Store(tmp_path / "labels").columns()[0].committed() == set()
    (report,) = run(f"{site.address}/all.csv", tmp_path / "labels", Bright())
    assert (report.labels, report.failures) == (39, 1)
    assert list(report.reasons) == ["cannot-read"]


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
    with pytest.raises(RemoteError, match=r"No space left.*TMPDIR"), reader.cached("00000"):
        raise AssertionError
    assert not [*_copies._folder(os.getpid()).glob("*.tar")]


def test_folders_of_other_users_are_left_alone(tmp_path, monkeypatch):
    """What lies there may be a pipe, which blocks whoever opens it."""
    (tmp_path / "clipzoo-other").mkdir()
    os.mkfifo(tmp_path / "clipzoo-other" / ".held")
    (tmp_path / "clipzoo-dead").mkdir()
    (tmp_path / "clipzoo-dead" / ".held").touch()
    lstat = Path.lstat
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 1 << 20)
    mine = os.stat_result([0, 0, 0, 0, 1 << 20, 0, 0, 0, 0, 0])
    monkeypatch.setattr(Path, "lstat", lambda path: mine if path.name == "clipzoo-dead" else lstat(path))
    looking = threading.Thread(target=_copies._folder, args=(-2,), daemon=True)
    looking.start()
    looking.join(20)
    assert not looking.is_alive()
    assert (tmp_path / "clipzoo-other").exists()
    assert not (tmp_path / "clipzoo-dead").exists()


def test_a_file_that_shrinks_while_it_is_fetched_is_not_taken(memory, monkeypatch):
    where = Remote.parse(f"{memory}/x.bin")
    where.write(bytes(100))
    monkeypatch.setattr(Remote, "size", lambda self: 200)
    with pytest.raises(RemoteError, match="200 bytes and gave 100"), files.cached(where):
        raise AssertionError
    assert np.all(np.frombuffer(where.read_bytes(), np.uint8) == 0)
