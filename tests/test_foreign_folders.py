"""Folders and tables as Hugging Face's imagefolder and img2dataset write them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipzoo.errors import DatasetError
from clipzoo.labeling import label
from clipzoo.pages.check import check, rows
from clipzoo.readers import Reader, fingerprint, folder, open_dataset, shard_fingerprint
from clipzoo.types import decode_image
from making import Bright, encoded, image

PICTURES = [encoded(image(i)) for i in range(4)]


def samples(reader: Reader) -> list[tuple[str, bytes, str]]:
    found = [reader.read(entry) for shard in reader.shards for entry in reader.index(shard)]
    return [(sample.key, sample.image, sample.caption) for sample in found]


def told(location: str) -> dict[str, tuple[str, str]]:
    return {what: (count, words) for what, count, words in rows(check(location, progress=False))}


# Hugging Face's imagefolder --------------------------------------------------------------------------------


def write_rows(path: Path, names: list[str]) -> None:
    """A caption for each, the first of which has a comma, a quote and a line break."""
    texts = ['a "quoted", long\ncaption', *(f"caption {i}" for i in range(1, len(names)))]
    if path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({"file_name": n, "text": t}) + "\n" for n, t in zip(names, texts, strict=True))
        )
        return
    lines = [f'{n},"{t.replace(chr(34), 2 * chr(34))}"' for n, t in zip(names, texts, strict=True)]
    path.write_text("\n".join(["file_name,text", *lines]) + "\n")


def imagefolder(folder: Path, kind: str) -> Path:
    """A split at the top, and one whose table names a folder of pictures below it."""
    (folder / "train").mkdir(parents=True)
    (folder / "test/images").mkdir(parents=True)
    for i, data in enumerate(PICTURES):
        (folder / ("train" if i < 2 else "test/images") / f"{i}.v1.png").write_bytes(data)
    write_rows(folder / f"train/metadata.{kind}", ["0.v1.png", "1.v1.png"])
    write_rows(folder / f"test/metadata.{kind}", ["images/2.v1.png", "images/3.v1.png"])
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_are_read_from_metadata_in_a_folder(kind, tmp_path):
    folder = imagefolder(tmp_path / "data", kind)
    keys = ["test/images/2.v1", "test/images/3.v1", "train/0.v1", "train/1.v1"]
    captions = ['a "quoted", long\ncaption', "caption 1"] * 2
    assert samples(open_dataset(str(folder))) == list(zip(keys, [*PICTURES[2:], *PICTURES[:2]], captions, strict=True))
    assert [key for key, *_ in samples(open_dataset(str(folder / "train")))] == ["0.v1", "1.v1"]
    assert [key for key, *_ in samples(open_dataset(f"{folder}/train?key="))] == ["00000000", "00000001"]
    if kind == "jsonl":
        assert len(samples(open_dataset(str(folder / "train/metadata.jsonl")))) == 2


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_is_cut_into_shards_and_knows_other_metadata(kind, tmp_path, monkeypatch):
    for module in ("imagefolder", "table"):
        monkeypatch.setattr(f"clipzoo.readers.{module}.ROWS", 1)
    readers = [open_dataset(str(imagefolder(tmp_path / name, kind) / "train")) for name in "ab"]
    assert readers[0].shards == (f"metadata.{kind}/00000", f"metadata.{kind}/00001")
    assert len(samples(readers[0])) == 2
    assert fingerprint(readers[0]) == fingerprint(readers[1])
    write_rows(tmp_path / f"b/train/metadata.{kind}", ["1.v1.png", "0.v1.png"])
    assert fingerprint(readers[0]) != fingerprint(open_dataset(str(tmp_path / "b/train")))


def test_broken_rows_of_metadata_are_said_and_nothing_outside_is_read(tmp_path):
    folder = imagefolder(tmp_path / "data", "jsonl") / "train"
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('\n{broken\n["a"]\n{"file_name": "../test/images/2.v1.png", "text": "x"}\n')
    reader = open_dataset(str(folder))
    entries = reader.index(reader.shards[0])
    assert [bool(entry.error) for entry in entries] == [False, False, True, True, False]
    examples = [one.example for one in check(str(folder), progress=False).broken.values()]
    assert any("leads out of its folder" in example for example in examples)


def test_captions_beside_the_images_come_before_metadata(tmp_path):
    """Such a folder was read so before metadata was known."""
    folder = imagefolder(tmp_path / "data", "jsonl") / "train"
    for i in range(2):
        (folder / f"{i}.v1.txt").write_text("beside")
    assert [caption for *_, caption in samples(open_dataset(str(folder)))] == ["beside", "beside"]


def test_metadata_without_names_is_an_error_with_the_columns(tmp_path):
    folder = imagefolder(tmp_path / "data", "jsonl") / "train"
    (folder / "metadata.jsonl").write_text('{"image": "0.v1.png", "text": "x"}\n')
    with pytest.raises(DatasetError, match="no column 'file_name'"):
        open_dataset(str(folder))


# img2dataset -----------------------------------------------------------------------------------------------


def notes(path: Path, count: int = 4) -> None:
    status = ["success", "success", "failed_to_download", "failed_to_resize"][:count]
    keys = [f"{i:09d}" for i in range(count)]
    table = {"key": keys, "url": keys, "caption": keys, "status": status, "error_message": [None, None, "404", "bad"]}
    pq.write_table(pa.table(table), path)


def as_files(folder: Path) -> Path:
    """What output_format=files writes."""
    (folder / "00000").mkdir(parents=True)
    notes(folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")
    for i, data in enumerate(PICTURES[:2]):
        (folder / f"00000/{i:09d}.jpg").write_bytes(data)
        (folder / f"00000/{i:09d}.txt").write_text(f"picture {i}")
        note = {"caption": f"noted {i}", "exif": json.dumps({"Image Orientation": "Rotated 90 CW"})}
        (folder / f"00000/{i:09d}.json").write_text(json.dumps(note))
    return folder


def test_a_folder_of_img2dataset_is_read_as_a_folder_whatever_it_noted(tmp_path):
    folder = as_files(tmp_path / "data")
    wanted = [(f"00000/{i:09d}", PICTURES[i], f"picture {i}") for i in range(2)]
    assert samples(open_dataset(str(folder))) == wanted


def test_a_table_of_a_folder_of_pictures_that_is_no_note_is_asked_for(tmp_path):
    folder = as_files(tmp_path / "data")
    (folder / "00000.parquet").rename(folder / "all.parquet")
    with pytest.raises(DatasetError, match="several formats"):
        open_dataset(str(folder))


def test_pictures_of_a_folder_that_are_stored_sideways_are_told_and_turned(tmp_path):
    folder = as_files(tmp_path / "data")
    assert told(str(folder))["pictures stored sideways"][0] == "2"
    reader = open_dataset(f"{folder}?exif=json")
    (_, data, caption), _ = samples(reader)
    turned = Image.fromarray(decode_image(PICTURES[0])).transpose(Image.Transpose.ROTATE_270)
    assert decode_image(data).tobytes() == turned.tobytes()
    assert caption == "noted 0"
    assert fingerprint(reader) != fingerprint(open_dataset(str(folder)))


def as_parquet(folder: Path, failed: int) -> str:
    """What output_format=parquet writes: rows that were not downloaded have no image."""
    folder.mkdir()
    count = len(PICTURES) + failed
    lost = [None] * failed
    table = {
        "key": [f"{i:09d}" for i in range(count)],
        "status": ["success"] * len(PICTURES) + ["failed_to_download"] * failed,
        "error_message": [None] * len(PICTURES) + ["HTTP Error 404: Not Found"] * failed,
        "jpg": pa.array([*PICTURES, *lost], pa.binary()),
        "txt": [*(f"picture {i}" for i in range(len(PICTURES))), *lost],
    }
    pq.write_table(pa.table(table), folder / "00000.parquet")
    return str(folder) + "?caption=txt"


def test_rows_that_were_not_downloaded_are_rows_and_no_failures(tmp_path):
    location = as_parquet(tmp_path / "data", 200)
    reader = open_dataset(location)
    entries = reader.index(reader.shards[0])
    assert len(entries) == 204
    assert entries[-1].error == "not downloaded: failed_to_download: HTTP Error 404: Not Found"
    (report,) = label(location, [Bright()], tmp_path / "out", device="cpu", progress=False, max_failures=0)
    assert (report.labels, report.failures) == (4, 200)
    (report,) = label(location, [Bright()], tmp_path / "out", device="cpu", progress=False, max_failures=0)
    assert (report.labels, report.failures) == (4, 200)
    found = told(location)
    assert found["not-downloaded"][0] == "200"
    assert "max-failures" not in found["usable"][1]


def test_a_failure_beside_rows_that_were_not_downloaded_still_counts(tmp_path):
    location = as_parquet(tmp_path / "data", 96)
    poison = [decode_image(PICTURES[0])[0, 0].tobytes()]
    with pytest.raises(Exception, match="1 of 4 samples"):
        label(location, [Bright(poison=poison)], tmp_path / "out", device="cpu", progress=False, max_failures=0.2)


def test_a_status_changes_no_fingerprint(tmp_path, monkeypatch):
    """Labels of such a table that were made before the status was known are still its labels."""
    location = as_parquet(tmp_path / "data", 2)
    reader = open_dataset(location)
    now = shard_fingerprint(reader, reader.shards[0])
    monkeypatch.setattr("clipzoo.readers._rows.STATUS", ("none", "such"))
    before = open_dataset(location)
    assert before.index(before.shards[0])[-1].error is None
    assert shard_fingerprint(before, before.shards[0]) == now


def test_the_names_of_a_flat_folder_are_not_read_again_for_every_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(60):
        (tmp_path / f"{i:03d}.png").write_bytes(PICTURES[0])
        (tmp_path / f"{i:03d}.txt").write_text(f"picture {i}")
    monkeypatch.setattr(folder, "ROWS", 2)
    folder._names.cache_clear()
    read, stem = [0], folder._stem

    def counted(name: str) -> str:
        read[0] += 1
        return stem(name)

    monkeypatch.setattr(folder, "_stem", counted)
    reader = open_dataset(str(tmp_path))
    assert len(reader.shards) == 30
    keys = [entry.key for shard in reader.shards for entry in reader.index(shard)]
    assert keys == [f"{i:03d}" for i in range(60)]
    assert read[0] <= 2 * 120 + 60
