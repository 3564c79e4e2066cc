"""Shards as they are found: sound, partial, cut, crafted."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from clipzoo.errors import DatasetError, SampleError
from clipzoo.readers import fingerprint, open_dataset, read_at
from clipzoo.readers.webdataset import write_shard
from making import encoded, image, make_dataset, raw_tar, samples

PNG = encoded(image(0))


def index(path: Path):
    return open_dataset(str(path)).index(path.stem)


def errors(path: Path) -> dict[str, str | None]:
    return {entry.key: entry.error for entry in index(path)}


def only_error(path: Path) -> str:
    (error,) = [error for error in errors(path).values() if error]
    return error


# Where shards are ------------------------------------------------------------------------------------------


def test_shards_are_listed_and_gaps_do_not_matter(tmp_path):
    for name in ("00007", "00000", "00002"):
        write_shard(tmp_path / f"{name}.tar", samples(1))
        (tmp_path / f"{name}.parquet").write_bytes(b"ignored")
        (tmp_path / f"{name}_stats.json").write_text("{}")
    assert open_dataset(str(tmp_path)).shards == ("00000", "00002", "00007")


@pytest.mark.parametrize("key", ["/a", "../a", "./a", "a/../b", "a\\b", "a\ufffd", "a.b", "", "k"])
def test_a_key_that_cannot_be_read_is_not_written(tmp_path, key):
    with pytest.raises(DatasetError, match=r"is repeated, is empty or has a dot|is not the path of a file"):
        write_shard(tmp_path / "a.tar", [("k", {"txt": b"x"}), (key, {"txt": b"x"})])
    assert not (tmp_path / "a.tar").exists()


def test_nested_and_linked_folders_give_unique_names(tmp_path):
    make_dataset(tmp_path / "data/train")
    make_dataset(tmp_path / "elsewhere")
    (tmp_path / "data/val").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/val/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/train/._00000.tar").write_bytes(b"hidden")
    assert open_dataset(str(tmp_path / "data")).shards == (
        "train/00000", "train/00001", "val/00000", "val/00001",
    )  # fmt: skip


def test_single_file_glob_and_braces(tmp_path):
    make_dataset(tmp_path, shards=4)
    assert open_dataset(str(tmp_path / "00001.tar")).shards == ("00001",)
    assert open_dataset(str(tmp_path / "0000[12].tar")).shards == ("00001", "00002")
    assert open_dataset(str(tmp_path / "{00000..00009}.tar")).shards == ("00000", "00001", "00002", "00003")
    assert open_dataset(f"{tmp_path.parent}/{{{tmp_path.name},none}}/*3.tar").shards == (f"{tmp_path.name}/00003",)


def test_the_same_data_has_one_fingerprint_wherever_it_lies(tmp_path):
    a, b = (fingerprint(open_dataset(str(make_dataset(tmp_path / name)))) for name in "ab")
    assert a == b
    assert a["sha256"] != fingerprint(open_dataset(str(make_dataset(tmp_path / "c", count=5))))["sha256"]
    assert a["sha256"] != fingerprint(open_dataset(str(make_dataset(tmp_path / "d", shards=3))))["sha256"]


def test_pictures_encoded_anew_under_the_same_keys_are_another_dataset(tmp_path):
    for name, quality in (("a", 60), ("b", 90)):
        write_shard(
            tmp_path / name / "0.tar", [("k", {"jpg": encoded(image(3), "JPEG", quality=quality), "txt": b"x"})]
        )
    a, b = (fingerprint(open_dataset(str(tmp_path / name))) for name in "ab")
    assert a["sha256"] != b["sha256"]


@pytest.mark.parametrize("location", ["missing", "empty", "missing/*.tar", "memory://nothing/data"])
def test_nothing_there_is_an_error_that_says_what_to_give(tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"check the path|give a folder"):
        open_dataset(location)


@pytest.mark.parametrize("name", ["00001.tar", "00001.tar.gz", "00001.tgz"])
def test_compressed_shards_are_refused_with_the_fix(tmp_path, name):
    make_dataset(tmp_path, shards=1)
    plain = write_shard(tmp_path / "other", samples(1)) and (tmp_path / "other").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(plain))
    with pytest.raises(DatasetError, match="gunzip"):
        open_dataset(str(tmp_path)).index("00001")
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(DatasetError, match="gunzip"):
        open_dataset(str(tmp_path))


def test_a_compressed_shard_beside_its_unpacked_twin_is_no_fault(tmp_path):
    make_dataset(tmp_path, shards=1)
    (tmp_path / "00000.tar.gz").write_bytes(gzip.compress((tmp_path / "00000.tar").read_bytes()))
    assert open_dataset(str(tmp_path)).shards == ("00000",)


# Sound samples ---------------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    reader = open_dataset(str(make_dataset(tmp_path)))
    entries = reader.index("00001")
    assert [entry.key for entry in entries] == [f"{i:06d}" for i in range(6, 12)]
    sample = reader.read(entries[2])
    assert sample.key == "000008"
    assert sample.shard == "00001"
    assert sample.caption == "picture 8"
    assert sample.image == encoded(image(8))


def test_key_ends_at_the_first_dot_of_the_last_part_and_extensions_ignore_case(tmp_path):
    path = raw_tar(tmp_path / "a.tar", [("./x.y/b.seg.PNG", b"s"), ("./x.y/b.JPG", PNG), ("./x.y/b.txt", b"c")])
    (entry,) = index(path)
    assert entry.key == "x.y/b"
    assert entry.image == "jpg"
    assert set(entry.members) == {"seg.png", "jpg", "txt"}


@pytest.mark.parametrize("field", ["caption", "text"])
def test_caption_from_json(tmp_path, field):
    path = raw_tar(tmp_path / "a.tar", [("a.png", PNG), ("a.json", json.dumps({field: " naïve "}).encode())])
    reader = open_dataset(str(path))
    assert reader.read(reader.index("a")[0]).caption == "naïve"


def test_members_that_are_no_samples_are_left_out(tmp_path):
    folder = tarfile.TarInfo("sub")
    folder.type = tarfile.DIRTYPE
    path = raw_tar(tmp_path / "a.tar", [("README", b"hi"), ("._a.png", b"x"), ("sub", folder), *_pair("sub/a")])
    assert errors(path) == {"sub/a": None}


def test_long_and_foreign_names(tmp_path):
    key = "ü" * 60 + "/" + "k" * 120
    write_shard(tmp_path / "a.tar", [(key, {"png": PNG, "txt": b"c"})])
    reader = open_dataset(str(tmp_path))
    (entry,) = reader.index("a")
    assert entry.key == key
    assert reader.read(entry).image == PNG


def test_writing_is_deterministic_and_refuses_bad_keys(tmp_path):
    for name in "ab":
        write_shard(tmp_path / f"{name}.tar", samples(3))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    for keys in (["x", "x"], ["x.y"], [""]):
        with pytest.raises(DatasetError, match="key"):
            write_shard(tmp_path / "c.tar", [(key, {"txt": b"c"}) for key in keys])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b.tar"]


# Hostile samples -------------------------------------------------------------------------------------------


def _pair(key: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", PNG), (f"{key}.txt", b"words")]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("b.txt", b"words")], "no image"),
        ([("b.png", PNG)], "no caption"),
        ([("b.png", b""), ("b.txt", b"words")], "image (png) is empty"),
        ([("b.png", PNG), ("b.txt", b"")], "caption (txt) is empty"),
        ([("../b.png", PNG), ("../b.txt", b"words")], "outside the shard"),
        ([("/etc/b.png", PNG), ("/etc/b.txt", b"words")], "outside the shard"),
        ([("..\\b.png", PNG), ("..\\b.txt", b"words")][:1], "outside the shard"),
    ],
)
def test_an_unusable_sample_is_an_entry_with_its_reason(tmp_path, members, reason):
    path = raw_tar(tmp_path / "a.tar", [*_pair("a"), *members, *_pair("c")])
    found = errors(path)
    assert found["a"] is None
    assert found["c"] is None
    assert len(found) == 3
    assert reason in only_error(path)


def test_members_beside_image_and_caption_are_not_read(tmp_path, monkeypatch):
    """However large they are."""
    monkeypatch.setattr("clipzoo.readers.webdataset.reader.IMAGE_BYTES", 2000)
    film, large = ("a.mp4", bytes(10_000)), encoded(image(1, (40, 40)))
    path = raw_tar(tmp_path / "a.tar", [_pair("a")[0], film, _pair("a")[1], ("b.png", large), ("b.txt", b"words")])
    reader = open_dataset(str(path))
    sound, refused = reader.index("a")
    assert refused.error == f"the image (png) is too large: {len(large)} bytes, more than 2000"
    spans = []
    monkeypatch.setattr("clipzoo.files.read_spans", lambda path, asked: spans.extend(asked) or [PNG, b"words"])
    assert reader.read(sound).caption == "words"
    assert sum(size for _, size in spans) < 2000


def test_a_shard_whose_name_is_no_text_is_named(tmp_path):
    make_dataset(tmp_path, shards=1)
    (tmp_path / "00000.tar").rename(tmp_path / "caf\udce9.tar")
    with pytest.raises(DatasetError, match=r"is not UTF-8.*rename it"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_never_followed(tmp_path, kind):
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = kind, "/etc/passwd"
    path = raw_tar(tmp_path / "a.tar", [*_pair("a"), ("b.png", link), ("b.txt", b"words"), *_pair("c")])
    assert "only regular files" in only_error(path)
    assert len(errors(path)) == 3
    reader = open_dataset(str(path))
    with pytest.raises(SampleError, match="only regular files"):
        reader.read(reader.index("a")[1])


def test_a_key_that_comes_again_is_a_row_of_its_own(tmp_path):
    path = raw_tar(tmp_path / "a.tar", [*_pair("a"), *_pair("a"), *_pair("b"), *_pair("a")])
    found = errors(path)
    assert list(found) == ["a", "a#2", "b", "a#3"]
    assert found["a"] is None
    assert "'a' is in the shard 2 times" in (found["a#2"] or "")


def test_names_that_are_no_utf8_are_rows(tmp_path):
    path = raw_tar(tmp_path / "a.tar", [("b\udcff.png", PNG), ("b\udcff.txt", b"words")])
    assert "not UTF-8" in only_error(path)


def test_every_cut_keeps_the_samples_before_it(tmp_path):
    whole = tmp_path / "whole.tar"
    write_shard(whole, samples(3))
    data, ends = whole.read_bytes(), [sum(e.members["txt"]) for e in index(whole)]
    for cut in range(0, len(data) - 10_240, 256):
        path = tmp_path / "cut.tar"
        path.write_bytes(data[:cut])
        found = list(errors(path).values())
        assert found.count(None) == sum(end <= cut for end in ends), cut
        assert "truncated" in (found[-1] or ""), cut


def test_garbage_in_the_middle_is_said(tmp_path):
    path = tmp_path / "a.tar"
    write_shard(path, samples(3))
    data = bytearray(path.read_bytes())
    start = index(path)[1].members["png"][0] - 512
    data[start : start + 512] = os.urandom(512)
    path.write_bytes(data)
    found = list(errors(path).items())
    assert found[0] == ("000000", None)
    assert len(found) == 2
    assert "truncated or damaged" in (found[1][1] or "")


def test_a_negative_size_does_not_loop(tmp_path):
    evil = tarfile.TarInfo("b.png")
    evil.size = -1024
    path = tmp_path / "a.tar"
    path.write_bytes(evil.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "truncated or damaged" in only_error(path)


def test_no_tar_at_all_is_a_row(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"this is no tar " * 100)
    (tmp_path / "b.tar").write_bytes(b"")
    assert "truncated or damaged" in only_error(tmp_path / "a.tar")
    assert "truncated or damaged" in only_error(tmp_path / "b.tar")


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (("txt", b" \n\t"), "white space"),
        (("txt", b"\xff\xfe\x00x"), "not UTF-8"),
        (("json", b"{}"), "no caption"),
        (("json", b"[1]"), "no caption"),
        (("json", b'{"caption": null}'), "no caption"),
        (("json", b"{"), "cannot be parsed"),
        (("json", b"[" * 100_000), "cannot be parsed"),
    ],
)
def test_a_caption_that_is_none_shows_when_read(tmp_path, caption, reason):
    path = raw_tar(tmp_path / "a.tar", [("a.png", PNG), (f"a.{caption[0]}", caption[1])])
    reader = open_dataset(str(path))
    with pytest.raises(SampleError, match=reason):
        reader.read(reader.index("a")[0])


# Reading ---------------------------------------------------------------------------------------------------


def test_a_replaced_file_is_read_anew(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    assert read_at(path, 0, 3) == b"old"
    (tmp_path / "y").write_bytes(b"new")
    (tmp_path / "y").rename(path)
    assert read_at(path, 0, 3) == b"new"


def test_a_shard_that_shrank_is_an_error(tmp_path):
    reader = open_dataset(str(make_dataset(tmp_path)))
    entry = reader.index("00000")[5]
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(SampleError, match="changed since it was indexed"):
        reader.read(entry)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_reader_can_be_pickled_and_forked(tmp_path):
    reader = open_dataset(str(make_dataset(tmp_path)))
    entry = reader.index("00000")[1]
    expected = reader.read(entry)
    assert pickle.loads(pickle.dumps(reader)).read(entry) == expected
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.read(entry) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_unknown_shard_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no shard 'nine'"):
        open_dataset(str(make_dataset(tmp_path))).index("nine")
