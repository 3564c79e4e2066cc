"""A look at a dataset: counts are right, what is odd is found, memory and time are bounded, and it can be stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import clipzoo
import hostile
from clipzoo import files
from clipzoo.checking import captions, duplicates, engine
from clipzoo.checking.captions import SUSPICIONS, language, script, suspicions
from clipzoo.checking.engine import form_of
from clipzoo.checking.findings import Findings, ScannedSample
from clipzoo.cli import app
from clipzoo.errors import DatasetError, StoreError, kind_of
from clipzoo.labeling import label, local
from clipzoo.pages.check import check, rows
from clipzoo.readers.webdataset import write_shard
from clipzoo.types import decode_image
from making import Bright, encoded, image, make_dataset, samples

# Captions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", "Latin"), ("eine Straße, 12 €", "Latin"), ("кошка cat на столе", "Cyrillic"), ("γάτα", "Greek"),
        ("قطة", "Arabic"), ("חתול", "Hebrew"), ("बिल्ली", "Devanagari"), ("แมว", "Thai"), ("고양이", "Hangul"),
        ("桌子上的猫", "Han"), ("机の上の猫", "Japanese"), ("𠀀𠀁", "Han"), ("123 !?", "none"), ("👩‍👧", "none"),
    ],
)  # fmt: skip
def test_scripts(text: str, expected: str) -> None:
    assert script(text) == expected


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        ("see https://x.org/a", "web address"),
        ("www.shop.com sale", "web address"),
        ("IMG_1234.jpg", "file name"),
        ("DSC01234", "file name"),
        ("my holiday.png", "file name"),
        ("<b>Buy</b> now", "HTML"),
        ("salt &amp; pepper", "HTML"),
        ("bell\x07", "control"),
        ("caf\ufffd", "control"),
        ("12 / 2019", "no letter"),
        ("k7", "own key"),
        ("word " * 100, "longer"),
    ],
)
def test_what_is_odd_about_a_caption(text: str, odd: str) -> None:
    assert any(odd in name for name in suspicions(text, "folder/k7"))


@pytest.mark.parametrize(
    "text", ["a < b and c > d", "R&D department; a dog", "The 1234 runners", "jpg or png", "imagine", "قطة على الطاولة"]
)
def test_plain_captions_are_not_odd(text: str) -> None:
    assert suspicions(text, "000") == ()


# Duplicates ------------------------------------------------------------------------------------------------


def photo(seed: int, size: int = 128) -> np.ndarray:
    """Smooth random light, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def test_a_picture_is_near_its_copies_and_far_from_others() -> None:
    hashes = [duplicates.dhash(photo(i)) for i in range(200)]
    assert None not in hashes
    far = 0
    for i in range(200):
        smaller = np.asarray(Image.fromarray(photo(i)).resize((61, 61)))
        darker = (photo(i) * 0.8).astype(np.uint8)
        again = decode_image(encoded(photo(i), "JPEG", quality=60))
        far += sum(bin(duplicates.dhash(c) ^ hashes[i]).count("1") > duplicates.NEAR for c in (smaller, darker, again))
    assert far < 0.02 * 600
    assert duplicates.near(np.array(hashes, np.uint64)) == []


def test_flat_pictures_have_no_hash() -> None:
    assert duplicates.dhash(np.full((20, 20, 3), 77, np.uint8)) is None
    even = np.full((20, 20, 3), 77, np.uint8)
    even[5:15, 2:12] = 180, 26, 71  # as bright
    assert np.asarray(Image.fromarray(even).convert("L")).std() < 1
    assert duplicates.dhash(even) is not None
    assert duplicates.dhash(even) != duplicates.dhash(even[:, ::-1])


@pytest.mark.parametrize("seed", range(3))
def test_near_pairs_are_those_of_all_comparisons(seed: int) -> None:
    """Every pair within three bits is found, and no other: against the plain comparison of all with all."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, 150, dtype=np.uint64)
    hashes = [int(h) for h in base]
    for h in base[:60]:
        bits = rng.choice(64, int(rng.integers(0, 6)), replace=False)
        hashes.append(int(h) ^ sum(1 << int(bit) for bit in bits))
    values = np.array(hashes, np.uint64)
    linked = {frozenset((i, j)) for i in range(210) for j in range(i) if bin(hashes[i] ^ hashes[j]).count("1") <= 3}
    found = duplicates.near(values)
    assert {frozenset(map(int, group)) for group in found} == components(linked)
    assert linked


def components(pairs: set[frozenset[int]]) -> set[frozenset[int]]:
    groups: list[set[int]] = []
    for pair in pairs:
        touching = [group for group in groups if group & pair]
        groups = [group for group in groups if not group & pair] + [set(pair).union(*touching)]
    return {frozenset(group) for group in groups}


def test_a_near_pair_is_found_among_others_of_its_blocks() -> None:
    """Between the two, in every order that brings them together, stand hashes that are far from both."""
    between = [0x3FF, 0x3FF << 1 | 1 << 20, 0x2AA << 1, (0x155 << 11) | 0x7F, 1 << 21 | 0x3F]
    a, b = 0, 1 | 1 << 11 | 1 << 22
    values = np.array([a, *between, b], np.uint64) | np.uint64(0xABCD << 44)
    assert [0, 6] in [group.tolist() for group in duplicates.near(values)]


def test_all_near_pairs_of_some_hundred_hashes_with_equal_blocks_are_found() -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(0, 2**33, 400, dtype=np.uint64)
    flips = np.uint64(1) << (np.array([[0, 11, 22]]) + rng.integers(0, 11, (100, 3))).astype(np.uint64)
    values = np.concatenate([low, low[:100] ^ flips.sum(1)]) | np.uint64(0xABC << 50)
    found = {frozenset(map(int, group)) for group in duplicates.near(values)}
    assert found == {frozenset((i, 400 + i)) for i in range(100)}


def test_equal_hashes_are_grouped_the_largest_first() -> None:
    groups = duplicates.equal(np.array([5, 7, 5, 9, 7, 5], np.uint64))
    assert [group.tolist() for group in groups] == [[0, 2, 5], [1, 4]]
    assert duplicates.equal(np.zeros(0, np.uint64)) == duplicates.near(np.zeros(0, np.uint64)) == []


def test_hashes_that_are_all_near_one_another_are_linked_without_a_step_for_each_pair() -> None:
    rng = np.random.default_rng(0)
    cloud = np.zeros(20_000, np.uint64)
    for _ in range(3):
        cloud ^= np.uint64(1) << rng.integers(0, 64, len(cloud)).astype(np.uint64)
    began = time.process_time()
    (group,) = duplicates.near(cloud)
    assert len(group) == len(cloud)
    assert time.process_time() - began < 2  # a step for each pair takes more than 3 s


@pytest.mark.slow
def test_many_hashes_that_agree_in_a_block_take_no_quadratic_time() -> None:
    crowded = np.arange(100_000, dtype=np.uint64) << np.uint64(33)
    assert duplicates.near(crowded)


# Findings --------------------------------------------------------------------------------------------------


def test_counts_of_a_small_dataset(tmp_path: Path) -> None:
    tall, wide = encoded(photo(1)[:, :20].copy()), encoded(photo(2)[:30].copy(), "JPEG")
    twice = encoded(photo(3))
    like = encoded(np.asarray(Image.fromarray(photo(3)).resize((90, 90))))
    rest = {"txt": b"a caption", "png": twice}
    write_shard(
        tmp_path / "0.tar",
        [
            ("a", {"png": tall, "txt": "кошка".encode()}),
            ("b", {"jpg": wide, "txt": b"IMG_1.jpg"}),
            ("c", rest),
            ("d", {"png": b"", "txt": b"x"}),
        ],
    )
    others = [("e", {"png": like, "txt": b"e"}), ("f", {"png": tall[:90], "txt": b"x"})]
    write_shard(tmp_path / "1.tar", [("c", rest), *others])
    found = check(str(tmp_path), tmp_path / "page.html", progress=False)
    assert (found.shards, found.seen, found.usable, found.of_all) == (2, 7, 5, True)
    assert {kind: one.count for kind, one in found.broken.items()} == {
        "empty": 1, "cannot-decode": 1,
    }  # fmt: skip
    assert found.formats == {"PNG": 4, "JPEG": 1}
    assert found.sides == {"0 to 31 px": 2, "64 to 127 px": 1, "128 to 223 px": 2}
    assert found.aspects == {"below 1:3": 1, "above 3:1": 1, "2:3 to 3:2": 3}
    assert found.scripts == {"Cyrillic": 1, "Latin": 4}
    assert found.languages["ru"] == 1
    assert found.languages["unsure"] == 3
    assert found.languages.total() == 5
    told = {what: words for what, _, words in rows(found)}
    assert told["languages"].startswith("unsure: 60 %, ru: 20 %")
    assert "--max-failures 0.29" in told["usable"]
    assert {odd: one.count for odd, one in found.suspicious.items()} == {"is a file name": 1, "is its own key": 1}
    assert (found.equal.of, found.equal.samples) == (1, 1)
    assert found.equal.groups == [(2, [("0", 2), ("1", 0)])]
    assert found.near.groups == [(3, [("0", 2), ("1", 0), ("1", 1)])]
    page = (tmp_path / "page.html").read_text()
    assert "5 of 7 samples are usable" in page
    assert 'src="data:image/jpeg;base64,' in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_languages() -> None:
    assert language("a red chair stands next to the window") == "en"
    assert language("ein roter Stuhl steht neben dem Fenster") == "de"
    assert language("窓のそばの赤い椅子") == "ja"
    assert language("a\nb") == language("") == language("🙂 123") == "unsure"


def test_languages_are_not_told_without_their_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(captions, "_detector", lambda: None)
    write_shard(tmp_path / "0.tar", [("a", {"png": encoded(image(0)), "txt": b"a red chair stands there"})])
    found = check(str(tmp_path), progress=False)
    assert ("languages", "", "not detected: pip install 'clipzoo[check]'") in rows(found)
    assert "max-failures" not in str(rows(found))


def test_a_dataset_without_captions_is_told_what_is_lacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And not to install what would tell the language of captions."""
    monkeypatch.setattr(captions, "_detector", lambda: None)
    write_shard(tmp_path / "tars" / "0.tar", [(str(i), {"png": encoded(image(i)), "cls": b"1"}) for i in range(3)])
    told = {what: words for what, _, words in rows(check(str(tmp_path / "tars"), progress=False))}
    assert told["languages"] == "–"
    assert told["usable"] == (
        "0 %. Most common reason: 0: the sample has no caption: it has png, cls, a "
        "caption is a txt or caption or json member; name another one by ?caption=NAME after the location"
    )
    fields = [("a", {"png": encoded(image(0)), "json": b'{"url": "x", "alt": "a cat"}'})]
    write_shard(tmp_path / "json" / "0.tar", fields)
    told = {what: words for what, _, words in rows(check(str(tmp_path / "json"), progress=False))}
    assert "no text under caption or text, only url, alt; name another field by ?caption=NAME" in told["usable"]


def test_boilerplate_is_found(tmp_path: Path) -> None:
    captions = [b"photo not available" if i < 12 else b"%d" % i for i in range(20)]
    write_shard(tmp_path / "0.tar", [(str(i), {"png": encoded(image(i)), "txt": captions[i]}) for i in range(20)])
    found = check(str(tmp_path), progress=False)
    assert (found.repeated.of, found.repeated.samples) == (1, 11)
    assert found.repeated.groups[0][0] == 12


def test_missing_captions_that_are_optional_are_counted_apart(tmp_path: Path) -> None:
    listed = [
        (f"{i:02d}", {"png": encoded(photo(i)), **({"txt": b"www.a.com red chair"} if i < 4 else {})})
        for i in range(20)
    ]
    write_shard(tmp_path / "0.tar", listed)
    findings = check(f"{tmp_path}?captions=optional", progress=False)
    assert (findings.usable, findings.captioned, findings.uncaptioned.count) == (20, 4, 16)
    assert {problem: one.count for problem, one in findings.suspicious.items()} == {"holds a web address": 4}
    assert (findings.repeated.of, findings.scripts) == (0, {"Latin": 4})
    assert findings.lengths() == (19, 19, 19)
    told = {name: (count, details) for name, count, details in rows(findings)}
    assert told["without a caption"] == ("16", "80 %")
    assert told["scripts"] == ("", "Latin: 100 %")
    assert told["caption holds a web address"] == ("4", "100 %")


def test_a_limit_is_spread_over_all_shards(tmp_path: Path) -> None:
    make_dataset(tmp_path, shards=5, count=10)
    found = check(str(tmp_path), limit=12, progress=False)
    assert (found.seen, found.of_all) == (12, False)
    assert {shard for shard, _ in found.drawn} == {f"{i:05d}" for i in range(5)}
    assert check(str(tmp_path), limit=3, progress=False).seen == 3
    whole = check(str(tmp_path), limit=1000, progress=False)
    assert (whole.seen, whole.of_all) == (50, True)
    with pytest.raises(DatasetError, match="limit=0"):
        check(str(tmp_path), limit=0)


def test_what_is_drawn_is_bounded_and_spread() -> None:
    found = Findings("x", 1)
    found.begin("0", True)
    for i in range(2000):
        found.add(i, ScannedSample(str(i), caption="c", size=(9, 9), digest=i))
    numbers = sorted(number for _, number in found.drawn)
    assert len(set(numbers)) == 24
    assert numbers[0] < 500
    assert numbers[-1] > 1500


def test_reasons_of_one_kind_are_counted_together() -> None:
    reasons = {
        "the image (jpg) is empty: 0 bytes": "the image is empty",
        "cannot decode the image (79 bytes, beginning b'\\xff(:'): OSError: x": "cannot decode the image: OSError: x",
        "the image has too many pixels (Image size (4 pixels) exceeds (x)); shrink it": "the image has too many pixels",
        "its member 'a/b (1): c.png' is a link; only regular files are read": "its member … is a link",
        "the image has 12×10 pixels, too many; shrink it": "the image has …×… pixels, too many",
        "the caption (txt) is not UTF-8: x": "the caption is not UTF-8",
    }
    assert {reason: kind_of(reason) for reason in reasons} == reasons


LONG = ("table", "parquet", "folder", "tars")


@pytest.mark.parametrize(
    "form", [pytest.param(one, marks=[pytest.mark.slow] * (one in LONG)) for one in [*hostile.DATASETS, "tars"]]
)
def test_the_hostile_corpus_is_counted_to_the_last_sample(form: str, tmp_path: Path) -> None:
    if form == "tars":
        for one in hostile.tars():
            if one.usable >= 0:
                (tmp_path / f"{one.name}.tar").write_bytes(one.data)
        where, samples_in = str(tmp_path), sum(one.usable + one.refused for one in hostile.tars() if one.usable >= 0)
    else:
        where, samples_in = hostile.DATASETS[form](tmp_path / "data"), len(hostile.items())
    found = check(where + "?format=folder" * (form == "folder"), tmp_path / "page.html", progress=False)
    assert found.seen == samples_in
    assert found.usable + sum(one.count for one in found.broken.values()) == found.seen
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert page.count("data:image") > 10


def test_formats_are_told_by_their_first_bytes() -> None:
    seen = {form_of(one.image) for one in hostile.pictures() if one.usable}
    assert seen == {"JPEG", "PNG", "WebP", "GIF", "TIFF", "BMP", "JPEG 2000"}


# The command -----------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_the_page(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    arguments = ["check", str(tmp_path / "data"), "--out", str(tmp_path / "p.html"), "--limit", "5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "usable" in result.output
    assert (tmp_path / "p.html").exists()
    assert clipzoo.check is check


def test_a_page_that_cannot_be_written_ends_the_check_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        check("nowhere", tmp_path / "file" / "page.html")


@pytest.mark.parametrize("does", ["check", "label"])
def test_as_many_pictures_are_asked_for_as_the_reader_wants(tmp_path: Path, monkeypatch, does: str) -> None:
    """Where each waits for a network."""
    many = max(local.THREADS, engine.THREADS) + 4
    write_shard(tmp_path / "data" / "0.tar", samples(2 * many))
    together = threading.Barrier(many, timeout=30)
    monkeypatch.setattr(files, "threads", lambda path: many)

    def decoded(data: bytes, **options: object) -> np.ndarray:
        together.wait()
        return decode_image(data)

    monkeypatch.setattr("clipzoo.readers.decode.decode_image", decoded)
    if does == "check":
        assert check(str(tmp_path / "data"), progress=False).usable == 2 * many
    else:
        (report,) = label(str(tmp_path / "data"), Bright(), tmp_path / "out", check=False, progress=False)
        assert report.labels == 2 * many


STOPPED = """
import os, signal, sys
from clipzoo.checking import engine
scan_sample = engine.scan_sample
seen, number = [], int(sys.argv[2])
def slow(reader, entry):
    seen.append(entry)
    if len(seen) == 20:
        os.kill(os.getpid(), number)
    return scan_sample(reader, entry)
engine.scan_sample = slow
from clipzoo.cli import main
sys.argv = ["clipzoo", "check", sys.argv[1]]
main()
"""


@pytest.mark.parametrize("sent", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_stopped_it_tells_what_it_has_seen(tmp_path: Path, sent: signal.Signals) -> None:
    make_dataset(tmp_path, shards=2, count=300)
    command = [sys.executable, "-c", STOPPED, str(tmp_path), str(int(sent))]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 128 + sent
    seen = re.search(r"samples\D+(\d+)", ended.stdout)
    assert seen
    assert int(seen[1]) < 300
    assert "a part of the dataset" in ended.stdout.replace("\n", " ")
    assert "Traceback" not in ended.stderr


MEASURED = """
import sys
sys.path.insert(0, sys.argv[2])
from clipzoo.pages.check import check
from making import peak
before = peak()
print(check(sys.argv[1], progress=False).usable)
print((peak() - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, shards=1, count=300)
    for i in range(1, 20):
        (tmp_path / f"{i:05d}.tar").write_bytes((data / "00000.tar").read_bytes())
    here = str(Path(__file__).parent)
    ended = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path), here], capture_output=True, text=True)
    usable, grown = map(int, ended.stdout.split())
    assert usable == 6000
    assert grown < 40


def test_every_suspicion_has_a_name_that_follows_a_caption() -> None:
    assert all(name.split()[0] in ("holds", "is", "has") for name in SUSPICIONS)


def test_samples_are_looked_at_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", samples(50))
    first, second = (check(str(tmp_path), progress=False) for _ in range(2))
    assert first.drawn == second.drawn
    assert first._digests == second._digests


def test_samples_without_a_duplicate_take_no_memory_each() -> None:
    hashes = np.random.default_rng(0).permutation(np.arange(200_000, dtype=np.uint64))
    hashes[:2] = 7
    tracemalloc.start()
    groups = duplicates.equal(hashes)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {0, 1} <= set(max(groups, key=len).tolist())
    assert most < 60 * len(hashes), "an array object alone takes more than 100 bytes"
