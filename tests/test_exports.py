"""Labels in the formats of others: in pixels of each picture, and read back as they were."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from clipzoo import import_labels
from clipzoo.cli import app
from clipzoo.errors import ImageError, PluginError, StoreError
from clipzoo.experts import Expert, ExpertCard
from clipzoo.labeling import export_labels, label
from clipzoo.labeling.exports import PLUGINS, Labeled
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store
from clipzoo.tasks import Convention, rle
from clipzoo.tasks.detection import Detection
from clipzoo.types import decode_image, image_size
from making import Bright, encoded, image, make_dataset

H, W = 12, 16
CLASSES = ("cat", "dog", "emu")


class Boxes(Expert):
    """Boxes, masks and scores by the first pixel, in a frame that is ``shrunk`` times smaller than the picture."""

    def __init__(self, shrunk: int = 1, asked: bool = False, masks: bool = True) -> None:
        self.card = ExpertCard("test:boxes", "detection", Convention(CLASSES), license="CC0-1.0", weights_sha256="02")
        self.shrunk, self.asked, self.masks = shrunk, asked, masks

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images):
        return [self.one(image) for image in images]

    def one(self, pixels) -> Detection:
        size = (pixels.shape[0] // self.shrunk, pixels.shape[1] // self.shrunk)
        rng = np.random.default_rng(int(pixels[0, 0, 0]))
        count = int(rng.integers(0, 4))
        corners = np.sort(rng.random((count, 2, 2)), 1) * 0.9
        boxes = np.concatenate([corners[:, 0], corners[:, 1] + 0.1], 1) * [*size[::-1], *size[::-1]]
        masks = [rle.encode(rng.random(size) > 0.5) if rng.random() > 0.3 else None for _ in range(count)]
        found = rng.integers(0, 3, count).astype(np.uint16)
        return Detection(
            size,
            boxes.astype(np.float32),
            found,
            rng.random(count).astype(np.float32),
            rng.random(count) > 0.7,
            tuple(masks) if self.masks and any(masks) else None,
            np.array([0, 2], np.uint16) if self.asked else None,
        )


def labels_of(store: Path) -> dict[str, Detection]:
    (column,) = Store(store).columns()
    return {row["key"]: column.label(s, row) for s, rows in column.tables() for row in rows.to_pylist()}


def exported(store: Path, data: Path, out: Path) -> dict:
    export_labels(store, data, "coco", out)
    return json.loads(out.read_text())


@pytest.mark.parametrize("asked", [False, True])
def test_coco_goes_out_and_comes_back_as_it_was(tmp_path, asked):
    data = make_dataset(tmp_path / "data")
    label(data, [Boxes(asked=asked)], tmp_path / "labels", check=False, progress=False)
    found = export_labels(tmp_path / "labels", data, "coco", tmp_path / "a.json")
    assert (found.column, found.pictures, found.left_out) == ("detection/test-boxes", 12, 0)
    answers = {"classes": "all", "masks": "yes", "scores": "yes"}
    import_labels(data, tmp_path / "a.json", "coco", answers, tmp_path / "again", progress=False)
    before, after = labels_of(tmp_path / "labels"), labels_of(tmp_path / "again")
    assert before.keys() == after.keys()
    assert sum(len(one.ids) for one in before.values()) > 5
    for key, one in before.items():
        for name in ("size", "masks"):
            assert getattr(after[key], name) == getattr(one, name)
        for name in ("boxes", "ids", "scores", "ignored", "asked"):
            np.testing.assert_array_equal(getattr(after[key], name), getattr(one, name), err_msg=name)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_pycocotools_reads_what_is_written(tmp_path, capsys):
    data = make_dataset(tmp_path / "data")
    label(data, [Boxes()], tmp_path / "labels", check=False, progress=False)
    exported(tmp_path / "labels", data, tmp_path / "a.json")
    truth, labels = COCO(str(tmp_path / "a.json")), labels_of(tmp_path / "labels")
    capsys.readouterr()
    assert [one["name"] for one in truth.loadCats(truth.getCatIds())] == list(CLASSES)
    for number in truth.getImgIds():
        (picture,) = truth.loadImgs(number)
        one, objects = labels[picture["file_name"].removesuffix(".png")], truth.loadAnns(truth.getAnnIds(number))
        assert [o["category_id"] - 1 for o in objects] == one.ids.tolist()
        assert [o["iscrowd"] for o in objects] == one.ignored.tolist()
        for o, mask in zip(objects, one.masks or (None,) * len(objects), strict=True):
            if mask is not None:
                assert o["area"] == rle.decode(mask, one.size).sum() == truth.annToMask(o).sum()


def test_boxes_and_masks_are_in_pixels_of_each_picture(tmp_path):
    """Of which one is turned by its EXIF orientation; frames are half as large."""
    sizes, members = [(24, 32), (36, 20), (24, 32)], []
    for i, size in enumerate(sizes):
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 2 else 1
        data = encoded(image(7 * i, size), "JPEG", exif=exif)
        members.append((f"{i}", {"jpg": data, "txt": b"x"}))
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "0.tar", members)
    label(tmp_path / "data", [Boxes(shrunk=2)], tmp_path / "labels", check=False, progress=False)
    found = exported(tmp_path / "labels", tmp_path / "data", tmp_path / "a.json")
    assert [(one["height"], one["width"]) for one in found["images"]] == [(24, 32), (36, 20), (32, 24)]
    assert [one["file_name"] for one in found["images"]] == ["0.jpg", "1.jpg", "2.jpg"]
    labels = labels_of(tmp_path / "labels")
    assert found["annotations"]
    for one in found["annotations"]:
        picture = found["images"][one["image_id"] - 1]
        own = labels[picture["file_name"][0]]
        row = [o["id"] for o in found["annotations"] if o["image_id"] == one["image_id"]].index(one["id"])
        x, y, w, h = one["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], 2 * own.boxes[row], atol=1 / 256)
        if "segmentation" in one:
            assert one["segmentation"]["size"] == [picture["height"], picture["width"]]
            assert one["area"] == 4 * rle.decode(own.masks[row], own.size).sum()


def test_samples_without_a_label_are_left_out_and_counted(tmp_path):
    data = make_dataset(tmp_path / "data")
    (tmp_path / "boxes.json").write_text(json.dumps({
        "images": [{"id": i, "file_name": f"{i:06d}.jpg", "height": H, "width": W} for i in range(10)],
        "categories": [{"id": 3, "name": "cat"}], "annotations": [],
    }))  # fmt: skip
    answers = {"classes": "all", "masks": "no"}
    import_labels(data, tmp_path / "boxes.json", "coco", answers, tmp_path / "out", max_failures=0.5, progress=False)
    words = ["export", tmp_path / "out", "--to", "coco", "--data", data, "--out", tmp_path / "b.json"]
    told = CliRunner().invoke(app, ["labels", *map(str, words)], catch_exceptions=False).output
    assert "detection/coco-boxes: 10 images in" in told
    assert "2 samples without a label skipped" in told
    found = json.loads((tmp_path / "b.json").read_text())
    assert (len(found["images"]), found["annotations"]) == (10, [])
    assert found["info"]["license"] == "unknown"


def test_names_of_pictures_in_tables_have_an_ending(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"image": [encoded(image(i), "JPEG") for i in range(3)], "caption": ["x"] * 3, "key": ["a", "b.c", "d/e"]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    data = tmp_path / "t.parquet"
    label(data, [Boxes()], tmp_path / "labels", check=False, progress=False)
    found = exported(tmp_path / "labels", data, tmp_path / "a.json")
    assert [one["file_name"] for one in found["images"]] == ["a.jpeg", "b.c.jpeg", "d/e.jpeg"]
    answers = {"classes": "all", "masks": "no"}
    assert import_labels(data, tmp_path / "a.json", "coco", answers, tmp_path / "o", progress=False).matched == 3


def test_what_cannot_be_exported_is_said(tmp_path):
    data = make_dataset(tmp_path / "data")
    label(data, [Bright()], tmp_path / "labels", check=False, progress=False)
    out = tmp_path / "a.json"
    with pytest.raises(
        StoreError, match=r"the format coco supports detection, and .* has no such column. It has: segm"
    ):
        export_labels(tmp_path / "labels", data, "coco", out)
    with pytest.raises(PluginError, match=r"no label format 'cocoo' .--to.; did you mean coco"):
        export_labels(tmp_path / "labels", data, "cocoo", out)
    label(data, [Boxes()], tmp_path / "labels", check=False, progress=False)
    with pytest.raises(StoreError, match="--column detection/x is not one of them"):
        export_labels(tmp_path / "labels", data, "coco", out, "detection/x")
    with pytest.raises(StoreError, match="is a label store of another dataset"):
        export_labels(tmp_path / "labels", make_dataset(tmp_path / "other", count=5), "coco", out)
    assert not out.exists()


def test_a_damaged_label_leaves_no_half_file(tmp_path):
    data = make_dataset(tmp_path / "data")
    label(data, [Boxes()], tmp_path / "labels", check=False, progress=False)
    tar = tmp_path / "labels" / "detection" / "test-boxes" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(StoreError, match="truncated"):
        export_labels(tmp_path / "labels", data, "coco", tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "labels"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_labels(tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    label(data, [Boxes()], tmp_path / "labels", check=False, progress=False)
    (column,) = Store(tmp_path / "labels").columns()
    one = max(labels_of(tmp_path / "labels").values(), key=lambda one: len(one.ids))
    peaks = []
    for count in (200, 2000):
        tracemalloc.start()
        pictures = (Labeled(f"{i}", f"{i}.jpg", one.size, one) for i in range(count))
        PLUGINS.load("coco").write(pictures, column, tmp_path / "a.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(json.loads((tmp_path / "a.json").read_text())["images"]) == count
    assert peaks[1] < peaks[0] + 200_000 < (tmp_path / "a.json").stat().st_size


def test_every_format_tells_what_it_holds_and_is_documented():
    text = (Path(__file__).parent.parent / "docs" / "labels.md").read_text()
    assert PLUGINS.names() == ("coco", "fiftyone", "hf", "png", "voc", "webdataset")
    for name in PLUGINS.names():
        module = PLUGINS.load(name)
        assert module.TASKS
        assert callable(module.write)
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("orientation", [None, 1, 2, 5, 6, 8, 99])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_size_of_a_picture_is_that_of_its_pixels(orientation, form):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    data = encoded(image(1, (24, 32)), form, exif=exif)
    assert image_size(data) == (decode_image(data).shape[:2], form.lower())
    with pytest.raises(ImageError, match="cannot read the size of the image"):
        image_size(b"none")
