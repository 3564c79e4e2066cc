"""Published benchmarks as they lie on disk: every convention of the files is read, and other folders are explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageNetInfo
from typer.testing import CliRunner

from clipzoo.benchmarks import PLUGINS, Benchmark, open_benchmark, read_split
from clipzoo.cli import app
from clipzoo.errors import ClipzooError, DatasetError, SampleError
from clipzoo.tasks.detection import Detection

H, W = 24, 32


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(values).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def png(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette([i % 256 for i in range(768)])
    image.save(path)


def text(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines)


def labels(benchmark: Benchmark, task: str) -> list[Any]:
    """Return the true labels in the order of the keys."""
    entries = [entry for shard in benchmark.shards for entry in benchmark.reader.index(shard)]
    return [load() if load else None for load in benchmark.labels[task].loaders(entries)]


def streamed(benchmark: Benchmark, task: str) -> Any:
    """Stream the benchmark as evaluation does, and return the first label at 12×16."""
    split = read_split(benchmark, (12, 16))
    assert next(split.batches()).shape[1:] == (12, 16, 3)
    return split.truth[task].labels[0]


# PASCAL VOC ------------------------------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for i, key in enumerate(("2007_000033", "2007_000042", "2007_000061")):
        picture(root / f"JPEGImages/{key}.jpg", i)
        ids = np.zeros((H, W), np.uint8)
        ids[:4], ids[-4:], ids[:, :2] = 1, 20, 255
        png(root / f"SegmentationClass/{key}.png", ids, palette=True)
        context = np.full((H, W), 59, np.uint8)
        context[0] = 0
        png(root / f"SegmentationClassContext/{key}.png", context)
        objects = "".join(
            f"<object><name>{name}</name><difficult>{difficult}</difficult>"
            "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>16</xmax><ymax>12</ymax></bndbox></object>"
            for name, difficult in (("cat", 0), ("dog", 1))
        )
        size = f"<size><width>{W}</width><height>{H}</height></size>"
        text(root / f"Annotations/{key}.xml", f"<annotation>{size}{objects}</annotation>")
    text(root / "ImageSets/Segmentation/val.txt", "2007_000033\n2007_000042\n")
    text(root / "ImageSets/Segmentation/train.txt", "2007_000061\n")
    text(root / "ImageSets/SegmentationContext/val.txt", "2007_000033\n")
    text(root / "ImageSets/Main/val.txt", "2007_000033 -1\n2007_000042  1\n")
    return root


def test_voc_segmentation_has_background_and_void(voc):
    opened = open_benchmark(f"voc:{voc}?split=val")
    first, second = labels(opened, "segmentation")
    assert opened.labels["segmentation"].convention.classes[:2] == ("background", "aeroplane")
    assert len(opened.labels["segmentation"].convention.classes) == 21
    assert (first.ids[0, 5], first.ids[10, 5], first.ids[-1, 5]) == (1, 0, 20)
    assert not first.valid[:, :2].any()
    assert first.valid[:, 2:].all()
    assert second.ids.shape == (H, W)
    assert streamed(opened, "segmentation").ids.shape == (12, 16)


def test_voc_lists_lead_to_no_other_folder(voc):
    (voc / "ImageSets/Segmentation/bad.txt").write_text("../../secret\n")
    with pytest.raises(DatasetError, match="leads out of the folder"):
        open_benchmark(f"voc:{voc}?split=bad")


def test_voc_context_numbers_its_59_classes_from_1(voc):
    (label,) = labels(open_benchmark(f"voc:{voc}?task=context"), "segmentation")
    classes = open_benchmark(f"voc:{voc}?task=context").labels["segmentation"].convention.classes
    assert (len(classes), classes[-1]) == (59, "wood")
    assert not label.valid[0].any()
    assert (label.ids[1:] == 58).all()


def test_voc_detection_counts_pixels_from_1_and_ignores_difficult_objects(voc):
    label = labels(open_benchmark(f"voc:{voc}?task=detection"), "detection")[0]
    assert isinstance(label, Detection)
    assert label.boxes.tolist() == [[0, 2, 16, 12]] * 2
    assert label.ignored.tolist() == [False, True]


def test_a_folder_above_or_below_is_explained(voc):
    for folder in (voc.parent, voc.parent.parent, voc / "JPEGImages"):
        with pytest.raises(DatasetError, match=rf"has no .*; it has .*use voc:{voc}$"):
            open_benchmark(f"voc:{folder}")
    with pytest.raises(DatasetError, match="there is no folder"):
        open_benchmark(f"voc:{voc}/elsewhere")


def test_unknown_options_are_explained(voc):
    with pytest.raises(DatasetError, match=r"there is no option 'spilt'; did you mean split"):
        open_benchmark(f"voc:{voc}?spilt=val")
    with pytest.raises(DatasetError, match=r"task=segmentatoin is unknown; did you mean segmentation"):
        open_benchmark(f"voc:{voc}?task=segmentatoin")
    with pytest.raises(DatasetError, match="not of the form name=value"):
        open_benchmark(f"voc:{voc}?split")


def test_a_missing_picture_is_left_out_and_counted(voc):
    (voc / "JPEGImages/2007_000042.jpg").unlink()
    split = read_split(open_benchmark(f"voc:{voc}"), (12, 16))
    assert split.keys == ("2007_000033",)
    assert [*split.left_out] == [f"the picture {voc / 'JPEGImages/2007_000042.jpg'} is missing"]


def test_the_identity_changes_with_a_label(voc):
    before = read_split(open_benchmark(f"voc:{voc}"), (12, 16)).identity
    assert read_split(open_benchmark(f"voc:{voc}"), (12, 16)).identity == before
    png(voc / "SegmentationClass/2007_000033.png", np.ones((H, W), np.uint8), palette=True)
    assert read_split(open_benchmark(f"voc:{voc}"), (12, 16)).identity != before


# ADE20K ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    rows = ["Idx\tRatio\tTrain\tVal\tName"]
    names = {1: "wall", 2: "building, edifice", 3: "screen, screen door", 4: "screen, silver screen"}
    rows += [f"{i}\t0.1\t10\t2\t{names.get(i, f'thing {i}, other {i}')}" for i in range(1, 151)]
    text(root / "objectInfo150.txt", "\n".join(rows))
    for i in range(2):
        picture(root / f"images/validation/ADE_val_{i:08d}.jpg", i)
        values = np.full((H, W), 150, np.uint8)
        values[0], values[1] = 0, 2
        png(root / f"annotations/validation/ADE_val_{i:08d}.png", values)
    return root


def test_ade20k_shifts_its_150_classes(ade):
    opened = open_benchmark(f"ade20k:{ade}")
    classes = opened.labels["segmentation"].convention.classes
    assert len(classes) == 150
    assert classes[:4] == ("wall", "building", "screen, screen door", "screen, silver screen")
    label = labels(opened, "segmentation")[0]
    assert not label.valid[0].any()
    assert (label.ids[1] == 1).all()
    assert (label.ids[2:] == 149).all()
    with pytest.raises(DatasetError, match="has no images/training"):
        open_benchmark(f"ade20k:{ade}?split=training")


def test_ade20k_needs_all_its_classes(ade):
    text(ade / "objectInfo150.txt", "Idx\tName\n1\twall\n")
    with pytest.raises(DatasetError, match="a line for each class from 1 to 150"):
        open_benchmark(f"ade20k:{ade}")


# COCO ------------------------------------------------------------------------------------------------------


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    images, annotations, captions = [], [], []
    for i in (7, 9):
        name = f"{i:012d}.jpg"
        picture(root / f"val2017/{name}", i)
        images.append({"id": i, "file_name": name, "height": H, "width": W})
        mask = [[0, 0, 8, 0, 8, 6, 0, 6]]
        common = {"image_id": i, "bbox": [0, 0, 8, 6], "area": 48, "segmentation": mask}
        annotations += [
            {**common, "id": i, "category_id": 90, "iscrowd": 0},
            {**common, "id": i + 50, "category_id": 1},
        ]
        captions += [{"image_id": i, "caption": f"a {word} thing\n"} for word in ("red", "blue")]
    categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    everything = {"images": images, "categories": categories, "annotations": annotations}
    text(root / "annotations/instances_val2017.json", json.dumps(everything))
    text(root / "annotations/captions_val2017.json", json.dumps({"images": images, "annotations": captions}))
    for image in images:
        colors = np.zeros((H, W, 3), np.uint8)
        colors[:12, :, 0], colors[12:, :, 1] = 5, 1  # segments 5 and 256
        png(root / "annotations/panoptic_val2017" / image["file_name"].replace("jpg", "png"), colors)
    segments = [
        {
            "image_id": image["id"], "file_name": image["file_name"].replace("jpg", "png"),
            "segments_info": [{"id": 5, "category_id": 1}, {"id": 256, "category_id": 90}],
        }
        for image in images
    ]  # fmt: skip
    text(root / "annotations/panoptic_val2017.json", json.dumps({**everything, "annotations": segments}))
    return root


def test_coco_detection_has_boxes_masks_and_captions(coco):
    opened = open_benchmark(f"coco:{coco}")
    label = labels(opened, "detection")[0]
    assert opened.labels["detection"].convention.classes == ("person", "toothbrush")
    assert sorted(label.ids.tolist()) == [0, 1]
    assert label.boxes[0].tolist() == [0, 0, 8, 6]
    split = read_split(opened, (12, 16))
    assert split.captions == (("a red thing", "a blue thing"),) * 2


def test_coco_panoptic_is_segmentation(coco):
    label = labels(open_benchmark(f"coco:{coco}?task=panoptic"), "segmentation")[1]
    assert (label.ids[0, 0], label.ids[-1, 0]) == (0, 1)
    assert label.valid.all()


# Cityscapes ------------------------------------------------------------------------------------------------


def test_cityscapes_has_19_classes(tmp_path):
    key = "aachen/aachen_000000_000019"
    picture(tmp_path / f"leftImg8bit/val/{key}_leftImg8bit.png")
    ids = np.zeros((H, W), np.uint8)
    ids[:5], ids[5:10], ids[10:15] = 7, 33, 29  # road, bicycle, caravan
    png(tmp_path / f"gtFine/val/{key}_gtFine_labelIds.png", ids)
    opened = open_benchmark(f"cityscapes:{tmp_path}")
    (label,) = labels(opened, "segmentation")
    assert len(opened.labels["segmentation"].convention.classes) == 19
    assert (label.ids[0, 0], label.ids[5, 0]) == (0, 18)
    assert not label.valid[10:].any()


# Depth -----------------------------------------------------------------------------------------------------


def test_the_labeled_file_of_nyu_has_reversed_axes(tmp_path):
    h5py, scipy_io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    images = np.random.default_rng(0).integers(0, 256, (3, 480, 640, 3), np.uint8)
    depths = np.linspace(1, 12, 3 * 480 * 640, dtype=np.float32).reshape(3, 480, 640)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["depths"] = images.transpose(0, 3, 2, 1), depths.transpose(0, 2, 1)
        file["rawDepths"] = 0 * depths.transpose(0, 2, 1)
    place = f"nyu:{tmp_path / 'nyu_depth_v2_labeled.mat'}"
    with pytest.raises(DatasetError, match=r"there is no .*splits\.mat"):
        open_benchmark(place)
    scipy_io.savemat(tmp_path / "splits.mat", {"testNdxs": [[1], [3]], "trainNdxs": [[2]]})
    opened = open_benchmark(place)
    entries = opened.reader.index("00000")
    assert [entry.key for entry in entries] == ["0001", "0003"]
    split = read_split(opened, (480, 640))
    assert (split.images[1] == images[2]).all()
    first, second = labels(opened, "depth")
    assert first.valid[45:471, 41:601].all()
    assert first.valid.sum() == 426 * 560
    assert first.values[100, 200] == depths[0, 100, 200]
    assert not second.valid[depths[2] > 10].any()
    (whole,) = labels(open_benchmark(f"{place}?split=train&crop=none"), "depth")
    assert whole.valid.all()
    assert not labels(open_benchmark(f"{place}?depth=raw"), "depth")[0].valid.any()


def test_nyu_reads_pairs_of_files(tmp_path):
    picture(tmp_path / "bathroom/rgb_00045.jpg", size=(480, 640))
    codes = np.full((480, 640), 2500, np.uint16)
    codes[200], codes[201] = 0, 11000
    png(tmp_path / "bathroom/sync_depth_00045.png", codes)
    opened = open_benchmark(f"nyu:{tmp_path}")
    (label,) = labels(opened, "depth")
    assert label.values[100, 100] == 2.5
    assert not label.valid[200:202].any()
    assert not label.valid[:45].any()


def test_kitti_reads_256ths_and_crops(tmp_path):
    name = "2011_09_26_drive_0002_sync_{}_0000000005_image_02.png"
    picture(tmp_path / f"image/{name.format('image')}", size=(352, 1216))
    codes = np.full((352, 1216), 256 * 20, np.uint16)
    codes[200] = 0
    png(tmp_path / f"groundtruth_depth/{name.format('groundtruth_depth')}", codes)
    (garg,) = labels(open_benchmark(f"kitti:{tmp_path}"), "depth")
    (whole,) = labels(open_benchmark(f"kitti:{tmp_path}?crop=none"), "depth")
    assert garg.values[160, 600] == 20
    assert not garg.valid[:143].any()
    assert garg.valid[150, 50]
    assert not garg.valid[150, 40]
    assert whole.valid.sum() == 351 * 1216


def test_sun_rgbd_unrotates_its_bits(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    millimeters = np.full((H, W), 3210, np.uint16)
    millimeters[0] = 0
    rotated = ((millimeters << 3) | (millimeters >> 13)).astype(np.uint16)
    for i, (name, scene) in enumerate((("kv1/NYUdata/NYU0001", "home_office"), ("xtion/a/b", "bedroom"))):
        picture(tmp_path / f"{name}/image/NYU0001.jpg", i)
        png(tmp_path / f"{name}/depth_bfx/NYU0001.png", rotated)
        text(tmp_path / f"{name}/scene.txt", scene)
    opened = open_benchmark(f"sunrgbd:{tmp_path}")
    label = labels(opened, "depth")[0]
    assert label.values[5, 5] == pytest.approx(3.21)
    assert not label.valid[0].any()
    assert opened.classnames == ("bedroom", "home office")
    assert read_split(opened, (12, 16)).targets == (1, 0)
    listed = np.array(["/n/fs/sun3d/data/SUNRGBD/xtion/a/b"], object)
    scipy_io.savemat(tmp_path / "allsplit.mat", {"alltest": listed})
    part = open_benchmark(f"sunrgbd:{tmp_path}?split=test&splits={tmp_path / 'allsplit.mat'}")
    assert [entry.key for entry in part.reader.index("00000")] == ["xtion/a/b"]
    assert part.classnames == opened.classnames, "classifiers compare splits by their classes"
    assert read_split(part, (12, 16)).targets == (0,)
    with pytest.raises(DatasetError, match=r"needs the allsplit\.mat"):
        open_benchmark(f"sunrgbd:{tmp_path}?split=test")


def test_diode_has_a_mask_and_must_be_told_the_direction(tmp_path):
    base = tmp_path / "scene_00019/scan_00183"
    picture(base / "x_indoors_000_010.png")
    depth = np.full((H, W, 1), 4.5, np.float32)
    np.save(base / "x_indoors_000_010_depth.npy", depth)
    np.save(base / "x_indoors_000_010_depth_mask.npy", np.arange(H * W).reshape(H, W) % 2)
    with pytest.raises(DatasetError, match="say what depth is measured along"):
        open_benchmark(f"diode:{tmp_path}")
    (label,) = labels(open_benchmark(f"diode:{tmp_path}?along=z"), "depth")
    assert label.values[0, 1] == 4.5
    assert not label.valid[0, 0]


def test_hypersim_measures_along_the_ray(tmp_path):
    h5py = pytest.importorskip("h5py")
    picture(tmp_path / "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg")
    values = np.full((H, W), 2.0, np.float16)
    values[0] = np.nan
    geometry = tmp_path / "ai_001_001/images/scene_cam_00_geometry_hdf5"
    geometry.mkdir(parents=True)
    with h5py.File(geometry / "frame.0000.depth_meters.hdf5", "w") as file:
        file["dataset"] = values
    opened = open_benchmark(f"hypersim:{tmp_path}")
    (label,) = labels(opened, "depth")
    assert opened.conventions["depth"].along == "ray"
    assert not label.valid[0].any()
    assert (label.values[1:] == 2).all()


# Classes and captions --------------------------------------------------------------------------------------


def test_folders_are_classes(tmp_path):
    for i, name in enumerate(("black_cat", "dog")):
        picture(tmp_path / f"val/{name}/a.jpg", i)
    opened = open_benchmark(f"imagefolder:{tmp_path / 'val'}")
    assert opened.classnames == ("black cat", "dog")
    assert read_split(opened, (12, 16)).targets == (0, 1)
    text(tmp_path / "classnames.txt", "a black cat\n")
    with pytest.raises(DatasetError, match=r"2 folders, but classnames\.txt has 1 lines"):
        open_benchmark(f"imagefolder:{tmp_path / 'val'}")


def test_imagenet_has_the_names_and_templates_of_openclip(tmp_path):
    for name in ImageNetInfo().label_names():
        (tmp_path / name).mkdir()
    picture(tmp_path / "n01443537/x.JPEG")
    opened = open_benchmark(f"imagefolder:{tmp_path}")
    assert (opened.classnames[0], len(opened.classnames)) == ("tench", 1000)
    assert len(opened.templates) == 80
    assert "a bad photo of a {c}." in opened.templates
    assert read_split(opened, (12, 16)).targets == (1,)


def test_karpathys_captions(tmp_path):
    picture(tmp_path / "pictures/val2014/COCO_val2014_000000000042.jpg")
    one = {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "split": "test"}
    one["sentences"] = [{"raw": "A red\nthing."}, {"raw": "Another."}]
    text(tmp_path / "dataset_coco.json", json.dumps({"images": [one, {**one, "split": "train"}]}))
    place = f"karpathy:{tmp_path / 'dataset_coco.json'}?images={tmp_path / 'pictures'}"
    assert read_split(open_benchmark(place), (12, 16)).captions == (("A red thing.", "Another."),)
    with pytest.raises(DatasetError, match="has no split 'val'"):
        open_benchmark(f"{place}&split=val")
    other = {**one, "filename": "COCO_val2014_000000000042.png"}
    text(tmp_path / "dataset_coco.json", json.dumps({"images": [one, other]}))
    with pytest.raises(DatasetError, match="have the same key 'val2014/COCO_val2014_000000000042'"):
        open_benchmark(place)


def test_one_list_is_split_into_parts(voc):
    text(voc / "ImageSets/Segmentation/val.txt", "2007_000061\n2007_000033\n2007_000042\n")
    keys = [read_split(open_benchmark(f"voc:{voc}?part={part}"), (12, 16)).keys for part in ("0/2", "1-1/2")]
    assert keys == [("2007_000033", "2007_000061"), ("2007_000042",)]
    for part in ("2/2", "1", "1-0/2", "a/b"):
        with pytest.raises(DatasetError, match="is not a part"):
            open_benchmark(f"voc:{voc}?part={part}")


# Everywhere ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sorted(set(PLUGINS.names()) - {"webdataset", "karpathy"}))
def test_an_empty_folder_is_explained(layout, tmp_path):
    (tmp_path / "some.zip").touch()
    with pytest.raises(ClipzooError) as raised:
        open_benchmark(f"{layout}:{tmp_path}" + ("?along=z" if layout == "diode" else ""))
    assert layout in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_addresses_are_refused():
    with pytest.raises(DatasetError, match="copy it there"):
        open_benchmark("voc:s3://bucket/VOC2012")


def test_a_damaged_label_names_its_file(voc):
    (voc / "SegmentationClass/2007_000033.png").write_bytes(b"no png")
    with pytest.raises(SampleError, match=r"cannot decode the label .*2007_000033\.png"):
        labels(open_benchmark(f"voc:{voc}"), "segmentation")


def test_a_published_dataset_is_measured_on(voc, tiny_clip, tmp_path):
    keys = [f"2008_{i:06d}" for i in range(20)]
    for i, key in enumerate(keys):
        picture(voc / f"JPEGImages/{key}.jpg", i)
        ids = np.zeros((H, W), np.uint8)
        ids[: 4 + i % 8], ids[-1] = 1 + i % 2, 255
        png(voc / f"SegmentationClass/{key}.png", ids, palette=True)
    text(voc / "ImageSets/Segmentation/train.txt", "\n".join(keys[:12]))
    text(voc / "ImageSets/Segmentation/val.txt", "\n".join(keys[12:]))
    places = {"probe": "split=train&part=1-4/5", "validation": "split=train&part=0/5", "test": "split=val"}
    options = [part for split, query in places.items() for part in (f"--{split}", f"voc:{voc}?{query}")]
    model = f"open_clip:{tiny_clip.removeprefix('local-dir:')}"
    options += ["--model", model, "--out", str(tmp_path / "out"), "--label-size", "16"]
    done = CliRunner().invoke(app, ["eval", *options])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["images"] == {"segmentation": 8}
    assert results["arms"][model]["segmentation/accuracy"]["mean"] > 0.3
    options[1] = f"voc:{voc}?split=train"  # has the pictures of validation
    done = CliRunner().invoke(app, ["eval", *options])
    assert "whose images are those of" in " ".join(str(done.exception).split())
