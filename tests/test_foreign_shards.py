"""Shards as other writers make them: any naming is read, said in a line, and kept in the fingerprint."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipzoo import experts
from clipzoo.errors import DatasetError
from clipzoo.pages.check import check, rows
from clipzoo.readers import Reader, fingerprint, open_dataset, shard_fingerprint
from clipzoo.types import decode_image
from making import encoded, image, raw_tar

PICTURES = [encoded(image(i)) for i in range(6)]
CAPTIONS = [f"a caption {i}" for i in range(6)]

Members = list[tuple[str, bytes]]


def pairs(keys: Sequence[str], picture: str, caption: str) -> Members:
    """A picture and a caption of each key, called ``<key><picture>`` and ``<key><caption>``."""
    found: Members = []
    for key, data, text in zip(keys, PICTURES, CAPTIONS, strict=False):
        found += [(f"{key}{picture}", data), (f"{key}{caption}", text.encode())]
    return found


def samples(reader: Reader) -> list[tuple[str, bytes, str]]:
    found = [reader.read(entry) for shard in reader.shards for entry in reader.index(shard)]
    return [(sample.key, sample.image, sample.caption) for sample in found]


def told(location: str) -> dict[str, str]:
    """The rows of a check: (what, words)."""
    return {what: words for what, _, words in rows(check(location, progress=False))}


NUMBERS = ["0000", "0001", "0002"]
TRACKS = ["235342 Track 2.0 (Clean)", "235342 Track 2.1 (Clean)", "in a folder/235343 Track 10.2"]
DECIMALS = ["22.05", "22.06", "23.05"]
NAMINGS = {
    "two-part endings": (NUMBERS, ".input.jpg", ".outputs.txt", "image=input&caption=outputs"),
    "two-part endings with json": (NUMBERS, ".input.jpg", ".txt", "image=input"),
    "keys with dots and spaces": (TRACKS, ".jpg", ".txt", "key=last-dot"),
    "keys that are decimals": (DECIMALS, ".png", ".txt", "key=last-dot"),
    "dots in keys and in endings": (DECIMALS, ".input.jpg", ".outputs.txt", "image=input&caption=outputs&key=last-dot"),
    "unknown endings": (NUMBERS, ".img", ".cap", "image=img&caption=cap"),
    "a named image": (NUMBERS, ".image.jpg", ".txt", "image=image"),
    "named fields": (NUMBERS, ".image.jpg", ".text.txt", "image=image&caption=text"),
    "upper case": (NUMBERS, ".Image.JPG", ".Text.TXT", "image=image&caption=text"),
    "a named caption": (NUMBERS, ".jpg", ".prompt.txt", "caption=prompt"),
    "a dotted key and an unknown caption": (DECIMALS, ".jpg", ".cap", "caption=cap&key=last-dot"),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_other_namings_are_read_and_said(naming, tmp_path, caplog):
    keys, picture, caption, options = NAMINGS[naming]
    path = raw_tar(tmp_path / "a.tar", pairs(keys, picture, caption))
    wanted = list(zip(keys, PICTURES, CAPTIONS, strict=False))
    with caplog.at_level(logging.WARNING):
        reader = open_dataset(str(path))
        assert samples(reader) == wanted
    (line,) = {record.getMessage() for record in caplog.records}
    assert line == f"{path} is read as '{path}?{options}'"
    spelled = open_dataset(f"{path}?{options}")
    assert samples(spelled) == wanted
    assert fingerprint(spelled) == fingerprint(reader)


@pytest.mark.parametrize("naming", NAMINGS)
def test_members_in_any_order_are_one_sample(naming, tmp_path):
    """As in tars whose names were not sorted, or sorted by ending."""
    keys, picture, caption, _ = NAMINGS[naming]
    members = pairs(keys, picture, caption)
    path = raw_tar(tmp_path / "a.tar", [*members[::2], *members[1::2]])
    assert samples(open_dataset(str(path))) == list(zip(keys, PICTURES, CAPTIONS, strict=False))


def test_all_images_then_all_captions_are_whole_samples_in_the_order_of_the_images(tmp_path):
    members = pairs(["b", "a", "c"], ".jpg", ".txt")
    path = raw_tar(tmp_path / "a.tar", [*members[::2], *reversed(members[1::2])])
    assert [key for key, *_ in samples(open_dataset(str(path)))] == ["b", "a", "c"]


def test_a_layout_found_in_the_first_shard_is_that_of_all(tmp_path):
    raw_tar(tmp_path / "0.tar", [])
    raw_tar(tmp_path / "1.tar", pairs(["22.05"], ".png", ".txt"))
    raw_tar(tmp_path / "2.tar", pairs(["22.06"], ".png", ".txt"))
    raw_tar(tmp_path / "3.tar", pairs(["22.07"], ".png", ".txt"))
    raw_tar(tmp_path / "4.tar", pairs(["23"], ".png", ".txt"))
    assert [key for key, *_ in samples(open_dataset(str(tmp_path)))] == ["22.05", "22.06", "22.07", "23"]


def test_other_members_of_a_dotted_key_stay_beside_it(tmp_path):
    members = [*pairs(DECIMALS, ".png", ".txt"), ("22.05.seg.png", b"mask"), ("22.05.vector.npy", b"v")]
    entries = open_dataset(str(raw_tar(tmp_path / "a.tar", members))).index("a")
    assert [entry.key for entry in entries] == DECIMALS
    assert set(entries[0].members) == {"png", "txt", "seg.png", "vector.npy"}


def test_options_of_fields_are_those_of_tables(tmp_path):
    members = [("k.a.png", PICTURES[0]), ("k.b.png", PICTURES[1]), ("k.x.txt", b"x"), ("k.y.txt", b"y")]
    path = raw_tar(tmp_path / "a.tar", members)
    assert samples(open_dataset(f"{path}?image=b.png&caption=y,x")) == [("k", PICTURES[1], "y")]
    assert samples(open_dataset(f"{path}?image=a&caption=x.txt")) == [("k", PICTURES[0], "x")]
    identities = {fingerprint(open_dataset(f"{path}?image={name}&caption=x"))["sha256"] for name in "ab"}
    assert len(identities) == 2
    with pytest.raises(DatasetError, match="key=third is neither first-dot nor last-dot"):
        open_dataset(f"{path}?key=third")


def test_a_field_of_the_json_can_be_named_as_ever(tmp_path):
    note = json.dumps({"title": "of the json"}).encode()
    path = raw_tar(tmp_path / "a.tar", [("k.jpg", PICTURES[0]), ("k.txt", b"text"), ("k.json", note)])
    assert samples(open_dataset(f"{path}?caption=title"))[0][2] == "of the json"


def test_a_label_map_is_not_taken_for_the_image_unasked(tmp_path):
    path = raw_tar(tmp_path / "a.tar", pairs(NUMBERS, ".seg.png", ".txt"))
    assert all("no image" in (entry.error or "") for entry in open_dataset(str(path)).index("a"))
    assert told(str(path))["  can be read as"] == f"'{path}?image=seg'"
    assert len(samples(open_dataset(f"{path}?image=seg"))) == 3


def test_truth_without_captions_is_read_where_captions_are_optional(tmp_path):
    plain = [(f"{key}.seg.png", data) for key, data in zip(NUMBERS, PICTURES, strict=False)]
    path = raw_tar(tmp_path / "a.tar", plain)
    found = samples(open_dataset(str(path), captions="optional"))
    assert found == [(key, data, "") for key, data in zip(NUMBERS, PICTURES, strict=False)]
    both = [member for key, data in plain for member in ((key.replace("seg.png", "jpg"), PICTURES[5]), (key, data))]
    location = f"{raw_tar(tmp_path / 'b.tar', both)}?image=seg.png"
    assert samples(open_dataset(location, captions="optional")) == found


@pytest.mark.parametrize("keys", [NUMBERS, DECIMALS])
def test_labels_in_tars_are_found_by_the_keys_of_the_pictures(keys, tmp_path):
    pictures = open_dataset(str(raw_tar(tmp_path / "a.tar", pairs(keys, ".jpg", ".txt"))))
    raw_tar(tmp_path / "b.tar", [(f"{key}.seg.png", data) for key, data in zip(keys, PICTURES, strict=False)])
    expert = experts.create(f"tars:{tmp_path / 'b.tar'}?label=seg.png&task=segmentation&classes=a,b&void=255")
    assert [expert.place(entry.key) for entry in pictures.index("a")] == [f"{key}.seg.png" for key in keys]


# What stays as it was --------------------------------------------------------------------------------------


def plain(folder: Path) -> str:
    """Two shards as img2dataset writes them, with a broken sample and other members."""
    for shard in range(2):
        members: Members = []
        for i in range(shard * 3, shard * 3 + 3):
            note = {"caption": f"json {i}", "exif": "{}", "status": "success"}
            members += [
                (f"{i:09d}.jpg", b"x" * (100 + i)),
                (f"{i:09d}.txt", f"caption {i}".encode()),
                (f"{i:09d}.json", json.dumps(note).encode()),
            ]
        members += [(f"{9 + shard}.jpg", b"alone"), (f"{20 + shard}.seg.png", b"m")]
        members += [(f"{20 + shard}.png", b"pic"), (f"{20 + shard}.caption", b"c")]
        raw_tar(folder / f"{shard:05d}.tar", members)
    return str(folder)


def test_plain_shards_keep_their_keys_order_and_fingerprints(tmp_path):
    """The fingerprints are those of clipzoo before it read other layouts."""
    reader = open_dataset(plain(tmp_path))
    assert fingerprint(reader)["sha256"] == "93c9cb7067d3943584d887353f6f98780b1f8d7ee2dbfe70e9a77c5069ada472"
    assert [shard_fingerprint(reader, shard) for shard in reader.shards] == [
        "2ab524ac96c9c4013c7f56cb60f9cfe6ffdbd89229c34cdd10c212f70a3c71eb",
        "7f5dbbbf7d517f4aa6675e2fc0839181e205464e0714e7af60460687f8afde8a",
    ]
    assert [(entry.key, entry.image, entry.caption, entry.error is None) for entry in reader.index("00001")] == [
        ("000000003", "jpg", "txt", True), ("000000004", "jpg", "txt", True), ("000000005", "jpg", "txt", True),
        ("10", "jpg", "", False), ("21", "png", "caption", True),
    ]  # fmt: skip


def test_a_dataset_that_reads_well_is_never_read_otherwise(tmp_path, caplog):
    """One sample that reads is enough: the others are broken as before, and told how they could be read."""
    path = raw_tar(tmp_path / "a.tar", [*pairs(["30"], ".png", ".txt"), *pairs(DECIMALS, ".png", ".txt")])
    entries = open_dataset(str(path)).index("a")
    assert [(entry.key, entry.error is None) for entry in entries] == [("30", True), ("22", False), ("23", False)]
    assert not caplog.records
    assert told(str(path))["  can be read as"] == f"'{path}?key=last-dot'"


def test_a_first_shard_that_is_odd_does_not_change_how_the_next_ones_are_read(tmp_path):
    raw_tar(tmp_path / "0.tar", pairs(["22.05"], ".png", ".txt"))
    raw_tar(tmp_path / "1.tar", pairs(["23"], ".png", ".txt"))
    reader = open_dataset(str(tmp_path))
    assert [entry.error is None for shard in reader.shards for entry in reader.index(shard)] == [False, True]


def test_a_truncated_tar_gives_the_samples_whose_members_are_there(tmp_path):
    """Images first, captions then: each cut keeps the captions before it."""
    members = pairs(NUMBERS, ".input.png", ".outputs.txt")
    whole = raw_tar(tmp_path / "whole.tar", [*members[::2], *members[1::2]])
    ends = [sum(entry.members["outputs.txt"]) for entry in open_dataset(str(whole)).index("whole")]
    for cut in range(ends[0] - 20, whole.stat().st_size - 8192, 200):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole.read_bytes()[:cut])
        found = [entry.error for entry in open_dataset(f"{path}?image=input&caption=outputs").index("cut")]
        assert found.count(None) == sum(end <= cut for end in ends), cut
        assert any("truncated" in (error or "") for error in found), cut


# Check -----------------------------------------------------------------------------------------------------


def test_check_prints_the_location_that_reads_each_sort_of_unusable_sample(tmp_path):
    odd = [*pairs(["a"], ".input.jpg", ".outputs.txt"), *pairs(["22.05"], ".png", ".txt"), ("z.jpg", PICTURES[0])]
    path = raw_tar(tmp_path / "a.tar", [*pairs(["0"], ".jpg", ".txt"), *odd])
    found = check(str(path), progress=False)
    (no_image,) = [one for kind, one in found.broken.items() if kind == "no-image"]
    assert dict(no_image.advice) == {f"{path}?image=input&caption=outputs": 1, f"{path}?key=last-dot": 1}
    lines = [words for what, _, words in rows(found) if what == "  can be read as"]
    assert sorted(lines) == [f"'{path}?image=input&caption=outputs'", f"'{path}?key=last-dot'"]


def test_a_sample_of_unknown_fields_is_told_how_fields_are_named(tmp_path):
    path = raw_tar(tmp_path / "a.tar", pairs(NUMBERS, ".data", ".words"))
    (entry, *_) = open_dataset(str(path)).index("a")
    assert "it has data, words" in entry.error
    assert "?image=" in entry.error
    assert len(samples(open_dataset(f"{path}?image=data&caption=words"))) == 3


# Metadata --------------------------------------------------------------------------------------------------


def jsonl(names: Sequence[str]) -> bytes:
    return "".join(
        json.dumps({"file_name": n, "text": c}) + "\n" for n, c in zip(names, CAPTIONS, strict=False)
    ).encode()


def csv(names: Sequence[str]) -> bytes:
    rows = [f'{n},1,"{c}, quoted\nover two lines"' for n, c in zip(names, CAPTIONS, strict=False)]
    return ("\ufefffile_name,stars,caption\n" + "\n".join(rows) + "\n").encode()


@pytest.mark.parametrize("folder", ["", "train/"])
@pytest.mark.parametrize("table", [jsonl, csv])
@pytest.mark.parametrize("last", [False, True])
def test_captions_are_read_from_metadata_in_a_tar(folder, table, last, tmp_path, caplog):
    names = ["0.a.png", "1.a.png", "2.png"]
    members = [(folder + name, data) for name, data in zip(names, PICTURES, strict=False)]
    place = (f"{folder}metadata.{'csv' if table is csv else 'jsonl'}", table(names))
    path = raw_tar(tmp_path / "a.tar", [*members, place] if last else [place, *members])
    suffix = ", quoted\nover two lines" if table is csv else ""
    wanted = [(folder + n[:-4], d, c + suffix) for n, d, c in zip(names, PICTURES, CAPTIONS, strict=False)]
    assert samples(open_dataset(str(path))) == wanted
    assert {"metadata.jsonl" in record.getMessage() for record in caplog.records} == {True}
    named = open_dataset(f"{path}?caption={'caption' if table is csv else 'text'}")
    assert samples(named) == wanted


def test_rows_and_pictures_without_each_other_are_said(tmp_path):
    members = [("metadata.jsonl", jsonl(["0.png", "gone.png", "../out.png"]) + b"{broken\n"), ("0.png", PICTURES[0])]
    path = raw_tar(tmp_path / "a.tar", [*members, ("1.png", PICTURES[1])])
    found = {entry.key: entry.error for entry in open_dataset(str(path)).index("a")}
    assert found["0"] is None
    assert "metadata.jsonl" in found["1"]
    assert "which is not in the shard" in found["gone"]
    assert len(found) == 4


# Pictures stored sideways ----------------------------------------------------------------------------------

ORIENTATIONS = [
    "Horizontal (normal)", "Mirrored horizontal", "Rotated 180", "Mirrored vertical",
    "Mirrored horizontal then rotated 90 CCW", "Rotated 90 CW", "Mirrored horizontal then rotated 90 CW",
    "Rotated 90 CCW",
]  # fmt: skip


def noted(form: str, orientation: int, own: bool = False) -> Members:
    """A picture and what img2dataset notes of it; ``own``: its EXIF is still in it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image(orientation), form, **({"exif": exif} if own else {}))
    tags = {"Image Make": "X", "Image Orientation": ORIENTATIONS[orientation - 1]}
    note = json.dumps({"caption": "c", "exif": json.dumps(tags)}).encode()
    ending = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[form]
    return [(f"{orientation}.{ending}", data), (f"{orientation}.txt", b"text"), (f"{orientation}.json", note)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("own", [False, True])
def test_pictures_are_turned_as_the_json_says_once(orientation, form, own, tmp_path):
    """Pillow's own EXIF is the judge; a picture that has it is turned by the decoder alone."""
    options = {"lossless": True} if form == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    right = decode_image(encoded(image(orientation), form, exif=exif, **options))
    members = noted(form, orientation, own)
    members[0] = members[0][0], encoded(image(orientation), form, **options, **({"exif": exif} if own else {}))
    path = raw_tar(tmp_path / "a.tar", members)
    reader = open_dataset(f"{path}?exif=json")
    ((_, data, caption),) = samples(reader)
    np.testing.assert_array_equal(decode_image(data), right)
    assert caption == "c"


def test_check_counts_pictures_stored_sideways(tmp_path):
    members = [member for i in (1, 3, 6) for member in noted("JPEG", i)] + noted("JPEG", 8, own=True)
    path = raw_tar(tmp_path / "a.tar", members)
    found = check(str(path), tmp_path / "page.html", progress=False)
    assert found.sideways.count == 2
    assert "<h2>Pictures stored sideways</h2>" in (tmp_path / "page.html").read_text()
    words = told(str(path))["pictures stored sideways"]
    assert "Rotated 180" in words
    assert "exif=json" in words
    assert check(f"{path}?exif=json", progress=False).sideways.count == 0
    assert fingerprint(open_dataset(f"{path}?exif=json")) != fingerprint(open_dataset(str(path)))


def test_exif_is_json_or_nothing(tmp_path):
    with pytest.raises(DatasetError, match="exif=yes is not supported"):
        open_dataset(f"{raw_tar(tmp_path / 'a.tar', noted('JPEG', 6))}?exif=yes")
