"""The identity of a benchmark changes with all that its labels depend on, and scores stay until others replace them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipzoo import files, recipe, runs
from clipzoo.benchmarks import open_benchmark
from clipzoo.benchmarks._published.depth import inside
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.scores import kept_scores
from clipzoo.evaluation.zero_shot import METRIC
from clipzoo.runs import verbs
from clipzoo.runs.folder import Folder, SavedRecipe
from test_full_layouts import COLUMNS, FRAME, ROWS, TRUE, colors, nyu  # noqa: F401
from test_layouts import coco as coco  # a fixture
from test_layouts import picture, png, text, voc  # noqa: F401
from test_pipeline import world  # noqa: F401


def identities(location: str, options: list[str], task: str = "depth") -> set[str]:
    return {open_benchmark(location + option).labels[task].identity() for option in options}


def test_each_crop_of_kitti_and_nyu_is_another_benchmark(tmp_path: Path) -> None:
    name = "2011_09_26_drive_0002_sync_{}_0000000005_image_02.png"
    picture(tmp_path / f"kitti/image/{name.format('image')}", size=(35, 121))
    codes = np.full((35, 121), 256 * 20, np.uint16)
    png(tmp_path / f"kitti/groundtruth_depth/{name.format('groundtruth_depth')}", codes)
    assert len(identities(f"kitti:{tmp_path}/kitti", ["", "?crop=eigen", "?crop=none"])) == 3
    assert len(identities(f"kitti:{tmp_path}/kitti", ["", "?crop=garg"])) == 1
    picture(tmp_path / "nyu/bathroom/rgb_00045.jpg", size=(48, 64))
    png(tmp_path / "nyu/bathroom/sync_depth_00045.png", np.full((48, 64), 2500, np.uint16))
    assert len(identities(f"nyu:{tmp_path}/nyu", ["", "?crop=none"])) == 2


def test_a_changed_mask_is_another_benchmark(tmp_path: Path, nyu: Path) -> None:  # noqa: F811
    base = tmp_path / "diode/scene_00019/scan_00183/x_indoors_000_010"
    picture(base.with_name(f"{base.name}.png"))
    np.save(f"{base}_depth.npy", np.full((24, 32, 1), 4.5, np.float32))
    for row in (0, 2):
        png(tmp_path / f"normals_gt/normals/{row:04d}.png", colors(TRUE))
        png(tmp_path / f"normals_gt/masks/{row:04d}.png", np.full((ROWS, COLUMNS), 255, np.uint8))
    found: list[tuple[str, ...]] = []
    for known in (1, 0):
        np.save(f"{base}_depth_mask.npy", np.full((24, 32), known, np.float32))
        png(tmp_path / "normals_gt/masks/0002.png", np.full((ROWS, COLUMNS), 255 * known, np.uint8))
        (diode,) = identities(f"diode:{tmp_path}/diode?along=z", [""])
        (normals,) = identities(f"nyu:{nyu}?task=normals&{FRAME}", [""], "normals")
        found.append((diode, normals))
    assert all(first != second for first, second in zip(*found, strict=True))


def test_classes_of_panoptic_segments_are_part_of_the_identity(coco: Path) -> None:
    (path,) = (coco / "annotations").glob("panoptic_*.json")
    before = identities(f"coco:{coco}?task=panoptic", [""], "segmentation")
    values = json.loads(path.read_text())
    segments = values["annotations"][0]["segments_info"]
    segments[0]["category_id"] = next(
        one["id"] for one in values["categories"] if one["id"] != segments[0]["category_id"]
    )
    path.write_text(json.dumps(values))
    assert identities(f"coco:{coco}?task=panoptic", [""], "segmentation") != before


def test_crops_are_truncated_to_whole_pixels() -> None:
    """As by ``astype(np.int32)`` in evaluate_depth.py of monodepth2."""
    for name, shape, edges in (
        ("kitti-garg", (352, 1216), (143, 349, 43, 1172)),
        ("kitti-eigen", (352, 1216), (117, 321, 43, 1172)),
        ("kitti-garg", (375, 1242), (153, 371, 44, 1197)),
        ("nyu-eigen", (480, 640), (45, 471, 41, 601)),
    ):
        rows, columns = np.nonzero(inside(name, shape))
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == edges


def test_any_list_of_voc_is_a_split(voc: Path) -> None:  # noqa: F811
    text(voc / "ImageSets/Segmentation/trainaug.txt", "2007_000061\n2007_000033\n")
    opened = open_benchmark(f"voc:{voc}?split=trainaug")
    assert [entry.key for entry in opened.reader.index("00000")] == ["2007_000033", "2007_000061"]
    text(voc / "outside.txt", "2007_000061\n")
    for split in ("trainaugg", "../../outside", str(voc / "outside")):
        with pytest.raises(Exception, match=r"split=.* is unknown: .*/ImageSets/Segmentation has no"):
            open_benchmark(f"voc:{voc}?split={split}")


def scored(value: float) -> dict[str, dict[str, Scored]]:
    return {"test": {"zero_shot": Scored("zero_shot", ("a",), np.array([[1.0, value, value]]), METRIC)}}


def test_old_scores_stay_until_new_ones_are_measured(tmp_path: Path) -> None:
    kept_scores(tmp_path, lambda: scored(1), {"test": "a"}, lambda reason: None)

    def fails() -> dict[str, dict[str, Scored]]:
        raise MemoryError

    with pytest.raises(MemoryError):
        kept_scores(tmp_path, fails, {"test": "b"}, lambda reason: None)
    assert (
        kept_scores(tmp_path, fails, {"test": "a"}, lambda reason: None)["test"]["zero_shot"].compute()[
            "zero_shot/top1"
        ]
        == 1
    )


def test_more_labels_are_measured_once_clip_ft_is_an_arm(world: recipe.Recipe, tmp_path: Path) -> None:  # noqa: F811
    values = world.model_dump(mode="json") | {"seeds": [0]}
    values["training"] |= {"steps": 2, "learning_rates": [1e-3]}
    values["evaluation"] |= {"pictures": 0}

    def baselines(arms: list[str]) -> list[str]:
        path = verbs.evaluate(runs.Run(recipe.parse(values | {"arms": arms}), tmp_path / "run"))
        return list(json.loads(path.read_text())["baselines"])

    def marks() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "scores").rglob("done")}

    every = ["clip", "clip-ft", "clipzoo"]
    assert "more_labels" not in baselines(["clip", "clipzoo"])
    assert "more_labels" in baselines(every)
    before = marks()
    assert "more_labels" in baselines(every)
    assert marks() == before
    for path in (tmp_path / "run" / "scores" / "baselines").rglob("done"):  # as earlier versions wrote it
        record = json.loads(path.read_text())
        record["identity"].pop("more_labels", None)
        path.write_text(json.dumps(record))
    before = marks()
    assert "more_labels" in baselines(every)
    assert marks() == before


def test_another_number_of_pictures_keeps_all_scores(world: recipe.Recipe, tmp_path: Path) -> None:  # noqa: F811
    for value in ({"pictures": 3}, {"open_vocabulary": "sclip"}, {"test": None}):
        scores = tmp_path / "scores" / "clip" / "0" / "done"
        files.write(tmp_path / "arms" / "clip-ft" / "0" / "student" / "done", b"")
        files.write(tmp_path / "recipe.yaml", world.to_yaml().encode())
        files.write(scores, b"")
        changed = world.model_copy(update={"evaluation": world.evaluation.model_copy(update=value)})
        SavedRecipe(Folder(tmp_path), changed).adopt()
        assert scores.exists() == ("test" not in value)
