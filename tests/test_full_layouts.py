"""Normals of NYU Depth v2 and DIODE, the full release of ADE20K, and COCO-Stuff, each with its conventions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from pycocotools import mask as coco_masks
from scipy.io import savemat

from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.errors import DatasetError, RecipeError, SampleError
from clipzoo.runs.before.preflight import check_locations
from test_layouts import H, W, labels, picture, png, streamed, text

FRAME = "frame=x-right,y-down,z-toward"
DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)


def normal_maps(unknown: bool = True) -> np.ndarray:
    """Return vectors [H,W,3] in x right, y down, z toward: thirds from left to right; the first row is unknown."""
    maps = np.repeat(DIRECTIONS, [10, 10, W - 20], axis=0)[None].repeat(H, 0)
    if unknown:
        maps[0] = 0
    return maps


def colors(maps: np.ndarray) -> np.ndarray:
    return np.round((maps + 1) * 127.5).astype(np.uint8)


def check_vectors(label, tolerance: float = 1e-6) -> None:
    """The frame of the maps, with y turned up, and an unknown first row."""
    expected = normal_maps(False) * [1, -1, 1]
    assert label.vectors[:, 1:].transpose(1, 2, 0) == pytest.approx(expected[1:], abs=tolerance)
    assert not label.valid[0].any()


# NYU Depth v2 -----------------------------------------------------------------------------------------------

ROWS, COLUMNS = 96, 128


def room() -> tuple[np.ndarray, np.ndarray]:
    """Return depth [H,W] of a room with a left wall, a floor and a wall, and its normals: x right, y down, z toward."""
    fx, fy, cx, cy = (np.array([518.86, 519.47, 325.58, 253.74]) / 5).tolist()
    columns, rows = np.meshgrid(np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5)
    places = np.stack([fx / np.maximum(cx - columns, 1e-3), 0.8 * fy / np.maximum(rows - cy, 1e-3), 0 * rows + 3])
    surface = places.argmin(0)
    directions = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]], np.float32)
    return places.min(0).astype(np.float32), directions[surface]


DEPTH, TRUE = room()


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, COLUMNS, ROWS), np.uint8)
    depth = np.stack([DEPTH.T] * 3)  # the file's axes are reversed
    raw = depth.copy()
    raw[:, :, 1] = 0
    with h5py.File(path, "w") as file:
        file["images"], file["depths"], file["rawDepths"] = pictures, depth, raw
    savemat(tmp_path / "splits.mat", {"testNdxs": [[1], [3]], "trainNdxs": [[2]]})
    return path


def check_room(label, tolerance: float, first: int) -> None:
    assert label.valid[first:].all(), "there is no crop by default"
    assert not label.valid[:first].any()
    assert label.vectors[:, first:].transpose(1, 2, 0) == pytest.approx((TRUE * [1, -1, 1])[first:], abs=tolerance)


def unknown_top(maps: np.ndarray, rows: int) -> np.ndarray:
    return np.where(np.arange(ROWS)[:, None, None] < rows, 0, maps)


def test_ladickys_normals_of_nyu_are_pictures_counted_from_1_and_known_where_kinect_measured(nyu):
    maps = colors(unknown_top(TRUE, 1))
    for name in ("test/00001", "test/00003", "train/00002"):
        png(nyu.parent / f"nyu_normals_gt/{name}.png", maps)
    opened = open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}")
    for label in labels(opened, "normals"):
        check_room(label, 0.01, 2)  # row 0 is gray, and rawDepths is 0 in row 1
    assert streamed(opened, "normals").valid.any()
    assert len(labels(open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}&split=train"), "normals")) == 1
    cut = open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}&crop=eigen")
    assert not labels(cut, "normals")[0].valid[:, 0].any()
    assert cut.labels["normals"].identity() != opened.labels["normals"].identity()


@pytest.mark.parametrize("frame", ["x-right,y-up,z-toward", "x-left,y-down,z-toward", "x-right,y-down,z-forward"])
def test_a_frame_that_disagrees_with_the_depth_is_refused_with_the_right_one(frame, nyu):
    for name in ("test/00001", "test/00003"):
        png(nyu.parent / f"nyu_normals_gt/{name}.png", colors(TRUE))
    with pytest.raises(DatasetError, match=r"mean cosine is .* Write frame=x-right,y-down,z-toward$"):
        open_benchmark(f"nyu:{nyu}?task=normals&frame={frame}")


def test_two_splits_of_the_labeled_file_share_no_pictures(nyu):
    check_locations({"probe": f"nyu:{nyu}?split=train", "test": f"nyu:{nyu}"})
    check_locations({"validation": f"nyu:{nyu}?part=0/2", "test": f"nyu:{nyu}?part=1/2"})
    with pytest.raises(RecipeError, match="give each its own pictures"):
        check_locations({"validation": f"nyu:{nyu}?part=0/2", "test": f"nyu:{nyu}"})


def test_channels_in_another_order_are_found_by_the_depth(nyu):
    for name in ("test/00001", "test/00003"):
        png(nyu.parent / f"nyu_normals_gt/{name}.png", colors(-TRUE[..., [2, 0, 1]]))
    with pytest.raises(DatasetError, match=r"and 1\.00 with another frame\. Write frame=x-forward,y-left,z-up$"):
        open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}")
    right = open_benchmark(f"nyu:{nyu}?task=normals&frame=x-forward,y-left,z-up")
    vectors = labels(right, "normals")[0].vectors
    assert vectors[:, 2:].transpose(1, 2, 0) == pytest.approx((TRUE * [1, -1, 1])[2:], abs=0.01)


def test_eigens_normals_of_nyu_are_counted_from_0_and_have_masks(nyu, tmp_path):
    for row in (0, 2):
        png(tmp_path / f"normals_gt/normals/{row:04d}.png", colors(TRUE))
        mask = np.full((ROWS, COLUMNS), 255, np.uint8)
        mask[0] = 0
        png(tmp_path / f"normals_gt/masks/{row:04d}.png", mask)
    for label in labels(open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}"), "normals"):
        check_room(label, 0.01, 1)


def test_normals_of_marr_revisited_are_matlab_files(nyu, tmp_path):
    valid = np.ones((ROWS, COLUMNS))
    valid[0] = 0
    (tmp_path / "other").mkdir()
    for number in (1, 3):
        nx, ny, nz = TRUE.transpose(2, 0, 1)
        savemat(tmp_path / f"other/nm_{number:06d}.mat", {"nx": nx, "ny": ny, "nz": nz, "depthValid": valid})
    first, _ = labels(open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}&normals={tmp_path / 'other'}"), "normals")
    check_room(first, 1e-6, 1)


def test_missing_normals_and_frames_of_nyu_are_explained(nyu):
    with pytest.raises(DatasetError, match=r"say where the channels of the normals point.*frame=x-right,y-up,z-toward"):
        open_benchmark(f"nyu:{nyu}?task=normals")
    with pytest.raises(DatasetError, match="does not name three axes"):
        open_benchmark(f"nyu:{nyu}?task=normals&frame=x-right,y-right,z-toward")
    with pytest.raises(DatasetError, match=r"no normals of picture 1 in .*nyu_normals_gt.*normals=PATH"):
        open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}")
    png(nyu.parent / "nyu_normals_gt/test/00001.png", np.zeros((ROWS, COLUMNS), np.uint8))
    with pytest.raises(SampleError, match="normals are stored as RGB"):
        open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}")
    png(nyu.parent / "nyu_normals_gt/test/00001.png", colors(TRUE))
    with pytest.raises(SampleError, match=r"cannot read the label .*00003\.png"):
        open_benchmark(f"nyu:{nyu}?task=normals&{FRAME}")


# DIODE ------------------------------------------------------------------------------------------------------


def test_diode_has_normals_in_an_archive_of_its_own(tmp_path):
    name = "val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010"
    picture(tmp_path / f"{name}.png")
    np.save(tmp_path / f"{name}_normal.npy", normal_maps())
    check_vectors(labels(open_benchmark(f"diode:{tmp_path}/val?task=normals&{FRAME}"), "normals")[0])
    (tmp_path / f"val_normals/{name}").parent.mkdir(parents=True)
    (tmp_path / f"{name}_normal.npy").rename(tmp_path / f"val_normals/{name}_normal.npy")
    apart = f"diode:{tmp_path}/val?task=normals&{FRAME}&normals={tmp_path}/val_normals"
    check_vectors(labels(open_benchmark(f"{apart}/val"), "normals")[0])
    with pytest.raises(DatasetError, match=r"but .*/val has no val/indoors/.*Give folders of the same level"):
        open_benchmark(apart)
    with pytest.raises(DatasetError, match="diode: say where the channels of the normals point"):
        open_benchmark(f"diode:{tmp_path}/val?task=normals")
    with pytest.raises(DatasetError, match=r"no picture in .*_normal\.npy"):
        open_benchmark(f"diode:{tmp_path}/val?task=normals&{FRAME}")
    np.save(tmp_path / f"val_normals/{name}_normal.npy", normal_maps()[..., 0])
    with pytest.raises(SampleError, match=r"normals have \[H,W,3\]"):
        labels(open_benchmark(f"{apart}/val"), "normals")


# ADE20K -----------------------------------------------------------------------------------------------------


NAMES = [f"thing {i}" for i in range(1, 601)]
NAMES[400], NAMES[9], NAMES[10], NAMES[11] = "car, auto, automobile", "screen, door", "screen, wall", "screen, door"


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    root = tmp_path / "ADE20K_2021_17_01"
    for split, short in (("training", "train"), ("validation", "val")):
        key = f"images/ADE/{split}/urban/street/ADE_{short}_00000001"
        picture(root / f"{key}.jpg")
        codes = np.zeros((H, W, 3), np.uint8)
        codes[4:8], codes[8:12], codes[12:16] = (10, 145, 1), (0, 1, 2), (19, 145, 3)
        png(root / f"{key}_seg.png", codes)
        png(root / f"{key}_parts_1.png", codes)
    (root / "index_ade20k.pkl").write_bytes(pickle.dumps({"objectnames": NAMES}))
    savemat(root / "index_ade20k.mat", {"index": {"objectnames": np.array(NAMES, object), "filename": "x"}})
    return root


def test_the_full_release_of_ade20k_codes_objects_in_red_and_green(ade):
    opened = open_benchmark(f"ade20k:{ade}")
    convention = opened.labels["segmentation"].convention
    assert len(convention.classes) == 600
    assert convention.classes[400] == "car", "R // 10 × 256 + G is 401, counted from 1"
    assert convention.classes[9:12] == ("screen, door (10)", "screen, wall", "screen, door (12)")
    (label,) = labels(opened, "segmentation")
    assert not label.valid[:4].any()
    assert not label.valid[16:].any()
    assert label.valid[4:16].all()
    assert (label.ids[4:8] == 400).all()
    assert (label.ids[8:12] == 0).all()
    assert (label.ids[12:16] == 400).all(), "only the tens of red count"
    assert read_split(opened, (12, 16)).keys == ("ADE_val_00000001",)
    assert read_split(open_benchmark(f"ade20k:{ade}?split=training"), (12, 16)).keys == ("ADE_train_00000001",)


def test_pickles_of_ade20k_are_not_loaded(ade):
    (ade / "index_ade20k.mat").unlink()

    class Bomb:
        def __reduce__(self):
            return Path.touch, (ade / "run",)

    (ade / "index_ade20k.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DatasetError, match=r"has no index_ade20k\.mat, which names the classes; .*pickle can run any"):
        open_benchmark(f"ade20k:{ade}")
    assert not (ade / "run").exists()


def test_other_files_of_ade20k_are_explained(ade):
    savemat(ade / "index_ade20k.mat", {"index": {"objectnames": np.array(NAMES[:300], object), "filename": "x"}})
    with pytest.raises(SampleError, match=r"has the object 401, but index_ade20k\.mat names 300"):
        labels(open_benchmark(f"ade20k:{ade}"), "segmentation")
    png(ade / "images/ADE/validation/urban/street/ADE_val_00000001_seg.png", np.zeros((H, W), np.uint8))
    with pytest.raises(SampleError, match="is not a map of the full release"):
        labels(open_benchmark(f"ade20k:{ade}"), "segmentation")
    savemat(ade / "index_ade20k.mat", {"index": {"filename": "x"}})
    with pytest.raises(DatasetError, match=r"no index\.objectnames"):
        open_benchmark(f"ade20k:{ade}")


# COCO-Stuff -------------------------------------------------------------------------------------------------


def run_lengths(mask: np.ndarray) -> dict[str, object]:
    encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


@pytest.mark.parametrize("folder", ["stuffthingmaps/val2017", "annotations/val2017"])
def test_coco_stuff_counts_from_0_without_the_classes_that_have_no_pixels(folder, tmp_path):
    picture(tmp_path / "val2017/000000000139.jpg")
    codes = np.full((H, W), 255, np.uint8)
    codes[:2], codes[2:4], codes[4:6], codes[6:8], codes[8:10] = 0, 10, 12, 181, 11
    (tmp_path / "annotations").mkdir()
    png(tmp_path / f"{folder}/000000000139.png", codes)
    opened = open_benchmark(f"coco:{tmp_path}?task=stuff")
    classes = opened.labels["segmentation"].convention.classes
    assert len(classes) == 171
    assert len({*classes}) == 171
    (label,) = labels(opened, "segmentation")
    found = [classes[label.ids[row, 0]] for row in (0, 2, 4, 6)]
    assert found == ["person", "fire hydrant", "stop sign", "wood"]
    assert label.valid[:8].all()
    assert not label.valid[8:].any(), "street sign has no pixels, and 255 is void"
    assert streamed(opened, "segmentation").valid.any()


def test_coco_stuff_only_has_all_things_as_one_class(tmp_path):
    picture(tmp_path / "val2017/000000000139.jpg")
    picture(tmp_path / "val2017/000000000285.jpg")
    top, right = np.zeros((H, W), bool), np.zeros((H, W), bool)
    top[:4], right[4:, -6:] = True, True
    masks = [{"image_id": 139, "id": n, "category_id": number, "segmentation": run_lengths(mask)}
             for n, (number, mask) in enumerate([(157, top), (183, right)])]  # fmt: skip
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": H, "width": W} for n in (139, 285)]
    categories = [{"id": 183, "name": "other"}, {"id": 92, "name": "banner"}, {"id": 157, "name": "sky-other"}]
    values = {"images": images, "categories": categories, "annotations": masks}
    text(tmp_path / "annotations/stuff_val2017.json", json.dumps(values))
    opened = open_benchmark(f"coco:{tmp_path}?task=stuff-only")
    assert opened.labels["segmentation"].convention.classes == ("banner", "sky-other", "other")
    first, second = labels(opened, "segmentation")
    assert np.array_equal(first.valid, top | right)
    assert {*first.ids[top].tolist()} == {1}
    assert {*first.ids[right].tolist()} == {2}
    assert not second.valid.any(), "a picture without masks is unknown"


def test_coco_stuff_only_refuses_masks_of_another_size(tmp_path):
    picture(tmp_path / "val2017/000000000139.jpg")
    mask = {"image_id": 139, "id": 1, "category_id": 92, "segmentation": run_lengths(np.ones((H + 1, W), bool))}
    values = {"images": [{"id": 139, "file_name": "000000000139.jpg", "height": H, "width": W}],
              "categories": [{"id": 92, "name": "banner"}], "annotations": [mask]}  # fmt: skip
    text(tmp_path / "annotations/stuff_val2017.json", json.dumps(values))
    with pytest.raises(SampleError, match="without a mask of the image's size"):
        labels(open_benchmark(f"coco:{tmp_path}?task=stuff-only"), "segmentation")


def test_coco_stuff_without_its_maps_is_explained(tmp_path):
    picture(tmp_path / "val2017/000000000139.jpg")
    text(tmp_path / "annotations/stuff_val2017.json", "{}")
    with pytest.raises(DatasetError, match=r"has none of stuffthingmaps/val2017, .*or use task=stuff-only"):
        open_benchmark(f"coco:{tmp_path}?task=stuff")
