"""Places365 and single frames of ScanNet as they lie on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.errors import DatasetError
from test_layouts import labels, picture, png, text


@pytest.fixture
def places(tmp_path: Path) -> Path:
    text(tmp_path / "categories_places365.txt", "/a/airfield 0\n/c/church/indoor 1\n/b/bus_station/indoor 2\n")
    text(tmp_path / "places365_val.txt", "Places365_val_00000001.jpg 2\nPlaces365_val_00000002.jpg 0\n")
    for i in (1, 2):
        picture(tmp_path / f"val_256/Places365_val_{i:08d}.jpg", i)
    return tmp_path


def test_places365_has_classes_by_list(places):
    opened = open_benchmark(f"places365:{places}")
    assert opened.classnames == ("airfield", "church indoor", "bus station indoor")
    assert read_split(opened, (12, 16)).targets == (2, 0)


def test_places365_trains_on_the_pictures_of_its_list(places):
    text(places / "places365_train_standard.txt", "/a/airfield/00000001.jpg 0\n/c/church/indoor/00000007.jpg 1\n")
    picture(places / "data_256/a/airfield/00000001.jpg", 1)
    picture(places / "data_256/c/church/indoor/00000007.jpg", 2)
    opened = open_benchmark(f"places365:{places}?split=train")
    split = read_split(opened, (12, 16))
    assert split.keys == ("a/airfield/00000001", "c/church/indoor/00000007")
    assert split.targets == (0, 1)
    assert opened.classnames == open_benchmark(f"places365:{places}").classnames


def test_other_files_of_places365_are_explained(places):
    text(places / "places365_val.txt", "Places365_val_00000001.jpg 9\n")
    with pytest.raises(DatasetError, match=r"the class 9, but .* has 3 classes\. Give both files of one release"):
        open_benchmark(f"places365:{places}")
    text(places / "places365_val.txt", "Places365_val_00000001.jpg 1\nPlaces365_val_00000001.png 1\n")
    with pytest.raises(DatasetError, match="have the same key 'Places365_val_00000001'"):
        open_benchmark(f"places365:{places}")
    text(places / "places365_val.txt", "Places365_val_00000001.jpg\n")
    with pytest.raises(DatasetError, match="each line is a name, a space and a number"):
        open_benchmark(f"places365:{places}")
    (places / "places365_val.txt").unlink()
    with pytest.raises(DatasetError, match=r"has no places365_val\.txt; it has "):
        open_benchmark(f"places365:{places}")


@pytest.fixture
def scannet(tmp_path: Path) -> Path:
    for scene in ("scene0000_00", "scene0011_00"):
        picture(tmp_path / scene / "color/000100.jpg", 1, (48, 64))
        depth = np.full((24, 32), 2500, np.uint16)
        depth[0] = 0
        png(tmp_path / scene / "depth/000100.png", depth)
    text(tmp_path / "scannetv2_val.txt", "scene0011_00\nscene0015_00\n")
    return tmp_path


def test_scannet_is_millimeters_and_smaller_than_its_pictures(scannet):
    opened = open_benchmark(f"scannet:{scannet}")
    first, _ = labels(opened, "depth")
    assert (first.kind, first.along, first.values.shape) == ("metric", "z", (24, 32))
    assert first.values[5, 5] == pytest.approx(2.5)
    assert not first.valid[0].any()
    some = open_benchmark(f"scannet:{scannet}?scenes={scannet / 'scannetv2_val.txt'}")
    assert [entry.key for shard in some.shards for entry in some.reader.index(shard)] == ["scene0011_00/000100"]


def test_other_folders_of_scannet_are_explained(scannet):
    with pytest.raises(DatasetError, match=r"there is no picture in .*scene\*/color\. This layout is"):
        open_benchmark(f"scannet:{scannet / 'scene0000_00'}")
    with pytest.raises(DatasetError, match="there is no list of scenes"):
        open_benchmark(f"scannet:{scannet}?scenes=val")
