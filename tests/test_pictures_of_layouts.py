"""Every picture in the folder of a benchmark is read or refused; lists are read in the encodings of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo

from clipzoo import experts
from clipzoo.benchmarks import Benchmark, open_benchmark, read_split
from clipzoo.benchmarks._published.listing import below, inside
from clipzoo.errors import DatasetError
from making import make_dataset
from test_layouts import H, W, picture, png, text


def keys(opened: Benchmark) -> list[str]:
    return [entry.key for shard in opened.shards for entry in opened.reader.index(shard)]


# Folders ---------------------------------------------------------------------------------------------------


def test_linked_folders_are_listed_once_and_loops_end(tmp_path):
    for name in ("root/b/1.txt", "root/.hidden/2.txt", "root/.3.txt", "other/c/4.txt", "root/b/d/5.txt"):
        text(tmp_path / name, "")
    (tmp_path / "root/a").symlink_to(tmp_path / "root/b")
    (tmp_path / "root/b/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/z").symlink_to(tmp_path / "other")
    found = [path.relative_to(tmp_path / "root").as_posix() for path in below(tmp_path / "root")]
    assert found == ["b/1.txt", "b/d/5.txt", "z/c/4.txt"], "a folder keeps its own name"
    assert inside(tmp_path / "root/b") == [tmp_path / "root/b/1.txt"]
    with pytest.raises(DatasetError, match=r"cannot list .*none .*make it readable"):
        list(below(tmp_path / "none"))


@pytest.mark.parametrize("location", ["imagefolder:{}", "diode:{}?along=z", "scannet:{}", "voc:{}"])
def test_a_missing_folder_is_named(location, tmp_path):
    with pytest.raises(DatasetError, match=r"there is no folder .*none; check the path"):
        open_benchmark(location.format(tmp_path / "none"))


def test_two_pictures_of_one_key_are_refused(tmp_path):
    picture(tmp_path / "c/a.JPEG")
    assert keys(open_benchmark(f"imagefolder:{tmp_path}")) == ["c/a"]
    picture(tmp_path / "c/a.png")
    with pytest.raises(DatasetError, match=r"c/a\.JPEG and .*c/a\.png have the same key 'c/a'.*Rename or remove one"):
        open_benchmark(f"imagefolder:{tmp_path}")


def test_pictures_of_all_formats_are_read(tmp_path):
    names = ["a.bmp", "b.tif", "c.gif", "d.WEBP", "e.Jpg", "f.avif"]
    for name in names:
        picture(tmp_path / "c" / name)
    picture(tmp_path / "c/._a.bmp.png")
    picture(tmp_path / ".ipynb_checkpoints/a.png")
    opened = open_benchmark(f"imagefolder:{tmp_path}")
    assert (keys(opened), opened.classnames) == ([f"c/{name[0]}" for name in names], ("c",))


def coco(root: Path) -> None:
    names = ["1.jpg", "2.JPG", "3.png"]
    for name in [*names, "4.png"]:
        picture(root / "val2017" / name)
    images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in enumerate(names, 1)]
    values = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": []}
    text(root / "annotations/instances_val2017.json", json.dumps(values))
    captions = [{"image_id": image["id"], "caption": f"caption {image['id']}"} for image in images]
    text(root / "annotations/captions_val2017.json", json.dumps({"images": images, "annotations": captions}))


def test_coco_reads_every_picture_that_its_file_lists(tmp_path):
    coco(tmp_path)
    split = read_split(open_benchmark(f"coco:{tmp_path}"), (12, 16))
    assert (split.keys, split.captions) == (("1", "2", "3"), (("caption 1",), ("caption 2",), ("caption 3",)))
    picture(tmp_path / "val2017/2.png")
    with pytest.raises(DatasetError, match=r"2\.JPG and .*2\.png have the same key '2'"):
        open_benchmark(f"coco:{tmp_path}")


def test_a_picture_of_coco_has_its_captions_if_the_case_of_its_ending_differs(tmp_path):
    coco(tmp_path)
    (tmp_path / "val2017/1.jpg").rename(tmp_path / "val2017/1.JPG")
    assert read_split(open_benchmark(f"coco:{tmp_path}"), (12, 16)).captions[0] == ("caption 1",)


def diode(root: Path) -> None:
    picture(root / "scene/scan/x.png")
    np.save(root / "scene/scan/x_depth.npy", np.ones((H, W), np.float32))
    np.save(root / "scene/scan/x_depth_mask.npy", np.ones((H, W)))
    np.save(root / "scene/scan/x_normal.npy", np.ones((H, W, 3), np.float32))


def nyu(root: Path) -> None:
    picture(root / "kitchen/rgb_1.jpg")


def hypersim(root: Path) -> None:
    picture(root / "ai_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg")


def sunrgbd(root: Path) -> None:
    picture(root / "kv1/NYU0001/image/NYU0001.jpg")


def classes(root: Path) -> None:
    picture(root / "cat/x/1.jpg")


def ade20k(root: Path) -> None:
    picture(root / "images/training/indoor/ADE_1.jpg")
    picture(root / "images/training/indoor/ADE_1_seg.png")
    scipy = pytest.importorskip("scipy.io")
    scipy.savemat(root / "index_ade20k.mat", {"index": {"objectnames": np.array(["wall", "sky"], object)}})


@pytest.mark.parametrize(
    ("location", "make", "key", "moved"),
    [
        ("diode:{}?along=z", diode, "scene/scan/x", "scene/scan"),
        ("diode:{}?task=normals&frame=x-right,y-down,z-toward", diode, "scene/scan/x", "scene"),
        ("nyu:{}", nyu, "kitchen/rgb_1", "kitchen"),
        ("hypersim:{}", hypersim, "ai_001/images/scene_cam_00_final_preview/frame.0000", "ai_001"),
        ("sunrgbd:{}", sunrgbd, "kv1/NYU0001", "kv1"),
        ("imagefolder:{}", classes, "cat/x/1", "cat/x"),
        ("ade20k:{}?split=training", ade20k, "ADE_1", "images/training/indoor"),
    ],
)
def test_layouts_follow_links_to_folders(location, make, key, moved, tmp_path):
    make(tmp_path / "root")
    assert keys(open_benchmark(location.format(tmp_path / "root"))) == [key]
    (tmp_path / "root" / moved).rename(tmp_path / "disk")
    (tmp_path / "root" / moved).symlink_to(tmp_path / "disk", target_is_directory=True)
    assert keys(open_benchmark(location.format(tmp_path / "root"))) == [key]


def test_the_case_of_endings_does_not_matter_in_fixed_layouts(tmp_path):
    picture(tmp_path / "b/images/test/1.JPG")
    (tmp_path / "b/groundTruth/test").mkdir(parents=True)
    picture(tmp_path / "k/image/2_image_3.PNG")
    (tmp_path / "k/groundtruth_depth").mkdir()
    picture(tmp_path / "s/scene0/color/4.JPG")
    picture(tmp_path / "c/leftImg8bit/val/aachen/5_leftImg8bit.PNG")
    (tmp_path / "c/gtFine").mkdir()
    picture(tmp_path / "d/x.PNG")
    np.save(tmp_path / "d/x_depth.npy", np.ones((H, W), np.float32))
    locations = [f"bsds:{tmp_path}/b", f"kitti:{tmp_path}/k", f"scannet:{tmp_path}/s", f"cityscapes:{tmp_path}/c"]
    found = [keys(open_benchmark(location)) for location in [*locations, f"diode:{tmp_path}/d?along=z"]]
    assert found == [["1"], ["2_image_3"], ["scene0/4"], ["aachen/5"], ["x"]]


def test_a_linked_folder_of_tars_is_the_test_split(tmp_path):
    make_dataset(tmp_path / "bench/images/train", shards=1)
    make_dataset(tmp_path / "disk/test", shards=1)
    (tmp_path / "bench/images/test").symlink_to(tmp_path / "disk/test")
    assert open_benchmark(tmp_path / "bench").shards == ("test/00000",)


# Classes ---------------------------------------------------------------------------------------------------


def test_some_classes_of_imagenet_have_their_names_and_templates(tmp_path):
    picture(tmp_path / "n01443537/x.JPEG")
    picture(tmp_path / "n01484850/x.JPEG")
    opened = open_benchmark(f"imagefolder:{tmp_path}")
    assert (opened.classnames, len(opened.templates)) == (("goldfish", "great white shark"), 80)
    text(tmp_path / "classnames.txt", "one\ntwo\n")
    opened = open_benchmark(f"imagefolder:{tmp_path}")
    assert (opened.classnames, opened.templates) == (("one", "two"), ("{c}",)), "as before"


def test_other_wordnet_ids_need_names(tmp_path):
    picture(tmp_path / "n00000001/x.JPEG")
    for name in ImageNetInfo().label_names()[1:]:
        (tmp_path / name).mkdir()
    with pytest.raises(DatasetError, match=r"1 of 1000 are not among .* such as n00000001.* Write .*classnames\.txt"):
        open_benchmark(f"imagefolder:{tmp_path}")
    text(tmp_path / "classnames.txt", "".join(f"class {i}\n" for i in range(1000)))
    assert open_benchmark(f"imagefolder:{tmp_path}").classnames[1] == "class 1"


@pytest.mark.parametrize("line", ["a photo of a {}.", "a photo"])
def test_templates_without_a_place_for_the_class_are_refused(line, tmp_path):
    picture(tmp_path / "f/cat/x.jpg")
    make_dataset(tmp_path / "w/images", shards=1)
    for folder in ("f", "w/images"):
        text(tmp_path / folder / "zeroshot_classification_templates.txt", f"a {{c}}.\n{line}\n")
    for location in (f"imagefolder:{tmp_path / 'f'}", tmp_path / "w"):
        with pytest.raises(DatasetError, match=r"has the template 'a photo.*' without \{c\}.*sed -i 's/\{\}/\{c\}/g'"):
            open_benchmark(location)


# Encodings -------------------------------------------------------------------------------------------------


def test_marks_and_blanks_are_no_part_of_names(tmp_path):
    names, data = tmp_path / "classnames.txt", "\ufeffcat \r\n\r\n dog\t\r\n".encode()
    picture(tmp_path / "1/x.jpg")
    picture(tmp_path / "2/x.jpg")
    names.write_bytes(data)
    assert open_benchmark(f"imagefolder:{tmp_path}").classnames == ("cat", "dog")
    names.write_bytes("\ufeffcat\ndog\n".encode())
    assert experts.options.parse_names(f"@{names}") == ("cat", "dog"), "also the classes of imported labels"


def voc(root: Path) -> Path:
    picture(root / "JPEGImages/1.jpg")
    picture(root / "JPEGImages/2.TIF")
    for key in "12":
        png(root / f"SegmentationClass/{key}.png", np.zeros((H, W), np.uint8))
    path = root / "ImageSets/Segmentation/val.txt"
    text(path, "")
    return path


def test_the_first_picture_of_a_list_with_a_mark_is_read(tmp_path):
    voc(tmp_path).write_bytes("\ufeff1\n2\n".encode())
    assert read_split(open_benchmark(f"voc:{tmp_path}"), (12, 16)).keys == ("1", "2")


def scenes(root: Path) -> str:
    (root / "scenes.txt").write_bytes("scene_é".encode("latin1"))
    picture(root / "scene0/color/1.jpg")
    return f"scannet:{root}?scenes={root / 'scenes.txt'}"


def sun_scene(root: Path) -> str:
    sunrgbd(root)
    (root / "kv1/NYU0001/scene.txt").write_bytes("café".encode("latin1"))
    return f"sunrgbd:{root}"


def places(root: Path) -> str:
    picture(root / "val_256/1.jpg")
    text(root / "places365_val.txt", "1.jpg 0\n")
    (root / "categories_places365.txt").write_bytes("/c/café 0\n".encode("latin1"))
    return f"places365:{root}"


def ade_names(root: Path) -> str:
    picture(root / "images/validation/1.jpg")
    png(root / "annotations/validation/1.png", np.zeros((H, W), np.uint8))
    (root / "objectInfo150.txt").write_bytes("1\t0\té\n".encode("latin1"))
    return f"ade20k:{root}"


def wide_list(root: Path) -> str:
    voc(root).write_bytes("1\n2\n".encode("utf-16"))
    return f"voc:{root}"


def class_list(root: Path) -> str:
    picture(root / "1/x.jpg")
    (root / "classnames.txt").write_bytes("café".encode("latin1"))
    return f"imagefolder:{root}"


@pytest.mark.parametrize("make", [scenes, sun_scene, places, ade_names, wide_list, class_list])
def test_lists_that_are_not_utf_8_are_explained(make, tmp_path):
    encoding = "utf-16" if make is wide_list else "latin1"
    with pytest.raises(DatasetError, match=rf"\.txt is not UTF-8 .*iconv -f {encoding} -t utf-8 .*&& mv "):
        open_benchmark(make(tmp_path))
