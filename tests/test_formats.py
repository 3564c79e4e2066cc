"""Every dataset format: what is read, what is refused, and that plans, labels and batches work on all alike."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from clipzoo import plugins
from clipzoo.data import Plan, TrainingSet, Viewing, loader
from clipzoo.errors import ClipzooError, DatasetError, SampleError
from clipzoo.labeling import label
from clipzoo.readers import Reader, fingerprint, open_dataset, parquet
from clipzoo.readers import _rows as rows_module
from clipzoo.readers import folder as folder_module
from clipzoo.readers import imagefolder as imagefolder_module
from clipzoo.readers import table as table_module
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store, verify
from making import Bright, encoded, image, make_dataset

COUNT = 7
PICTURES = [encoded(image(i)) for i in range(COUNT)]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def photos(folder: Path) -> Path:
    """Numbered images in two folders, with captions beside them."""
    for i, data in enumerate(PICTURES):
        place = folder / ("even" if i % 2 == 0 else "odd/deep")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(data)
        (place / f"{i}.txt").write_text(f"picture {i}")
    return folder


def names() -> list[str]:
    return [f"even/{i}.png" if i % 2 == 0 else f"odd/deep/{i}.png" for i in range(COUNT)]


def write_csv(path: Path, rows: list[list[str]], separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


def csv_dataset(folder: Path) -> str:
    photos(folder)
    rows = [["file_name", "text"], *([name, f"picture {i}"] for i, name in enumerate(names()))]
    return str(write_csv(folder / "all.csv", rows))


def parquet_of_names(folder: Path) -> str:
    photos(folder)
    table = {"path": names(), "caption": [f"picture {i}" for i in range(COUNT)]}
    pq.write_table(pa.table(table), folder / "all.parquet", row_group_size=3)
    return str(folder / "all.parquet")


def hub_parquet(folder: Path) -> str:
    (folder / "data.parquet").mkdir(parents=True)  # Spark calls folders so
    pictures = pa.array([{"bytes": data, "path": None} for data in PICTURES], IMAGE)
    table = pa.table({"image": pictures, "caption": [f"picture {i}" for i in range(COUNT)]})
    pq.write_table(table.slice(0, 4), folder / "data.parquet/train-00000-of-00002.parquet", row_group_size=3)
    pq.write_table(table.slice(4), folder / "data.parquet/train-00001-of-00002.parquet")
    return str(folder)


def saved_to_disk(folder: Path) -> str:
    """The files that `datasets` 4 writes, in its streaming Arrow format."""
    folder.mkdir(parents=True)
    pictures = pa.array([{"bytes": data, "path": None} for data in PICTURES], IMAGE)
    table = pa.table({"image": pictures, "caption": [f"picture {i}" for i in range(COUNT)]})
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def joined(folder: Path) -> str:
    folder.mkdir(parents=True)
    make_dataset(folder / "shards", shards=1, count=3)
    photos(folder / "photos")
    (folder / "all.yaml").write_text(yaml.safe_dump({"datasets": {"web": "shards", "photos": "photos"}}))
    return str(folder / "all.yaml")


FORMATS: dict[str, Callable[[Path], str]] = {
    "folder": lambda folder: str(photos(folder)),
    "csv": csv_dataset,
    "parquet_of_names": parquet_of_names,
    "hub_parquet": hub_parquet,
    "saved_to_disk": saved_to_disk,
    "joined": joined,
    "webdataset": lambda folder: str(make_dataset(folder, shards=1, count=COUNT)),
}


@pytest.fixture(params=FORMATS)
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One dataset of every format, cut into small shards."""
    for module in (rows_module, folder_module, table_module, imagefolder_module):
        monkeypatch.setattr(module, "ROWS", 3)
    return FORMATS[request.param](tmp_path / "data")


def entries(reader: Reader) -> list:
    return [entry for shard in reader.shards for entry in reader.index(shard)]


def errors(where: str) -> dict[str, str]:
    """Key -> why it cannot be used, found at the index or at reading."""
    reader, found = open_dataset(where), {}
    for entry in entries(reader):
        try:
            reader.read(entry)
        except SampleError as error:
            found[entry.key] = str(error)
    return found


# Alike in all formats --------------------------------------------------------------------------------------


def test_every_sample_is_read_once_in_shards_of_bounded_size(location: str) -> None:
    reader = open_dataset(location)
    found = entries(reader)
    samples = [reader.read(entry) for entry in found]
    pictures = {sample.caption: sample.image for sample in samples}
    assert {f"picture {i}": data for i, data in enumerate(PICTURES)} == pictures
    assert len({(entry.shard, entry.key) for entry in found}) == len(found)
    assert all(
        sample.key == entry.key and sample.shard == entry.shard for sample, entry in zip(samples, found, strict=True)
    )
    assert entries(open_dataset(location)) == found
    assert list(reader.shards) == sorted(reader.shards)
    if "shards" not in location and not list(Path(location).glob("*.tar")):
        assert max(len(reader.index(shard)) for shard in reader.shards) <= 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_reader_is_pickled_and_forked(location: str) -> None:
    reader = open_dataset(location)
    entry = entries(reader)[-1]
    expected = reader.read(entry)
    assert pickle.loads(pickle.dumps(reader)).read(entry) == expected
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.read(entry) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_labels_and_batches_are_those_of_the_pictures(location: str, tmp_path: Path) -> None:
    (report,) = label(location, [Bright()], tmp_path / "labels", device="cpu", progress=False)
    reader = open_dataset(location)
    assert report.labels == len(entries(reader))
    store = Store(tmp_path / "labels")
    assert verify(store, reader) == []
    (column,) = store.columns()
    plan = Plan.build(reader, {column.name: column})
    plan.save(tmp_path / "plan.parquet")
    plan = Plan.load(tmp_path / "plan.parquet")
    assert plan.coverage() == {column.name: 1.0}
    data = TrainingSet(plan, reader, {}, Viewing((12, 16), scale=(1, 1), ratio=(4 / 3, 4 / 3), flip=0))
    for workers in (0, 2):
        (batch,) = loader(data, len(plan), lambda texts: torch.zeros(len(texts), 4), workers=workers)
        for picture, caption in zip(batch.images, batch.captions, strict=True):
            assert (picture.numpy() == image(int(caption.split()[1]))).all()


def test_a_dataset_with_other_pictures_has_another_fingerprint(location: str, tmp_path: Path) -> None:
    assert fingerprint(open_dataset(location)) == fingerprint(open_dataset(location))


# Tables ----------------------------------------------------------------------------------------------------


def table(tmp_path: Path, text: str | bytes, name: str = "t.csv") -> str:
    photos(tmp_path)
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(tmp_path / name)


def captions(where: str) -> list[str]:
    reader = open_dataset(where)
    return [reader.read(entry).caption for entry in entries(reader) if entry.error is None]


def test_columns_are_recognized_or_chosen(tmp_path: Path) -> None:
    where = table(tmp_path, "Path;title;alt;key\neven/0.png;;b;k0\nodd/deep/1.png;c;d;k1\n")
    assert captions(f"{where}?sep=semicolon&caption=title,alt") == ["b", "c"]
    reader = open_dataset(f"{where}?sep=;&caption=title,alt")
    assert [reader.read(entry).others for entry in entries(reader)] == [(), ()]
    reader = open_dataset(f"{where}?sep=;&caption=title|alt")
    assert [entry.key for entry in entries(reader)] == ["k0", "k1"]
    sample = reader.read(entries(reader)[1])
    assert (sample.caption, sample.others) == ("c", ("d",))
    assert [entry.key for entry in entries(open_dataset(f"{where}?sep=;&key="))] == ["00000000", "00000001"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?imgae=x", "did you mean image"),
        ("?image=x", "no column 'x' for image=; its columns are file_name, text"),
        ("?caption=title", "no caption column named 'title'"),
        ("?sep=ab", "no separator"),
        ("?outside=perhaps", "neither yes nor no"),
        ("?caption=a,b|c", "neither a,b"),
        ("?format=tabel", "did you mean table"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(ClipzooError, match=message.replace("|", r"\|")):
        open_dataset(csv_dataset(tmp_path) + options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no header"),
        ("a b c\n", "no header"),
        ("url,caption\nhttp://x,c\n", "img2dataset"),
        ("file,width\nx,3\n", "no caption column"),
        ("\ufefffile,caption\n".encode("utf-16"), "UTF-16"),
        (b"\x00" * 3_000_000, "no header"),
    ],
)
def test_a_table_without_what_is_needed_says_so(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(table(tmp_path, text))


def test_broken_rows_are_entries_and_no_other_row_is_lost(tmp_path: Path) -> None:
    rows = [
        b"\xef\xbb\xbffile,caption",
        b"even/0.png,sound",
        b"even/2.png",  # a field is missing
        b"even/2.png,one,too many",
        b'even/2.png,"several\nlines, one caption"',
        b'even/4.png,"a quote that is not closed',
        b"even/6.png,sound too",
        b'even/6.png,"He said" hi',
        b"",
        b"even/6.png,\xff\xfe",
        b"even/6.png,   ",
        b",no image",
        b"even/99.png,not there",
        b"even/6.png," + b"x" * 2_000_000,
        b"even/0.png,after the long line",
    ]
    where = table(tmp_path, b"\n".join(rows))
    assert len(entries(open_dataset(where))) == 13
    found = errors(where)
    reasons = (
        "has 1 fields, the header 2", "has 3 fields", "quote is not closed", "not UTF-8", "no caption",
        "image is empty", "No such file", "longer than",
    )  # fmt: skip
    assert len(found) == len(reasons)
    for reason, seen in zip(reasons, found.values(), strict=True):
        assert reason in seen
    reader = open_dataset(where)
    sound = [reader.read(entry).caption for entry in entries(reader) if entry.key not in found]
    assert sound == ["sound", "several\nlines, one caption", "sound too", "He said hi", "after the long line"]


def test_a_quote_that_is_closed_by_another_row_swallows_none(tmp_path: Path) -> None:
    where = table(tmp_path, 'file,caption\neven/0.png,"one\neven/2.png,some "quoted" text\neven/4.png,three\n')
    assert len(entries(open_dataset(where))) == 3
    assert len(errors(where)) == 1


@pytest.mark.parametrize("name", ["../../out.png", "../out.png", "even/link.png", "odd/link/out.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    where = table(tmp_path / "in", f"file,caption\n{name},c\n")
    for folder in (tmp_path, tmp_path.parent):
        (folder / "out.png").write_bytes(PICTURES[0])
    (tmp_path / "in/even/link.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "in/odd/link").symlink_to(tmp_path)
    assert "outside=yes" in errors(where)["00000000"]
    assert errors(f"{where}?outside=yes") == {}


def test_absolute_names_are_refused(tmp_path: Path) -> None:
    where = table(tmp_path / "in", f"file,caption\n{tmp_path}/in/even/0.png,c\n/etc/passwd,d\n")
    assert ["outside=yes" in reason for reason in errors(where).values()] == [True, True]
    assert captions(f"{where}?outside=yes") == ["c", "d"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    where = table(tmp_path, "file,caption\neven,c\npipe.png,d\n")
    os.mkfifo(tmp_path / "pipe.png")
    assert ["only regular files" in reason for reason in errors(where).values()] == [True, True]


def test_a_root_is_where_names_begin(tmp_path: Path) -> None:
    where = table(tmp_path, "file,caption\n0.png,zero\n")
    assert captions(f"{where}?root=even") == ["zero"]
    assert "No such file" in errors(where)["00000000"]


def test_keys_of_a_table_must_differ(tmp_path: Path) -> None:
    where = table(tmp_path, "key,file,caption\nk,even/0.png,a\nk,even/2.png,b\n")
    assert [entry.key for entry in entries(open_dataset(where))] == ["k", "k#2"]
    assert "?key=" in errors(where)["k#2"]


def test_a_table_of_other_pictures_is_another_dataset(tmp_path: Path) -> None:
    first, second = (table(tmp_path / n, f"file,caption\neven/{n}.png,c\n") for n in "02")
    assert fingerprint(open_dataset(first)) != fingerprint(open_dataset(second))


def test_a_changed_table_is_an_error(tmp_path: Path) -> None:
    where = table(tmp_path, "file,caption\neven/0.png,zero\neven/2.png,two\n")
    reader = open_dataset(where)
    entry = entries(reader)[1]
    Path(where).write_text("file,caption\neven/0.png,zero and more\neven/2.png,two\n")
    with pytest.raises(SampleError, match="changed since it was indexed"):
        reader.read(entry)


# Parquet and Arrow -----------------------------------------------------------------------------------------


def test_a_list_of_captions_is_drawn_from(tmp_path: Path) -> None:
    rows = {"image": PICTURES[:2], "captions": [["a", " ", "b"], []]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    reader = open_dataset(str(tmp_path / "x.parquet"))
    first, second = entries(reader)
    assert (reader.read(first).caption, reader.read(first).others) == ("a", ("b",))
    with pytest.raises(SampleError, match="no caption"):
        reader.read(second)
    plan = Plan.build(reader, {})
    data = TrainingSet(plan, reader, {}, Viewing((12, 16)))
    drawn = [data[epoch, 0].caption for epoch in range(20)]
    assert set(drawn) == {"a", "b"}
    assert drawn == [data[epoch, 0].caption for epoch in range(20)]


def test_null_images_and_addresses_are_rows(tmp_path: Path) -> None:
    rows = {"image": [None, "", "http://host/x.jpg"], "caption": ["a", "b", "c"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    assert ["is empty" in e or "img2dataset" in e for e in errors(str(tmp_path / "x.parquet")).values()] == [True] * 3


def test_a_damaged_parquet_file_is_a_row_and_the_others_are_read(tmp_path: Path) -> None:
    hub_parquet(tmp_path)
    path = tmp_path / "data.parquet/train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert list(errors(str(tmp_path))) == ["train-00000-of-00002#damaged"]
    assert len(entries(open_dataset(str(tmp_path)))) == 4
    with pytest.raises(DatasetError, match="cannot be read"):
        open_dataset(str(path))


def test_a_damaged_row_group_is_rows_with_a_reason(tmp_path: Path) -> None:
    hub_parquet(tmp_path)
    path = tmp_path / "data.parquet/train-00000-of-00002.parquet"
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    assert len(errors(str(tmp_path))) == 3


def test_row_groups_too_large_for_memory_are_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipzoo.readers.parquet.GROUP_BYTES", 1000)
    with pytest.raises(DatasetError, match="row_group_size=100"):
        open_dataset(hub_parquet(tmp_path))


def test_kept_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "CACHE_BYTES", 3000)
    reader = open_dataset(hub_parquet(tmp_path))
    for entry in [*entries(reader), *entries(reader)[::-1]]:
        reader.read(entry)
        assert len(parquet._cache._kept) <= 2


def test_a_value_that_is_in_a_group_once_is_in_memory_once(tmp_path: Path) -> None:
    """Its size in the metadata is that of one."""
    placeholder = encoded(image(0, (80, 80)))
    pictures = pa.array([{"bytes": placeholder, "path": None}] * 4000, IMAGE)
    pq.write_table(pa.table({"image": pictures, "caption": ["a", "b"] * 2000}), tmp_path / "t.parquet")
    parquet._cache.forget()
    reader = open_dataset(str(tmp_path / "t.parquet"))
    sample = reader.read(reader.index("t/00000")[3999])
    assert (sample.image, sample.caption) == (placeholder, "b")
    assert sum(table.nbytes for table in parquet._cache._kept.values()) < 10 * len(placeholder)


@pytest.mark.parametrize("cut", [1, 8, 9, 400, 2000, 10**6])
def test_a_cut_arrow_file_keeps_what_is_before(tmp_path: Path, cut: int) -> None:
    where = saved_to_disk(tmp_path / "saved")
    path = tmp_path / "saved/data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-cut])
    if path.stat().st_size == 0:
        with pytest.raises(DatasetError, match=r"no file of .* can be read"):
            open_dataset(where)
        return
    (key,) = errors(where)
    assert key == "data-00000-of-00001#damaged"


def test_splits_of_a_saved_dict(tmp_path: Path) -> None:
    for split in ("train", "test"):
        saved_to_disk(tmp_path / split)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    shards = open_dataset(str(tmp_path)).shards
    assert shards == ("test/data-00000-of-00001.arrow/00000", "train/data-00000-of-00001.arrow/00000")
    assert len(open_dataset(f"{tmp_path}?split=test").shards) == 1
    with pytest.raises(DatasetError, match="there are: train, test"):
        open_dataset(f"{tmp_path}?split=val")


# Folders ---------------------------------------------------------------------------------------------------


def test_splits_that_lie_elsewhere_and_folders_without_files(tmp_path: Path) -> None:
    saved_to_disk(tmp_path / "outside")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset_dict.json").write_text(json.dumps({"splits": ["../outside"]}))
    with pytest.raises(DatasetError, match=r"names '\.\./outside', not a folder next to it"):
        open_dataset(str(tmp_path / "data"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/state.json").write_text('{"epoch": 3}')
    with pytest.raises(DatasetError, match=r"state\.json names no files"):
        open_dataset(str(tmp_path / "foreign"))


def test_a_folder_says_what_it_cannot_use(tmp_path: Path) -> None:
    photos(tmp_path / "in")
    root = tmp_path / "in/even"
    for name in ("twice.jpg", "twice.png", "mute.jpg", "blank.jpg", "empty.JPG"):
        (root / name).write_bytes(b"" if name == "empty.JPG" else PICTURES[0])
    for name in ("twice.txt", "lone.txt", "blank.txt", "empty.txt"):
        (root / name).write_text(" " if name == "blank.txt" else "words")
    (root / "away.png").symlink_to("/etc/hostname")
    (root / "away.txt").write_text("words")
    (root / ".hidden.jpg").write_bytes(b"x")
    (root / os.fsdecode(b"b\xff.jpg")).write_bytes(PICTURES[0])
    found = errors(str(tmp_path / "in"))
    reasons = {
        "even/away": "outside=yes", "even/blank": "white space", "even/b\ufffd": "not UTF-8", "even/empty": "is empty",
        "even/lone": "no image", "even/mute": "no caption", "even/twice": "several images",
    }  # fmt: skip
    assert found.keys() == reasons.keys()
    assert all(reason in found[key] for key, reason in reasons.items())
    assert len(entries(open_dataset(str(tmp_path / "in")))) == COUNT + len(reasons)


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    reader = open_dataset(str(photos(tmp_path / "in")))
    (tmp_path / "in").rename(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"cannot list .* still there"):
        entries(reader)


def test_captions_from_json_beside_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.JPeG").write_bytes(PICTURES[0])
    (tmp_path / "a.json").write_text('{"title": "t", "alt": "a", "caption": "c"}')
    assert captions(str(tmp_path)) == ["c"]
    assert captions(f"{tmp_path}?caption=none,alt") == ["a"]


# Which format ----------------------------------------------------------------------------------------------


def test_an_ambiguous_place_is_an_error_that_names_the_ways(tmp_path: Path) -> None:
    csv_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"\?format=folder' or '.*\?format=table'"):
        open_dataset(str(tmp_path))
    assert len(open_dataset(f"{tmp_path}?format=folder").shards) == 1
    assert open_dataset(f"{tmp_path}?format=table").shards == ("all.csv/00000",)
    make_dataset(tmp_path)
    with pytest.raises(DatasetError, match="folder, webdataset"):
        open_dataset(str(tmp_path))


def test_tables_beside_tars_are_notes(tmp_path: Path) -> None:
    make_dataset(tmp_path, shards=1)
    pq.write_table(pa.table({"url": ["x"], "caption": ["c"]}), tmp_path / "00000.parquet")
    assert open_dataset(str(tmp_path)).shards == ("00000",)


def test_missing_shards_of_a_brace_range_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_dataset(tmp_path, shards=3)
    open_dataset(f"{tmp_path}/{{00001..00004}}.tar")
    assert "2 of the 4 files" in caplog.text
    assert "00003.tar, 00004.tar" in caplog.text
    caplog.clear()
    open_dataset(f"{tmp_path}/{{00000..00002}}.tar")
    assert caplog.text == ""


def test_a_question_mark_may_be_a_wildcard_or_part_of_a_name(tmp_path: Path) -> None:
    make_dataset(tmp_path / "odd?name=x", shards=3)
    assert len(open_dataset(str(tmp_path / "odd?name=x")).shards) == 3
    assert len(open_dataset(str(tmp_path / "odd*" / "0000?.tar")).shards) == 3


@pytest.mark.parametrize("form", ["folder", "tars"])
def test_fields_that_are_asked_for_are_those_of_the_json(tmp_path: Path, form: str) -> None:
    """Also where they are the usual ones."""
    members = {"png": PICTURES[0], "txt": b"of the txt", "json": b'{"caption": "one", "text": "two"}'}
    if form == "tars":
        write_shard(tmp_path / "0.tar", [("0", members)])
    else:
        for ext, data in members.items():
            (tmp_path / f"0.{ext}").write_bytes(data)
    for options, told in (("", ("of the txt",)), ("?caption=caption|text", ("one", "two"))):
        reader = open_dataset(f"{tmp_path}{options}")
        sample = reader.read(entries(reader)[0])
        assert (sample.caption, *sample.others) == told


def test_captions_of_a_shard_from_fields_of_its_json(tmp_path: Path) -> None:
    from clipzoo.readers.webdataset import write_shard

    note = json.dumps({"title": "", "alt": "a", "caption": "c"}).encode()
    write_shard(tmp_path / "0.tar", [("k", {"png": PICTURES[0], "txt": b"plain", "json": note})])
    assert captions(str(tmp_path)) == ["plain"]
    assert captions(f"{tmp_path}?caption=title,alt") == ["a"]
    reader = open_dataset(f"{tmp_path}?caption=caption|alt")
    assert reader.read(entries(reader)[0]).others == ("a",)


@pytest.mark.parametrize(
    "text",
    ["datasets: {}", "[1]", "name: x", "datasets: {a/b: x}", "datasets: {a: {b: c}}", "datasets: {a: self.yaml}", "{"],
)
def test_a_list_of_datasets_that_is_none_says_what_to_write(tmp_path: Path, text: str) -> None:
    (tmp_path / "self.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"self\.yaml"):
        open_dataset(str(tmp_path / "self.yaml"))


# The documentation -----------------------------------------------------------------------------------------


def test_the_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, {})
    assert capsys.readouterr().out.splitlines() == [
        "photos 4 cat number 0", "photos.tsv?root=photos&caption=title|alt 4 cat 0", "cats.parquet 4 cat 0",
        "both.yaml 8 cat number 0", "4",
    ]  # fmt: skip
    assert [sample_of("cats-small.parquet", 3), sample_of("tars", 3)] == ["cat 3", "cat number 3"]


def sample_of(where: str, number: int) -> str:
    reader = open_dataset(where)
    return reader.read(entries(reader)[number]).caption


def test_every_option_and_known_column_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    for option in (*rows_module.OPTIONS, "format", "sep", "split"):
        assert f"| `{option}=" in text
    for column in (*rows_module.IMAGE[:10], *rows_module.CAPTION, *rows_module.KEY):
        assert f"`{column}`" in text
    for name in plugins.names("readers"):
        assert f"| `{name}` |" in text
