"""Sizes of pictures and labels, and values of other programs' label files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipzoo import experts, import_labels
from clipzoo.errors import SampleError
from clipzoo.importers.base import same_aspect
from clipzoo.store import Store
from clipzoo.types import FORMATS, decode_image, image_size
from making import encoded, image


def turned(form: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image(orientation, (12, 16)), form, exif=exif, **options)


@pytest.mark.parametrize("form", [name for name in FORMATS if name in {*Image.registered_extensions().values()}])
def test_the_size_of_a_file_is_that_of_the_decoded_picture(form):
    for orientation in range(1, 9):
        data = turned(form, orientation)
        assert image_size(data)[0] == decode_image(data).shape[:2], orientation
    assert form != "TIFF" or image_size(turned(form, 6, big_tiff=True))[0] == (16, 12)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ((3002, 4000), (384, 512)), ((384, 512), (3002, 4000)), ((427, 640), (149, 224)), ((149, 224), (427, 640)),
        ((150, 224), (427, 640)), ((480, 640), (480, 640)), ((7, 10), (3, 5)),
    ],
)  # fmt: skip
def test_a_label_of_a_resized_picture_fits(label, shown):
    same_aspect(label, shown, "x")


@pytest.mark.parametrize(
    ("label", "shown"), [((224, 224), (427, 640)), ((480, 640), (640, 480)), ((427, 640), (147, 224))]
)
def test_a_label_of_another_aspect_is_refused(label, shown):
    for pair in ((label, shown), (shown, label)):
        with pytest.raises(SampleError, match="another aspect"):
            same_aspect(*pair, "x")


def test_a_table_of_labels_alone_is_imported(tmp_path):
    mask = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) % 2
    (tmp_path / "data").mkdir()
    lines = {"data/a.csv": ["key,image,caption", "k,k.png,text"], "labels.csv": ["key,mask", "k,data/m.png"]}
    for name, rows in lines.items():
        (tmp_path / name).write_text("\n".join(rows) + "\n")
    (tmp_path / "data/k.png").write_bytes(encoded(image(0, (12, 16))))
    (tmp_path / "data/m.png").write_bytes(encoded(mask))
    given = {"label": "mask", "task": "segmentation", "classes": "a,b", "void": "none"}
    import_labels(tmp_path / "data/a.csv", tmp_path / "labels.csv", "rows", given, tmp_path / "out", progress=False)
    (column,) = Store(tmp_path / "out").columns()
    ((shard, rows),) = column.tables()
    np.testing.assert_array_equal(column.label(shard, rows.to_pylist()[0]).ids, mask)


@pytest.mark.parametrize(
    ("crowd", "ignored"),
    [("0", False), ("1", True), (" 0 ", False), ("", False), ("false", False), ("True", True), ("0.0", False),
     (0, False), (1, True), (None, False), (False, False), (True, True)],
)  # fmt: skip
def test_crowds_may_be_numbers_as_text(crowd, ignored, tmp_path):
    assert look_up_crowd(crowd, tmp_path).ignored.tolist() == [ignored]


def test_other_text_for_crowds_is_refused(tmp_path):
    with pytest.raises(SampleError, match="iscrowd is neither 0 nor 1: 'maybe'; fix the file"):
        look_up_crowd("maybe", tmp_path)


def look_up_crowd(crowd, folder):
    values = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": crowd}],
    }
    (folder / "a.json").write_text(json.dumps(values))
    return experts.create(f"coco:{folder / 'a.json'}?classes=all&masks=no").look_up("a", (12, 16))
