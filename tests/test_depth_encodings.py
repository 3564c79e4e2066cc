"""Depth as published datasets write it, by name; and what is no plausible depth."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from clipzoo import experts, import_labels
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import ExpertInput
from clipzoo.importers._reading.encodings import ENCODINGS
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store
from making import encoded, image, make_dataset

H, W = 12, 16
RNG = np.random.default_rng(3)
METRES = RNG.uniform(0.5, 7.5, (H, W)).astype(np.float32)
HOLE = np.zeros((H, W), bool)
HOLE[:3] = True


def look_up(uri: str, key: str = "a"):
    expert = experts.create(uri)
    (found,) = expert.predict_inputs([ExpertInput(key, image(0, (H, W)))])
    return found, expert


def millimeters() -> np.ndarray:
    return np.where(HOLE, 0, np.rint(1000 * METRES)).astype(np.uint16)


def rotated(codes: np.ndarray) -> np.ndarray:
    return (codes << 3) | (codes >> 13)


def write(folder: Path, name: str) -> None:
    """The file of the sample ``a`` as the dataset has it."""
    code = np.where(HOLE, 0, 1)
    if name == "sunrgbd":
        Image.fromarray(rotated(millimeters())).save(folder / "a.png")
    elif name == "kitti":
        Image.fromarray((code * np.rint(256 * METRES)).astype(np.uint16)).save(folder / "a.png")
    elif name == "vkitti2":
        Image.fromarray(np.where(HOLE, 65535, np.rint(100 * METRES)).astype(np.uint16)).save(folder / "a.png")
    elif name == "taskonomy":
        Image.fromarray(np.where(HOLE, 65535, np.rint(512 * METRES)).astype(np.uint16)).save(folder / "a.png")
    elif name == "diode":
        np.save(folder / "a_depth.npy", METRES[..., None])
        np.save(folder / "a_depth_mask.npy", code.astype(np.float32))
    else:
        with h5py.File(folder / "a.hdf5", "w") as file:
            file["dataset"] = np.where(HOLE, np.nan, METRES).astype(np.float16)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_dataset_is_read_by_its_name(tmp_path, name, caplog):
    write(tmp_path, name)
    open_question = "&along=z" if name in ("diode", "taskonomy") else ""
    label, expert = look_up(f"files:{tmp_path}?task=depth&encoding={name}{open_question}")
    np.testing.assert_array_equal(label.valid, ~HOLE)
    np.testing.assert_allclose(label.values[~HOLE], METRES[~HOLE], atol=0.006)
    assert (label.kind, label.along) == ("metric", "ray" if name == "hypersim" else "z")
    assert expert.card.preprocessing["scale"] == ENCODINGS[name].options["scale"]
    assert expert.notes == {}
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["diode", "taskonomy"])
def test_what_a_dataset_leaves_open_is_asked(tmp_path, name):
    with pytest.raises(ExpertError, match="along is missing: z") as error:
        experts.create(f"files:{tmp_path}?task=depth&encoding={name}")
    assert "scale" not in str(error.value)


def test_an_encoding_is_not_answered_twice_nor_unknown(tmp_path):
    uri = f"files:{tmp_path}?task=depth&encoding="
    with pytest.raises(ExpertError, match=r"encoding=kitti sets .*scale=0.00390625.* Remove scale=0.001"):
        experts.create(uri + "kitti&scale=0.001")
    with pytest.raises(ExpertError, match="encoding=kiti: must be one of sunrgbd, kitti"):
        experts.create(uri + "kiti")
    with pytest.raises(ExpertError, match="encoding is optional: sunrgbd, kitti"):
        experts.create(f"files:{tmp_path}?task=depth")


def test_rotated_bits_are_of_sixteen(tmp_path):
    Image.fromarray(np.full((H, W), 9, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SampleError, match="no 16-bit values, which encoding=sunrgbd needs"):
        look_up(f"files:{tmp_path}?task=depth&encoding=sunrgbd")
    far = np.full((H, W), 9000, np.uint16)  # beyond 8.192 m rotated bits are set, too
    Image.fromarray(rotated(far)).save(tmp_path / "a.png")
    assert look_up(f"files:{tmp_path}?task=depth&encoding=sunrgbd")[0].values.max() == np.float32(9)


def test_a_mask_beside_the_depth_is_needed_and_watched(tmp_path):
    write(tmp_path, "diode")
    uri = f"files:{tmp_path}?task=depth&encoding=diode&along=z"
    expert = experts.create(uri)
    before = expert.state("a")
    np.save(tmp_path / "a_depth_mask.npy", np.ones((H, W, 2)))
    assert expert.state("a") != before
    (tmp_path / "a_depth_mask.npy").unlink()
    with pytest.raises(SampleError, match=r"cannot read the label: .*a_depth_mask.npy"):
        look_up(uri)
    np.save(tmp_path / "a_depth_mask.npy", np.ones((H, 2)))
    with pytest.raises(SampleError, match=r"the mask of .* is of another size"):
        look_up(uri)
    with pytest.raises(ExpertError, match="separate files, which only files: reads"):
        experts.create(f"tars:{tmp_path}?label=npy&task=depth&encoding=diode&along=z")


def test_an_encoding_in_tars(tmp_path):
    write_shard(tmp_path / "0.tar", [("a", {"depth.png": encoded(rotated(millimeters()))})])
    label, _ = look_up(f"tars:{tmp_path}?label=depth.png&task=depth&encoding=sunrgbd")
    np.testing.assert_allclose(label.values[~HOLE], METRES[~HOLE], atol=0.001)


@pytest.mark.parametrize("form", ["two arrays", "a link", "other files", "none"])
def test_an_hdf5_file_has_one_array_of_its_own(tmp_path, form):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        if form == "two arrays":
            file["x"], file["y"] = METRES, METRES
        elif form == "a link":
            file["x"] = h5py.ExternalLink("other.hdf5", "/x")
        elif form == "other files":
            file.create_dataset("x", (H, W), "f4", external=[(str(tmp_path / "raw"), 0, 4 * H * W)])
    with pytest.raises(SampleError, match=r"one array is needed|an array that is in other files"):
        look_up(f"files:{tmp_path}?task=depth&encoding=hypersim")


# Plausible? ------------------------------------------------------------------------------------------------


def test_a_wrong_scale_is_said(tmp_path, caplog):
    Image.fromarray(millimeters()).save(tmp_path / "a.png")
    _, expert = look_up(f"files:{tmp_path}?task=depth&kind=metric&along=z&scale=1&invalid=0")
    assert "implausible metric depth, which lies between 0.01 and 1000 m: check scale= (first: " in caplog.text
    assert sum(expert.notes.values()) == 1
    _, expert = look_up(f"files:{tmp_path}?task=depth&encoding=vkitti2")  # no sky, and 0 m
    assert any("implausible depth of encoding=vkitti2" in one for one in expert.notes)


def test_rotated_bits_are_noticed_without_their_name(tmp_path, caplog):
    values = np.arange(H * W).reshape(H, W).astype(np.uint16) + 600
    Image.fromarray(rotated(values)).save(tmp_path / "a.png")
    uri = f"files:{tmp_path}?task=depth&kind=metric&along=z&scale=0.001&invalid=0"
    look_up(uri)
    assert "try encoding=sunrgbd" in caplog.text
    caplog.clear()
    Image.fromarray(values).save(tmp_path / "a.png")
    look_up(uri)
    assert caplog.text == ""


def test_an_import_counts_what_is_implausible(tmp_path, caplog):
    data = make_dataset(tmp_path / "data", shards=1)
    (tmp_path / "depth").mkdir()
    for i in range(6):
        Image.fromarray(millimeters()).save(tmp_path / "depth" / f"{i:06d}.png")
    answers = {"task": "depth", "kind": "metric", "along": "z", "scale": "1", "invalid": "0"}
    with caplog.at_level(logging.WARNING):
        found = import_labels(data, tmp_path / "depth", "files", answers, tmp_path / "out", progress=False)
    assert list(found.notes.values()) == [6]
    assert caplog.text.count("implausible") == 1
    assert Store(tmp_path / "out").columns()[0].manifest.counts.labels == 6
