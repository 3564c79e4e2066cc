"""Labels that a user has as files: what they mean is asked, each format is read, and what is unsound has a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipzoo import experts, tasks
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import ExpertCard, ExpertInput
from clipzoo.importers.arrays import read
from clipzoo.labeling import label
from clipzoo.store import Store
from clipzoo.tasks import Convention
from making import image, make_dataset

METRES = "task=depth&kind=metric&along=z&scale=0.001&invalid=0,65535"
RNG = np.random.default_rng(3)


def png(path: Path, values: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def look_up(folder: Path, query: str, key: str = "a", size: tuple[int, int] = (12, 16)):
    """The label of one key, sound by its task's contract."""
    expert = experts.create(f"files:{folder}?{query}")
    expert.load()
    (found,) = expert.predict_inputs([ExpertInput(key, image(0, size))])
    tasks.get(expert.card.task).check(found, expert.card.convention)
    return found


def test_one_value_of_unknown_pixels_fills_all_channels(tmp_path):
    values = np.full((12, 16, 3), (128, 128, 255), np.uint8)
    values[0, :3] = (0, 127, 127), (0, 0, 0), (127, 127, 127)  # to the left; unknown; unknown
    png(tmp_path / "a.png", values)
    found = look_up(tmp_path, "task=normals&frame=x-right,y-up,z-toward&range=0,255&invalid=0,127")
    assert np.flatnonzero(~found.valid).tolist() == [1, 2]
    assert found.vectors[0, 0, 0] < -0.99


# From end to end -------------------------------------------------------------------------------------------


def test_files_become_a_column_and_what_is_unsound_a_row_with_its_reason(tmp_path):
    data, files = make_dataset(tmp_path / "data"), tmp_path / "depth"
    millimeters = RNG.integers(500, 9000, (12, 12, 16)).astype(np.uint16)
    millimeters[:, 0] = 0
    for i in range(12):
        png(files / f"{i:06d}.png", millimeters[i])
    (files / "000003.png").unlink()
    png(files / "000004.png", millimeters[0].T.copy())
    (files / "000005.png").write_bytes((files / "000006.png").read_bytes()[:80])
    png(files / "000007.png", np.full((12, 16, 3), 9, np.uint8))
    uri = f"files:{files}/?{METRES}&license=mine"
    (report,) = label(str(data), [uri], tmp_path / "out", max_failures=0.5, progress=False)
    assert (report.labels, report.failures) == (8, 4)
    (column,) = Store(tmp_path / "out").columns()
    assert column.name == "depth/files-depth"
    assert (
        column.manifest.expert["uri"]
        == f"files:{files}?along=z&invalid=0,65535&kind=metric&license=mine&scale=0.001&task=depth"
    )
    assert column.manifest.expert["licence"] == "mine"
    assert column.manifest.expert["preprocessing"]["scale"] == "0.001"
    rows = {row["key"]: row for shard in ("00000", "00001") for row in column.rows(shard).to_pylist()}
    for key, reason in {
        "000003": "no label file: .* has no 000003.png or 000003.npy",
        "000004": "another aspect than that of the image: 12×16 for 16×12",
        "000005": "cannot read the label",
        "000007": "one channel expected",
    }.items():
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(rows[key]["error"])
    found = column.label("00001", rows["000010"])
    assert not found.valid[0].any()
    assert found.values[1:] == pytest.approx(millimeters[10][1:] / 1000, rel=1e-4)


def test_a_batch_with_a_missing_file_loses_that_sample_alone(tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    for i in (0, 1, 2, 4, 5):
        png(tmp_path / "depth" / f"{i:06d}.png", np.full((12, 16), 1000, np.uint16))
    uri = f"files:{tmp_path}/depth?{METRES}"
    (report,) = label(str(data), [uri], tmp_path / "out", max_failures=0.5, batch_size=4, progress=False)
    assert (report.labels, report.failures) == (5, 1)


def test_a_long_uri_is_still_a_folder_name():
    cards = [ExpertCard(f"hf:{'deep/' * 40}?threshold={t}", "depth", Convention()) for t in ("0.1", "0.2")]
    assert [len(card.slug) for card in cards] == [200, 200]
    assert cards[0].slug != cards[1].slug


# Formats ---------------------------------------------------------------------------------------------------


def test_depth_of_every_format(tmp_path):
    meters = RNG.uniform(0.5, 9, (12, 16)).astype(np.float32)
    meters[3, 4], meters[3, 5], meters[3, 6] = np.nan, np.inf, -1
    np.save(tmp_path / "a.npy", meters)
    np.save(tmp_path / "deep.npy", meters[None].astype(np.float64))
    Image.fromarray(meters).save(tmp_path / "b.tif")
    query = "task=depth&kind=metric&along=ray&scale=1&invalid=-1"
    for key in ("a", "b", "deep"):
        found = look_up(tmp_path, query, key)
        assert np.argwhere(~found.valid).tolist() == [[3, 4], [3, 5], [3, 6]]
        np.testing.assert_array_equal(found.values[found.valid], meters[found.valid])
        assert (found.kind, found.along) == ("metric", "ray")


def test_affine_depth_may_be_negative_and_smaller_than_its_image(tmp_path):
    np.save(tmp_path / "a_depth.npy", RNG.normal(size=(6, 8)))
    found = look_up(tmp_path, "task=depth&kind=affine-disparity&along=none&scale=1&invalid=none&suffix=_depth.npy")
    assert found.values.min() < 0
    assert (found.valid.all(), found.along) == (True, None)


def test_class_ids_with_void_and_a_first_id(tmp_path):
    ids = RNG.integers(0, 4, (12, 16)).astype(np.uint8)
    png(tmp_path / "gray.png", ids)
    colored = Image.fromarray(ids)
    colored.putpalette(RNG.permutation(256).astype(np.uint8).tobytes() * 3)
    colored.save(tmp_path / "palette.png")
    np.save(tmp_path / "array.npy", ids.astype(np.int64))
    (tmp_path / "names.txt").write_text("floor\ntall wall\nchair\n")
    for key in ("gray", "palette", "array"):
        found = look_up(tmp_path, f"task=segmentation&classes=@{tmp_path}/names.txt&void=0&first=1", key)
        np.testing.assert_array_equal(found.valid, ids != 0)
        np.testing.assert_array_equal(found.ids, np.where(ids, ids - 1, 0))
    expert = experts.create(f"files:{tmp_path}?task=segmentation&classes=@{tmp_path}/names.txt&void=none")
    assert expert.card.convention.classes == ("floor", "tall wall", "chair")
    with pytest.raises(SampleError, match="neither of the 3 classes nor void: 3 in"):
        expert.predict_inputs([ExpertInput("gray", image(0))])


def test_color_coded_classes(tmp_path):
    colors = np.array([(255, 0, 0), (0, 0, 255), (0, 128, 0), (0, 0, 0)], np.uint8)
    ids = RNG.integers(0, 4, (12, 16))
    png(tmp_path / "a.png", colors[ids])
    (tmp_path / "map.txt").write_text("255 0 0 red thing\n0 0 255 sky\n0 128 0 grass\n")
    query = f"task=segmentation&classes=@{tmp_path}/map.txt&void="
    found = look_up(tmp_path, query + "#000000")
    np.testing.assert_array_equal(found.valid, ids != 3)
    np.testing.assert_array_equal(found.ids, np.where(ids == 3, 0, ids))
    with pytest.raises(SampleError, match="neither of a class nor void: 000000"):
        look_up(tmp_path, query + "none")
    Image.fromarray(colors[ids]).quantize(4).save(tmp_path / "p.png")
    np.testing.assert_array_equal(look_up(tmp_path, query + "#000000", "p").ids, found.ids)


def test_normals_are_turned_into_our_frame(tmp_path):
    vectors = RNG.normal(size=(12, 16, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    codes = np.rint(255 * (vectors + 1) / 2).astype(np.uint8)
    codes[2] = 0
    png(tmp_path / "a.png", codes)
    np.save(tmp_path / "b.npy", np.moveaxis(vectors, -1, 0))
    ours = np.moveaxis(vectors * (1, -1, -1), -1, 0)
    frame = "task=normals&frame=x-right,y-down,z-forward&range="
    found = look_up(tmp_path, frame + "0,255&invalid=0")
    assert np.argwhere(~found.valid.all(1)).tolist() == [[2]]
    assert np.abs(found.vectors - ours)[:, found.valid].max() < 0.01
    np.testing.assert_allclose(look_up(tmp_path, frame + "-1,1&invalid=none", "b").vectors, ours, atol=1e-6)
    with pytest.raises(SampleError, match=r"median length is .* is range=0,1 right"):
        look_up(tmp_path, frame + "0,1&invalid=none")


def test_edges_black_on_white(tmp_path):
    values = RNG.integers(0, 256, (12, 16)).astype(np.uint8)
    png(tmp_path / "a.png", values)
    found = look_up(tmp_path, "task=edges&range=255,0&invalid=none")
    np.testing.assert_allclose(found.values, 1 - values / 255, atol=1e-6)
    found = look_up(tmp_path, "task=edges&range=0,255&invalid=7")
    np.testing.assert_array_equal(found.valid, values != 7)


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "findings"),
    [
        ("", ["task is missing: segmentation, depth, normals, edges", "depth: kind = metric", "edges: range = "]),
        ("task=boxes", ["task=boxes is unknown: segmentation, depth", "as --set task="]),
        ("task=edges", ["range is missing", "suffix is optional: the end of file names", "license is optional"]),
        ("task", ["not of the form"]),
        ("task=depth", ["kind is missing", "along is missing", "scale is missing: the factor", "invalid is missing"]),
        ("task=segmentation", ["classes is missing", "void is missing"]),
        ("task=normals", ["frame is missing", "range is missing", "invalid is missing"]),
        ("task=edges&scale=1", ["range is missing", "scale is not an option of labels of edges"]),
        (METRES + "&first=1", ["first is not an option of labels of depth"]),
        (METRES.replace("along=z", "along=none"), ["metric depth is along z or ray"]),
        (
            "task=depth&kind=meters&along=up&scale=0&invalid=x",
            ["kind=meters: must be 'metric'", "along=up", "scale=0"],
        ),
        ("task=normals&frame=up&range=0,0&invalid=none", ["frame=up: .*three axes", "range=0,0: two different"]),
        ("task=segmentation&classes=floor,,wall&void=none", ["a class has no name"]),
        ("task=segmentation&classes=@nowhere.txt&void=none", ["classes=@nowhere.txt: .*No such file"]),
    ],
)
def test_a_uri_that_leaves_the_meaning_open_is_refused(tmp_path, query, findings):
    for finding in findings:
        with pytest.raises(ExpertError, match=finding):
            experts.create(f"files:{tmp_path}?{query}")


def test_two_classes_of_one_color_are_refused(tmp_path):
    (tmp_path / "map.txt").write_text("1 2 3 a\n1 2 3 b\n")
    with pytest.raises(ExpertError, match="two classes have one color"):
        experts.create(f"files:{tmp_path}?task=segmentation&classes=@{tmp_path}/map.txt&void=none")


def test_no_folder_and_no_key(tmp_path):
    with pytest.raises(ExpertError, match="is not a folder"):
        experts.create(f"files:{tmp_path}/none?{METRES}")
    expert = experts.create(f"files:{tmp_path}?{METRES}")
    with pytest.raises(ExpertError, match="needs whole samples"):
        expert.predict([image(0)])
    for key in ("../a", "b/../../a", "/etc/a"):
        with pytest.raises(SampleError, match="leads out"):
            expert.predict_inputs([ExpertInput(key, image(0))])


def test_files_that_hold_no_plain_numbers_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(5))
    (tmp_path / "text.npy").write_text("no array")
    png(tmp_path / "alpha.png", np.zeros((4, 4, 4), np.uint8))
    png(tmp_path / "photo.png", np.zeros((4, 4, 3), np.uint8), format="JPEG")
    for name, reason in {
        "objects.npy": "Python objects",
        "line.npy": r"no \[H,W\]",
        "text.npy": "cannot read",
        "alpha.png": "RGBA; save it without transparency",
        "photo.png": "cannot read",
    }.items():
        with pytest.raises(SampleError, match=reason):
            read(tmp_path / name)


def test_large_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    png(tmp_path / "a.png", np.zeros((20, 20), np.uint8))
    np.save(tmp_path / "a.npy", np.zeros((40, 40)))
    monkeypatch.setattr("clipzoo.importers.arrays.MAX_PIXELS", 300)
    for name in ("a.png", "a.npy"):
        with pytest.raises(SampleError, match=r"20×20|40, 40"):
            read(tmp_path / name)
