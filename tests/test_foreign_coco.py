"""COCO files as annotation tools write them: accepted where they have one meaning, and counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from typer.testing import CliRunner

from clipzoo import experts, import_labels, tasks
from clipzoo.cli import app
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import ExpertInput
from clipzoo.store import Store, verify
from clipzoo.tasks import rle
from making import image, make_dataset

H, W = 12, 16
STAR = [1.3, 2.2, 14.6, 3.1, 6.5, 6.4, 12.9, 11.2, 3.2, 9.7]
BLOCK = np.zeros((H, W), bool)
BLOCK[3:7, 5:11] = True


def runs(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    return np.diff(edges).tolist()


def instances(**change: object) -> dict:
    """Two images of 6 pictures; an object with a mask, one with a box alone."""
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 3, 6, 4],
         "segmentation": {"size": [H, W], "counts": runs(BLOCK)}},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [1, 1, 2, 2], "segmentation": []},
        {"id": 3, "image_id": 3, "category_id": 5, "bbox": [2, 2, 9, 9], "segmentation": [STAR]},
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i:06d}.jpg", "height": H, "width": W} for i in range(6)]
    found = {"images": images, "categories": [{"id": 2, "name": "chair"}, {"id": 5, "name": "lamp"}]}
    return found | {"annotations": annotations} | change


def changed(part: str, number: int, **change: object) -> dict:
    values = instances()
    values[part][number] = {k: v for k, v in {**values[part][number], **change}.items() if v is not ...}
    return values


def written(folder: Path, values: dict) -> Path:
    (folder / "a.json").write_text(json.dumps(values))
    return folder / "a.json"


def look_up(path: Path, key: str = "000001", more: str = "", masks: str = "yes"):
    expert = experts.create(f"coco:{path}?classes=all&masks={masks}{more}")
    (found,) = expert.predict_inputs([ExpertInput(key, image(0, (H, W)))])
    tasks.get("detection").check(found, expert.card.convention)
    return found, expert


@pytest.mark.parametrize(
    ("part", "number", "change"),
    [
        ("annotations", 0, {"image_id": "1"}),
        ("annotations", 0, {"image_id": 1.0}),
        ("annotations", 0, {"category_id": "2"}),
        ("annotations", 0, {"category_id": 2.0}),
        ("annotations", 0, {"category_id": "02"}),
        ("images", 1, {"id": "1"}),
        ("images", 1, {"id": "0001"}),
        ("categories", 0, {"id": "2"}),
        ("categories", 0, {"id": "2.0"}),
    ],
)
def test_ids_of_another_type_are_the_ids_that_they_mean(tmp_path, part, number, change):
    label, expert = look_up(written(tmp_path, changed(part, number, **change)))
    names = [expert.card.convention.classes[i] for i in label.ids]
    assert names == ["chair", "lamp"]
    (told,) = [one for one in expert.notes if one.startswith("repaired: ")]
    assert "written as another type than the id" in told


@pytest.mark.parametrize("images", [[{"id": 1}, {"id": "1"}], [{"id": "1"}, {"id": "01"}]])
def test_ids_that_mean_two_images_are_none(tmp_path, images):
    images = [one | {"file_name": f"{i}.jpg", "height": H, "width": W} for i, one in enumerate(images)]
    annotations = [{"id": 1, "image_id": "001", "category_id": 2, "bbox": [1, 1, 2, 2]}]
    path = written(tmp_path, instances(images=images, annotations=annotations))
    with pytest.raises(ExpertError, match="as '001', that is of no image in it, or of two"):
        experts.create(f"coco:{path}?classes=all&masks=no")


def test_float_ids_of_images_and_half_ids(tmp_path):
    label, _ = look_up(written(tmp_path, changed("images", 1, id=1.0)), "1", "&match=id")
    assert len(label.ids) == 2
    with pytest.raises(ExpertError, match="no id that is a number or text"):
        experts.create(f"coco:{written(tmp_path, changed('images', 1, id=1.5))}?classes=all&masks=no")


@pytest.mark.parametrize("masks", ["yes", "no"])
@pytest.mark.parametrize("box", [..., None, []])
def test_a_missing_box_is_that_of_the_mask(tmp_path, masks, box):
    label, expert = look_up(written(tmp_path, changed("annotations", 0, bbox=box)), masks=masks)
    assert label.boxes.tolist() == [[5, 3, 11, 7], [1, 1, 3, 3]]
    assert expert.notes["repaired: bbox is missing and taken from the mask"] == 1
    with pytest.raises(SampleError, match="without a bbox and without a mask"):
        look_up(written(tmp_path, changed("annotations", 1, bbox=box)))


def test_objects_without_masks_keep_their_boxes(tmp_path):
    label, expert = look_up(written(tmp_path, instances()))
    assert len(label.masks) == 2
    assert label.masks[1] is None
    np.testing.assert_array_equal(rle.decode(label.masks[0], (H, W)), BLOCK)
    assert expert.notes == {"kept without a mask: objects that have a box alone": 1}
    task = tasks.get("detection")
    again = task.decode(task.encode(label))
    assert again.masks == label.masks
    assert task.hflip(label).masks[1] is None
    assert task.render(label, expert.card.convention).any()


def test_an_import_tells_what_was_repaired(tmp_path):
    data, path = make_dataset(tmp_path / "data", shards=1), written(tmp_path, changed("annotations", 0, image_id="1"))
    words = ["import", data, path, "--format", "coco", "--out", tmp_path / "out", "--set", "classes=all"]
    told = CliRunner().invoke(app, ["labels", *map(str, words), "--set", "masks=yes"], catch_exceptions=False).output
    assert "6 samples: 6 labeled, 0 failed" in told
    assert "1 × repaired: image_id written as another type than the id" in told
    assert "1 × kept without a mask: objects that have a box alone" in told
    assert verify(Store(tmp_path / "out")) == []


@pytest.mark.parametrize("told", [runs(BLOCK), [runs(BLOCK)]])
def test_run_lengths_given_as_a_polygon_are_recognized(tmp_path, told):
    with pytest.raises(SampleError, match=r'looks like run lengths.*"size": \[12, 16\], "counts"'):
        look_up(written(tmp_path, changed("annotations", 0, segmentation=told)))


def test_a_polygon_in_no_list_is_told_so(tmp_path):
    with pytest.raises(SampleError, match=r"a polygon that is in no list.*write a list of lists"):
        look_up(written(tmp_path, changed("annotations", 0, segmentation=STAR)))
    polygon = [0, 0, 0, 12, 16, 12, 16, 0, 16, 12, 16, 12, 16, 12, 10, 12, 10, 12, 8, 0]
    assert sum(polygon) == H * W, "and a polygon all the same: no corner is outside"
    assert look_up(written(tmp_path, changed("annotations", 0, segmentation=[polygon])))[0].masks[0]


def test_categories_of_one_name_are_renamed(tmp_path):
    path = written(tmp_path, changed("categories", 1, name="chair"))
    uri = f"coco:{path}?classes=all&masks=no"
    with pytest.raises(ExpertError, match=r"two categories are called 'chair', of the ids 2, 5.*rename=5:chair-2"):
        experts.create(uri)
    expert = experts.create(uri + "&rename=5:chair-2")
    assert expert.card.convention.classes == ("chair", "chair-2")
    assert expert.card.preprocessing["rename"] == "5:chair-2"
    assert experts.create(uri + "&rename=5:lamp,2:stool").card.convention.classes == ("stool", "lamp")
    for rename, reason in (
        ("7:x", "no category of the id 7; it has 2, 5"), ("5", "an id and a name"), ("5:,2:x", "an id and")
    ):  # fmt: skip
        with pytest.raises(ExpertError, match=reason):
            experts.create(f"{uri}&rename={rename}")


NAMES = [
    "..\\..\\label-studio\\media\\upload\\4\\{}.png", "C:\\data\\{}.jpg", "https://host/data/upload/1/{}.jpg",
    "s3://bucket/x/{}.jpg?X-Amz-Signature=a/b.c", "/data/local-files/?d=pictures/{}.jpg", "https://host/a%20b/{}.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_paths_and_addresses_of_tools_match_by_stems(tmp_path, name):
    values = instances()
    for one in values["images"]:
        one["file_name"] = name.format(f"{one['id']:06d}")
    data, path = make_dataset(tmp_path / "data", shards=1), written(tmp_path, values)
    assert len(look_up(path, more="&match=stem")[0].ids) == 2
    with pytest.raises(SampleError, match="match=stem finds '000001'"):
        look_up(path)
    answers = {"classes": "all", "masks": "no"}
    with pytest.raises(ExpertError, match=r"none of 6 samples .*: match=stem finds '000000'"):
        import_labels(data, path, "coco", answers, tmp_path / "out", progress=False)
    found = import_labels(data, path, "coco", answers | {"match": "stem"}, tmp_path / "out", progress=False)
    assert found.matched == 6


def test_voc_offers_stems_too(tmp_path):
    (tmp_path / "xml").mkdir()
    size = f"<size><width>{W}</width><height>{H}</height></size>"
    for i in range(3):
        (tmp_path / "xml" / f"{i:06d}.xml").write_text(f"<annotation>{size}</annotation>", encoding="utf-16")
        place = tmp_path / "data" / "sub" / f"{i:06d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".txt").write_text("x")
        Image.fromarray(image(i)).save(place.with_suffix(".png"))
    answers = {"classes": "cat", "origin": "1"}
    with pytest.raises(ExpertError, match="match=stem finds 'sub/000000'"):
        import_labels(tmp_path / "data", tmp_path / "xml", "voc", answers, tmp_path / "out", progress=False)
    answers["match"] = "stem"
    assert (
        import_labels(
            tmp_path / "data", tmp_path / "xml", "voc", answers, tmp_path / "out", progress=False
        ).column.labels
        == 3
    ), "XML of UTF-16 is read, too"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize(
    "head", ["<!DOCTYPE annotation>", '<!DOCTYPE a [<!ENTITY b "c">]>', '<!DOCTYPE a SYSTEM "b.dtd">']
)
def test_document_types_are_refused_in_every_encoding(tmp_path, encoding, head):
    text = f"{head}<annotation><size><width>{W}</width><height>{H}</height></size></annotation>"
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>' if encoding != "utf-16-be" else ""
    bom = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "000001.xml").write_bytes((bom + declared + text).encode(encoding))
    with pytest.raises(SampleError, match=r"a document type, which is not read: .*remove its"):
        experts.create(f"voc:{tmp_path}?classes=cat&origin=1").look_up("000001", (H, W))
    (tmp_path / "000001.xml").write_bytes((bom + declared + text.removeprefix(head)).encode(encoding))
    assert len(experts.create(f"voc:{tmp_path}?classes=cat&origin=1").look_up("000001", (H, W)).ids) == 0


def test_scores_are_read_where_they_are_asked_for(tmp_path):
    values = instances()
    for one, score in zip(values["annotations"], (0.25, 1, 0.5), strict=True):
        one["score"] = score
    path = written(tmp_path, values)
    assert look_up(path, more="&scores=yes")[0].scores.tolist() == [0.25, 1]
    assert look_up(path)[0].scores.tolist() == [1, 1]
    with pytest.raises(SampleError, match="no score from 0 to 1: None"):
        look_up(written(tmp_path, instances()), more="&scores=yes")


def test_masks_of_polygons_and_run_lengths_equal_pycocotools(tmp_path):
    (theirs,) = coco_masks.frPyObjects([STAR], H, W)
    assert look_up(written(tmp_path, instances()), "000003")[0].masks == (theirs["counts"].decode(),)
