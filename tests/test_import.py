"""Labels in the formats of others: every one means what it meant there, and what is unsound has a reason."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from clipzoo import experts, import_labels, tasks
from clipzoo.errors import DatasetError, ExpertError, SampleError, StoreError
from clipzoo.experts import ExpertInput, palettes
from clipzoo.importers import _polygons
from clipzoo.labeling import label
from clipzoo.labeling.colors import survey
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store
from clipzoo.tasks import rle
from making import encoded, image, make_dataset

RNG = np.random.default_rng(5)
H, W = 12, 16
STAR = [1.3, 2.2, 14.6, 3.1, 6.5, 6.4, 12.9, 11.2, 3.2, 9.7]
CORNER = [0, 0, 3, 0, 3, 3]
BIT = np.pad(RNG.random((4, 5)) > 0.5, ((3, 5), (6, 5)))


def test_masks_of_an_imagefolder_are_relative_to_their_table(tmp_path: Path) -> None:
    for value, part in enumerate(("train", "val")):
        folder = tmp_path / "data" / part
        (folder / "masks").mkdir(parents=True)
        (folder / "0.png").write_bytes(encoded(image(value)))
        Image.fromarray(np.full((H, W), value, np.uint8)).save(folder / "masks" / "0.png")
        row = {"file_name": "0.png", "text": "c", "mask": "masks/0.png"}
        (folder / "metadata.jsonl").write_text(json.dumps(row))
    meaning = {"label": "mask", "task": "segmentation", "classes": "floor,wall", "void": "none", "as": "x"}
    data, store = tmp_path / "data", tmp_path / "out"
    assert import_labels(data, data, "rows", meaning, store, progress=False).matched == 2
    column = Store(store).column("segmentation", "x")
    labels = {row["key"]: column.label(shard, row) for shard, rows in column.tables() for row in rows.to_pylist()}
    assert {key: int(label.ids.max()) for key, label in labels.items()} == {"train/0": 0, "val/0": 1}


def compressed(mask: np.ndarray) -> dict:
    found = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def theirs(run_lengths: dict) -> np.ndarray:
    """The mask that pycocotools decodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools on numpy 2
        return coco_masks.decode(run_lengths) > 0


def uncompressed(mask: np.ndarray) -> dict:
    flat = mask.ravel(order="F")
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    return {"size": [H, W], "counts": [0, *runs] if flat[0] else runs}


def instances() -> dict:
    """Six images of which one has no objects; categories out of order, every form of mask."""
    objects = [
        {"image_id": 0, "category_id": 7, "bbox": [1, 2, 10, 8], "iscrowd": 0, "segmentation": [STAR]},
        {"image_id": 0, "category_id": 3, "bbox": [5.5, 3.25, 4.5, 4], "iscrowd": 1, "segmentation": uncompressed(BIT)},
        {"image_id": 1, "category_id": 3, "bbox": [6, 3, 5, 4], "iscrowd": 0, "segmentation": compressed(BIT)},
        {"image_id": 2, "category_id": 7, "bbox": [-3, 5, 8, 20], "iscrowd": 0, "segmentation": [STAR, CORNER]},
    ]  # fmt: skip
    return {
        "images": [{"id": i, "file_name": f"{i:06d}.jpg", "height": H, "width": W} for i in range(6)],
        "categories": [{"id": 7, "name": "zebra"}, {"id": 3, "name": "car"}],
        "annotations": [{"id": i + 1, "area": 4.0, **one} for i, one in enumerate(objects)],
    }


def written(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def look_up(uri: str, key: str = "000000", size: tuple[int, int] = (H, W)):
    """The label of one key, sound by its task's contract."""
    expert = experts.create(uri)
    (found,) = expert.predict_inputs([ExpertInput(key, image(0, size))])
    tasks.get(expert.card.task).check(found, expert.card.convention)
    return found


def stored(out: Path) -> dict[str, object]:
    """Key -> label, or the reason why there is none, of a store's one column."""
    (column,) = Store(out).columns()
    rows = [(shard, row) for shard in column.committed() for row in column.rows(shard).to_pylist()]
    return {row["key"]: row["error"] or column.label(shard, row) for shard, row in rows}


# COCO ------------------------------------------------------------------------------------------------------


def test_coco_is_stored_as_pycocotools_reads_it(tmp_path):
    data, path = make_dataset(tmp_path / "data"), written(tmp_path / "a.json", instances())
    answers = {"classes": "all", "masks": "yes", "license": "CC-BY-4.0"}
    found = import_labels(str(data), str(path), "coco", answers, tmp_path / "out", max_failures=1, progress=False)
    assert (found.samples, found.matched, found.column.labels, found.column.failures) == (12, 6, 6, 6)
    (column,) = Store(tmp_path / "out").columns()
    assert column.convention.classes == ("car", "zebra")
    assert column.manifest.expert["licence"] == "CC-BY-4.0"
    assert len(column.manifest.expert["weights_sha256"]) == 64
    labels, truth = stored(tmp_path / "out"), COCO(str(path))
    for i in range(6):
        label, objects = labels[f"{i:06d}"], truth.loadAnns(truth.getAnnIds(imgIds=i))
        assert label.ids.tolist() == [sorted(truth.getCatIds()).index(o["category_id"]) for o in objects]
        assert label.ignored.tolist() == [bool(o["iscrowd"]) for o in objects]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (o["bbox"] for o in objects)]
        np.testing.assert_array_equal(label.boxes, np.clip(np.reshape(boxes, (-1, 4)), 0, [W, H, W, H]))
        for text, one in zip(label.masks or (), objects, strict=True):
            np.testing.assert_array_equal(rle.decode(text, (H, W)), theirs(truth.annToRLE(one)))
    assert "no image whose key is '000006'" in labels["000006"]


def test_polygons_are_those_of_the_coco_api():
    for corners in range(3, 12):
        for _ in range(30):
            polygon = (RNG.random((corners, 2)) * [W + 6, H + 6] - 3).round(int(RNG.integers(0, 4))).ravel().tolist()
            (run_lengths,) = coco_masks.frPyObjects([polygon], H, W)
            own = _polygons.filled([polygon], (H, W))
            np.testing.assert_array_equal(own, theirs(run_lengths), err_msg=str(polygon))


@pytest.mark.parametrize(
    ("polygon", "reason"),
    [
        ([1, 2, 3, 4], "fewer than three"),
        ([1, 2, 3], "no list x0"),
        (["a"] * 6, "no list"),
        ([0, 0, 1e9, 0, 0, 5], "far outside"),
    ],
)
def test_what_is_no_polygon_is_refused(polygon, reason):
    with pytest.raises(SampleError, match=reason):
        _polygons.filled([polygon], (H, W))


def test_an_endless_outline_is_refused():
    with pytest.raises(SampleError, match="pixels long"):
        _polygons.filled([[0, 0, 9e5, 9e5] * 20], (H, W))


def test_labels_match_by_whole_keys_stems_or_ids(tmp_path):
    values = instances()
    for one in values["images"]:
        one["file_name"] = f"val\\{one['file_name']}"
    path = written(tmp_path / "a.json", values)
    for match, key in (("key", "val/000001"), ("stem", "other/000001"), ("id", "1"), ("id", "x/0001")):
        assert len(look_up(f"coco:{path}?classes=all&masks=no&match={match}", key).ids) == 1
    with pytest.raises(SampleError, match="no image whose key is '000001'"):
        look_up(f"coco:{path}?classes=all&masks=no", "000001")


def test_what_lvis_looked_for_is_told(tmp_path):
    values = instances()
    values["categories"].append({"id": 9, "name": "dog"})
    values["images"][0] |= {"neg_category_ids": [9], "not_exhaustive_category_ids": []}
    values["images"][1] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [3]}
    values["images"][2] |= {"neg_category_ids": [3, 9], "not_exhaustive_category_ids": [7]}
    uri = f"coco:{written(tmp_path / 'a.json', values)}?masks=no&classes="
    asked = [look_up(uri + "all", f"{i:06d}").asked for i in range(4)]  # car, a crowd in the first; zebra; dog
    assert [None if ids is None else ids.tolist() for ids in asked] == [[1, 2], [], [0, 2], None]
    assert look_up(uri + "dog,car&others=drop", "000002").asked.tolist() == [0, 1]


def test_boxes_keep_the_frame_of_the_file(tmp_path):
    path = written(tmp_path / "a.json", instances())
    label = look_up(f"coco:{path}?classes=all&masks=no", size=(24, 32))
    assert (label.size, label.boxes[0].tolist(), label.masks) == ((H, W), [1, 2, 11, 10], None)
    with pytest.raises(SampleError, match="another aspect than that of the image: 16×12 for 12×16"):
        look_up(f"coco:{path}?classes=all&masks=no", size=(W, H))


def test_classes_that_are_left_out_are_spoken_of(tmp_path):
    uri = f"coco:{written(tmp_path / 'a.json', instances())}?masks=no&classes="
    with pytest.raises(ExpertError, match=r"also has car\. Add them to classes, or choose others="):
        experts.create(uri + "zebra")
    with pytest.raises(ExpertError, match="has no category 'zebar'; did you mean zebra"):
        experts.create(uri + "zebar,car")
    assert look_up(uri + "zebra&others=drop").ids.tolist() == [0]
    label = look_up(uri + "zebra&others=ignore")
    assert (label.ids.tolist(), label.ignored.tolist()) == ([0, 0], [False, True])
    assert look_up(uri + "zebra,car").ids.tolist() == [0, 1]


def test_a_box_without_area_is_left_out(tmp_path):
    """As Detectron2 and torchvision do; COCO's train2017 has two, and their pictures have other objects."""
    values = instances()
    whole = look_up(f"coco:{written(tmp_path / 'a.json', values)}?masks=no&classes=all")
    values["annotations"].append(values["annotations"][0] | {"id": 99, "bbox": [2, 2, 3, 0]})
    expert = experts.create(f"coco:{written(tmp_path / 'b.json', values)}?masks=no&classes=all")
    label = expert.look_up("000000", (H, W))
    np.testing.assert_array_equal(label.boxes, whole.boxes)
    assert expert.notes["left out: objects whose bbox has no area"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [20, 2, 3, 3]}, "outside of the picture"),
        ({"bbox": [2, 2, -1, 3]}, "a box without area"),
        ({"bbox": [2, 2, float("nan"), 3]}, "a box without area"),
        ({"bbox": [2, 2, 3]}, "not four numbers"),
        ({"bbox": None, "segmentation": None}, "without a bbox and without a mask"),
        ({"bbox": ["a", 1, 2, 3]}, "not four numbers"),
        ({"category_id": 99}, "an unknown category: 99"),
        ({"category_id": [1]}, "an unknown category"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "an object without a mask of the image's size"),
        ({"segmentation": {"size": [H, W], "counts": [9]}}, "run lengths that are no mask"),
        ({"segmentation": {"size": [H, W], "counts": "\x00"}}, "run lengths that are no mask"),
        ({"segmentation": {"size": [H, W], "counts": None}}, "run lengths that are no mask"),
    ],
)
def test_an_unsound_object_is_a_row_with_its_reason(tmp_path, change, reason):
    values = instances()
    values["annotations"][2] |= change
    data, path = make_dataset(tmp_path / "data", shards=1), written(tmp_path / "a.json", values)
    answers = {"classes": "all", "masks": "yes"}
    found = import_labels(str(data), str(path), "coco", answers, tmp_path / "out", max_failures=0.2, progress=False)
    assert (found.column.labels, found.column.failures) == (5, 1)
    assert reason in stored(tmp_path / "out")["000001"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot read .* as JSON"),
        ("[" * 100_000, "cannot read .* as JSON"),
        ("[]", "is no COCO JSON: an object"),
        ('{"info": 1}', "has no list 'images', but info"),
        ('{"images": [{"id": true}], "categories": [], "annotations": []}', "no id that is a number or text"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": []}', "1 has no file_name"),
    ],
)
def test_a_file_that_is_no_coco_json_is_refused(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ExpertError, match=reason):
        experts.create(f"coco:{tmp_path}/a.json?classes=all&masks=no")


@pytest.mark.parametrize(
    ("place", "change", "reason"),
    [
        (("images", 1), {"id": 0}, "two images have the id 0"),
        (("images", 1), {"file_name": "000000.png"}, "two images have the key '000000'"),
        (("categories", 1), {"id": 7}, "two categories have the id 7"),
        (("categories", 1), {"name": "zebra"}, "two categories are called 'zebra'"),
        (("annotations", 1), {"image_id": "x"}, "1 annotations have an image_id, as 'x', that is of no image in it"),
        (("annotations", 1), {"image_id": 0.5}, "no image_id that is a number or text"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, place, change, reason):
    values = instances()
    values[place[0]][place[1]] |= change
    with pytest.raises(ExpertError, match=reason):
        experts.create(f"coco:{written(tmp_path / 'a.json', values)}?classes=all&masks=no")


@pytest.mark.parametrize("size", [{"width": None}, {"height": 0}, {"width": 160_000, "height": 120_000}])
def test_a_frame_that_is_not_told_or_absurd_is_refused(tmp_path, size):
    values = instances()
    values["images"][0] |= size
    with pytest.raises(SampleError, match="does not tell the image's width and height, or more"):
        look_up(f"coco:{written(tmp_path / 'a.json', values)}?classes=all&masks=yes")


def test_a_key_that_names_no_file_has_no_label(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encoded(np.zeros((H, W), np.uint8)))
    write_shard(tmp_path / "data" / "0.tar", [(k, {"png": encoded(image(1)), "txt": b"x"}) for k in ("a", "b" * 250)])
    answers = {"task": "segmentation", "classes": "x", "void": "none", "suffix": ".label.png"}
    (tmp_path / "a.png").rename(tmp_path / "a.label.png")
    found = import_labels(
        str(tmp_path / "data"), str(tmp_path), "files", answers, tmp_path / "out", max_failures=0.5, progress=False
    )
    assert (found.samples, found.matched, found.column.labels, found.column.failures) == (2, 1, 1, 1)


def test_panoptic_maps_become_classes(tmp_path):
    values, numbers = instances(), RNG.choice([0, 5, 70_000, 16_000_001], (H, W))
    segments = [{"id": 5, "category_id": 3}, {"id": 70_000, "category_id": 7}, {"id": 16_000_001, "category_id": 3}]
    values["annotations"] = [{"image_id": 0, "file_name": "0.png", "segments_info": segments}]
    path = written(tmp_path / "p.json", values)
    Image.fromarray((numbers[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)).save(tmp_path / "0.png")
    label = look_up(f"panoptic:{path}?maps={tmp_path}&classes=all")
    np.testing.assert_array_equal(label.valid, numbers != 0)
    np.testing.assert_array_equal(label.ids, numbers == 70_000)
    label = look_up(f"panoptic:{path}?maps={tmp_path}&classes=zebra&others=drop")
    np.testing.assert_array_equal(label.valid, numbers == 70_000)
    with pytest.raises(SampleError, match="needs one annotation"):
        look_up(f"panoptic:{path}?maps={tmp_path}&classes=all", "000001")
    segments.pop()
    written(path, values)
    with pytest.raises(SampleError, match="not in the JSON: 16000001"):
        look_up(f"panoptic:{path}?maps={tmp_path}&classes=all")


# Pascal VOC ------------------------------------------------------------------------------------------------


def xml(objects: str, size: str = f"<width>{W}</width><height>{H}</height><depth>3</depth>") -> str:
    return f'<?xml version="1.0"?><!-- by hand --><annotation><size>{size}</size>{objects}</annotation>'


def thing(name: str, box: tuple, extra: str = "") -> str:
    sides = "".join(f"<{side}>{x}</{side}>" for side, x in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"


def test_voc_boxes_by_their_origin(tmp_path):
    (tmp_path / "000000.xml").write_text(
        xml(thing("dog", (1, 1, 16, 12), PART) + thing("cat", (3, 4, 5.5, 6), "<difficult>1</difficult>"))
    )
    label = look_up(f"voc:{tmp_path}?classes=cat,dog&origin=1")
    assert label.boxes.tolist() == [[0, 0, 16, 12], [2, 3, 5.5, 6]]
    assert (label.ids.tolist(), label.ignored.tolist(), label.size) == ([1, 0], [False, True], (H, W))
    assert look_up(f"voc:{tmp_path}?classes=cat,dog&origin=0").boxes.tolist() == [[1, 1, 16, 12], [3, 4, 5.5, 6]]
    assert look_up(f"voc:{tmp_path}?classes=cat&origin=0&others=drop&match=stem", "a/000000").ids.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "cannot read the annotation"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        ("<!DOCTYPE a><annotation/>".encode("utf-16"), "document type"),
        (xml("").encode("utf-16")[:-7], "cannot read the annotation"),
        (xml("", ""), "no number in <size/height>"),
        (xml("", "<width>0</width><height>0</height>"), "does not tell the image's width"),
        (xml("", "<width>inf</width><height>inf</height>"), "does not tell the image's width"),
        (xml(thing("cat", (5, 5, 4, 9))), "a box without area"),
        (xml(thing("cat", ("x", 5, 4, 9))), "no number in <bndbox/xmin>: 'x'"),
        (xml(thing("dgo", (1, 1, 4, 9))), "not in classes: 'dgo'; did you mean 'dog'"),
        (xml("<object><name>cat</name></object>"), "no number in <bndbox/xmin>: None"),
        ("<a>" + " " * 2**22 + "</a>", "too large"),
    ],
)
def test_unsound_xml_has_a_reason(tmp_path, text, reason):
    (tmp_path / "000000.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SampleError, match=reason):
        look_up(f"voc:{tmp_path}?classes=cat,dog&origin=1")
    for key in ("none", "../000000"):
        with pytest.raises(SampleError, match=r"no annotation|leads out"):
            look_up(f"voc:{tmp_path}?classes=cat,dog&origin=1", key)


def test_a_mended_json_is_another(tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    path, answers = tmp_path / "a.json", {"classes": "all", "masks": "no"}
    written(path, instances())
    import_labels(str(data), str(path), "coco", answers, tmp_path / "out", progress=False)
    written(path, instances() | {"info": "mended"})
    with pytest.raises(StoreError, match=r"weights_sha256 .* remove this column"):
        import_labels(str(data), str(path), "coco", answers, tmp_path / "out", progress=False)


# Rows ------------------------------------------------------------------------------------------------------


def table(path: Path, **columns: list) -> Path:
    pictures = [{"bytes": encoded(image(i)), "path": None} for i in range(4)]
    pq.write_table(pa.table({"image": pictures, "caption": ["a picture"] * 4, **columns}), path)
    return path


def saved(folder: Path, **columns: list) -> Path:
    """What save_to_disk of Hugging Face's datasets writes, as far as it is read."""
    folder.mkdir()
    pictures = [{"bytes": encoded(image(i)), "path": None} for i in range(4)]
    rows = pa.table({"image": pictures, "caption": ["a picture"] * 4, **columns})
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), rows.schema) as stream:
        stream.write_table(rows)
    written(folder / "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    return folder


@pytest.mark.parametrize("make", [table, saved])
def test_columns_of_masks_depth_and_objects(tmp_path, make):
    ids = RNG.integers(0, 3, (4, H, W)).astype(np.uint8)
    depth = RNG.integers(1, 9000, (4, H, W)).astype(np.uint16)
    objects = [{"bbox": [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 16.0, 12.0]], "category": [1, 0]}] * 3
    data = make(
        tmp_path / "rows.parquet",
        mask=[{"bytes": encoded(one), "path": None} for one in ids],
        depth=[encoded(one) for one in depth],
        objects=[*objects, {"bbox": [], "category": []}],
    )
    rows = f"rows:{data}?"
    found = import_labels(
        str(data), str(data), "rows", {"label": "mask", "task": "segmentation", "classes": "a,b", "void": "2"},
        tmp_path / "out", progress=False,
    )  # fmt: skip
    assert (found.matched, found.column.labels) == (4, 4)
    labels = stored(tmp_path / "out")
    for i, one in enumerate(ids):
        np.testing.assert_array_equal(labels[f"{i:08d}"].valid, one != 2)
        np.testing.assert_array_equal(labels[f"{i:08d}"].ids, np.where(one == 2, 0, one))
    meters = look_up(rows + "label=depth&task=depth&kind=metric&along=z&scale=0.001&invalid=none", "00000002")
    np.testing.assert_allclose(meters.values, depth[2] / 1000, rtol=1e-6)
    boxes = rows + "label=objects&task=detection&classes=cat,dog&unit=pixels&box="
    assert look_up(boxes + "xywh", "00000000").boxes.tolist() == [[1, 2, 4, 6], [0, 0, 16, 12]]
    assert look_up(boxes + "xywh", "00000000").ids.tolist() == [1, 0]
    assert len(look_up(boxes + "xyxy", "00000003").ids) == 0
    with pytest.raises(SampleError, match="no row"):
        look_up(boxes + "xyxy", "x")
    with pytest.raises(SampleError, match=r"no objects with 'bbox' and 'kind': bbox, category; name the fields"):
        look_up(boxes + "xyxy&names=kind", "00000000")
    with pytest.raises(DatasetError, match="no column 'maks'"):
        experts.create(rows + "label=maks&task=segmentation&classes=a&void=none")


def test_boxes_of_lists_of_mappings_relative_and_by_center(tmp_path):
    objects = [[{"where": [0.5, 0.5, 0.25, 0.5], "what": "dog"}], [], [{"where": [0.5, 0.5, 0, 1], "what": "dog"}], []]
    uri = f"rows:{table(tmp_path / 'a.parquet', objects=objects)}?label=objects&task=detection&classes=cat,dog"
    uri += "&boxes=where&names=what&box=cxcywh&unit=relative"
    label = look_up(uri, "00000000")
    assert (label.boxes.tolist(), label.ids.tolist()) == ([[6, 3, 10, 9]], [1])
    with pytest.raises(SampleError, match="without area"):
        look_up(uri, "00000002")


def test_rows_whose_keys_do_not_tell_them_apart_are_refused(tmp_path):
    masks = [encoded(np.zeros((H, W), np.uint8))] * 4
    for i in range(2):
        table(tmp_path / f"{i}.parquet", mask=masks, id=[f"{i}{j}" for j in range(4)])
    uri = f"rows:{tmp_path}?label=mask&task=segmentation&classes=a&void=none"
    with pytest.raises(ExpertError, match=r"two rows of .* have the key '00000000'"):
        experts.create(uri)
    assert look_up(uri + "&key=id", "13").valid.all()


# What is asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "findings"),
    [
        ("coco:a.json", ["classes is missing: all", "masks is missing"]),
        (
            "coco:a.json?masks=maybe&box=xywh",
            ["classes is missing", "masks=maybe: must be 'yes' or 'no'", "box is not an option of labels"],
        ),
        ("voc:.?origin=2", ["classes is missing", "origin=2: must be '1' or '0'"]),
        ("panoptic:a.json", ["classes is missing", "maps is missing"]),
        ("coco:a.json?classes=all", ["masks is missing: yes", "others is optional: .*drop", "match is optional"]),
        ("rows:a.parquet", ["label is missing", "task is missing: .*detection", "detection: box = xyxy"]),
        ("rows:a.parquet?task=depth", ["label is missing", "kind is missing: metric", "scale is missing"]),
        (
            "rows:a.parquet?task=detection",
            ["label is missing", "classes is missing", "box is missing", "unit is missing"],
        ),
        ("rows:a.parquet?task=depth&label=", ["label=: String should have at least 1 character", "kind is missing"]),
        ("rows:a.parquet?label=x&task=detection", ["classes is missing", "box is missing: xyxy", "unit is missing"]),
        ("rows:a.parquet?label=x&task=depth", ["rows: labels of depth", "kind is missing", "scale is", "invalid is"]),
        (
            "files:.?task=segmentation&classes=palette:ade&void=none",
            ["there is no palette 'ade'; there are: binary, voc"],
        ),
    ],
)
def test_all_that_is_open_is_asked_at_once(uri, findings):
    for finding in findings:
        with pytest.raises(ExpertError, match=finding):
            experts.create(uri)


def test_nothing_matches_or_two_match_one(tmp_path):
    values = instances()
    data, path = make_dataset(tmp_path / "data"), written(tmp_path / "a.json", values)
    for one in values["images"]:
        one["file_name"] = "x" + one["file_name"]
    other = written(tmp_path / "b.json", values)
    answers = {"classes": "all", "masks": "no"}
    with pytest.raises(ExpertError, match=r"none of 12 samples .* Examples of their keys: '000000', '000001'"):
        import_labels(str(data), str(other), "coco", answers, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    folder = tmp_path / "folder"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "000000.png").write_bytes(encoded(image(1)))
        (folder / name / "000000.txt").write_text("a picture")
    with pytest.raises(ExpertError, match="'a/000000' and 'b/000000' would both get the label '000000'"):
        import_labels(str(folder), str(path), "coco", answers | {"match": "stem"}, tmp_path / "out", progress=False)
    with pytest.raises(ExpertError, match="there are: coco, files"):
        import_labels(str(data), str(path), "demo", {}, tmp_path / "out")


@pytest.mark.parametrize("form", ["tars", "tables"])
def test_one_key_in_two_shards_is_two_samples(tmp_path, form):
    """Keys are unique in a shard only."""
    for i, name in enumerate(("a", "b")):
        data = tmp_path / "data" / name
        if form == "tars":
            write_shard(data.with_suffix(".tar"), [("00000000", {"png": encoded(image(i)), "txt": b"x"})])
        else:
            data.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"image": [encoded(image(i))], "caption": ["x"]}), data.with_suffix(".parquet"))
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "masks" / "00000000.png")
    answers = {"task": "segmentation", "classes": "a,b", "void": "none"}
    said = r"samples '00000000' of the shards 'a.*' and 'b.*' would both get the label .*\?key="
    with pytest.raises(ExpertError, match=said):
        import_labels(str(tmp_path / "data"), str(tmp_path / "masks"), "files", answers, tmp_path / "out")
    uri = f"files:{tmp_path / 'masks'}?task=segmentation&classes=a,b&void=none"
    with pytest.raises(ExpertError, match=said):
        label(tmp_path / "data", uri, tmp_path / "out", progress=False)
    (column,) = Store(tmp_path / "out").columns()
    assert not column.committed()


# Colors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["voc", "cityscapes"])
def test_masks_in_the_colors_of_a_palette_are_recognized_and_read(tmp_path, name):
    known = list(palettes.palettes()[name].values())
    ids = RNG.integers(0, len(known) + 1, (H, W))
    colors = np.array([*known, palettes.VOID[name][0]], np.uint8)
    Image.fromarray(colors[ids]).save(tmp_path / "000000.png")
    found = survey(tmp_path)
    assert sum(found.shares.values()) == pytest.approx(1)
    told = dict(one.split("=", 1) for one in found.advice.split() if "=" in one)
    assert set(told) == {"task", "classes", "void"}
    label = look_up(f"files:{tmp_path}?" + "&".join(f"{k}={v}" for k, v in told.items()))
    np.testing.assert_array_equal(label.valid, ids < len(known))
    np.testing.assert_array_equal(label.ids, np.where(ids < len(known), ids, 0))


def test_the_colors_of_voc_are_those_of_its_development_kit():
    colors = palettes.palettes()["voc"]
    assert colors["aeroplane"] == (128, 0, 0)
    assert colors["person"] == (192, 128, 128)
    assert colors["tvmonitor"] == (0, 64, 128)


def test_unknown_colors_are_listed_and_not_named(tmp_path):
    Image.fromarray(np.array([[[1, 2, 3], [1, 2, 3]], [[9, 9, 9], [1, 2, 3]]], np.uint8)).save(tmp_path / "a.png")
    found = survey(tmp_path)
    assert found.shares == {"#010203": 0.75, "#090909": 0.25}
    assert "no known palette" in found.advice
    assert "  1 2 3 NAME\n  9 9 9 NAME" in found.advice
    Image.fromarray(image(1, (40, 40))).save(tmp_path / "b.png")
    with pytest.raises(ExpertError, match="more than 512 colors"):
        survey(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpertError, match="has no PNG"):
        survey(tmp_path / "empty")
    with pytest.raises(ExpertError, match="none is not a folder"):
        survey(tmp_path / "none")


def test_the_void_of_colors_is_a_color(tmp_path):
    (tmp_path / "names.txt").write_text("0 0 0 floor\n0 0 200 dog\n")
    uri = f"files:{tmp_path}?task=segmentation&classes=@{tmp_path}/names.txt&void="
    with pytest.raises(ExpertError, match="Write void=#c80000"):
        experts.create(uri + "200,0,0")
    with pytest.raises(ExpertError, match="Write void=#rrggbb"):
        experts.create(uri + "255")
    assert experts.create(uri + "%23c80000").card.convention.classes == ("floor", "dog")


def test_a_file_of_names_that_lacks_its_sign_is_no_class(tmp_path):
    (tmp_path / "names.txt").write_text("floor\ndog\n")
    with pytest.raises(ExpertError, match=r"is a file, not a class; @.*names.txt reads the names"):
        experts.create(f"files:{tmp_path}?task=segmentation&classes={tmp_path}/names.txt&void=none")
