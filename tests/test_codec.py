"""Codecs of label maps: sizes and pixels are exact, equal labels give equal bytes, and old columns are continued."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipzoo import tasks
from clipzoo.errors import LabelError
from clipzoo.experts import ExpertCard
from clipzoo.store import Column, ColumnWriter, Store
from clipzoo.tasks import Convention, get, levels, png
from clipzoo.tasks.base import Task
from clipzoo.tasks.edges import Edges
from clipzoo.types import View

SHAPES = [(1, 1), (1, 7), (5, 1), (37, 53), (300, 400)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, ()), (np.uint8, (3,)), (np.uint16, ())])
def test_each_codec_returns_the_codes_and_facts(shape: tuple[int, int], dtype: type, channels: tuple[int, ...]) -> None:
    codes = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*shape, *channels), dtype, endpoint=True)
    for codec in png.CODECS:
        data = png.write(codes, "depth", {"kind": "Tiefe ü"}, 6, codec)
        found, facts = png.read(data, "depth", ("L", "RGB", "I;16", "I"))
        np.testing.assert_array_equal(found, codes)
        assert facts == {"task": "depth", "kind": "Tiefe ü"}
        assert data == png.write(codes.copy(), "depth", {"kind": "Tiefe ü"}, 6, codec)
        Image.open(io.BytesIO(data)).verify()


def test_maps_with_noise_are_not_larger_than_by_pillow() -> None:
    y, x = np.mgrid[0:256, 0:256]
    noise = np.random.default_rng(0).normal(0, 0.5, (256, 256))
    codes = np.asarray(127 + 60 * np.sin(x / 40) + 60 * np.cos(y / 30) + noise, np.uint8)
    old, new = (len(png.write(codes, "edges", {}, 6, codec)) for codec in (png.PNG, png.RLE))
    assert new <= 1.05 * old


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(LabelError, match="codec 'jxl' is unknown"):
        png.write(np.zeros((2, 2), np.uint8), "edges", {}, 6, "jxl")


def test_a_column_without_a_codec_stays_readable_and_is_continued_by_its_own(tmp_path: Path) -> None:
    label = Edges(np.random.default_rng(0).random((20, 30), np.float32), np.ones((20, 30), np.bool_))
    card = ExpertCard("benchmark:edges", "edges", Convention())
    column = Store(tmp_path).create(card, {})
    assert column.manifest.codec == png.DEFAULT == "png-rle"
    manifest = json.loads((column.path / "manifest.json").read_text())
    digest = column.manifest.digest
    del manifest["codec"]  # as older clipzoos wrote it
    (column.path / "manifest.json").write_text(json.dumps(manifest))
    old = Column(column.path)
    assert old.manifest.codec == "png"
    assert old.manifest.digest == digest
    with ColumnWriter(Store(tmp_path).create(card, {}), "0") as writer:
        writer.add("a", label)
    (row,) = old.rows("0").to_pylist()
    task = get("edges")
    assert old.member("0", "a", row["offset"], row["size"]) == task.encode_as(label, "png") != task.encode(label)
    np.testing.assert_array_equal(old.label("0", row).values, task.decode(task.encode(label)).values)


class Plain(type(get("edges"))):
    """A task as an installed package has it: maps of one level, and no reading of its own."""

    read = Task.read


def test_a_task_without_its_own_reading_gets_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    label = Edges(rng.random((300, 300), np.float32), np.ones((300, 300), np.bool_))
    column = Store(tmp_path).create(ExpertCard("test:plain", "edges", Convention()), {}, codec=png.LEVELS)
    with ColumnWriter(column, "0") as writer:
        writer.add("a", label)
    (row,) = column.rows("0").to_pylist()
    assert row["size"] > levels.HEAD
    view = View.whole((40, 40))
    expected = get("edges").view(column.label("0", row), view)
    monkeypatch.setattr(tasks, "get", lambda name: Plain())
    seen = column.view("0", "a", row["offset"], row["size"], view)
    np.testing.assert_array_equal(seen.values, expected.values)


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"\0\0\0\x60\0\0\0\x60", b"\0\0\0\x60\0\0\0\x60\0nothing"])
def test_a_damaged_level_is_a_label_error(content: bytes) -> None:
    data = png.write(np.zeros((300, 300), np.uint8), "edges", {}, 6, png.LEVELS, [(levels.NAME, content)])
    with pytest.raises(LabelError, match="the level of the label is damaged"):
        levels.read_level(data, "edges", View.whole((40, 40)))


@pytest.mark.parametrize(("bits", "channels"), [(4, 3), (16, 3)])
def test_a_level_of_another_form_is_a_label_error(bits: int, channels: int) -> None:
    content = struct.pack(levels.HEADER, 97, 97, 0) + levels._packed(np.zeros(97 * 97 * channels * bits // 8, np.uint8))
    with pytest.raises(LabelError, match="the level of the label is damaged"):
        levels._codes(content, bits, channels)
