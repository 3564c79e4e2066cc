"""Labels in the folders of other tools: conventions, round trips, and samples that cannot be written."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import parse

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipzoo.cli import app
from clipzoo.errors import StoreError
from clipzoo.experts import Expert, ExpertCard
from clipzoo.labeling import export_labels, label
from clipzoo.labeling.exports import _maps
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from making import encoded, image, make_dataset

CLASSES = ("background", "cat", "dog")
CONVENTIONS = {
    "segmentation": Convention(CLASSES), "depth": Convention((), "metric", "z"), "normals": Convention(),
    "edges": Convention(), "detection": Convention(CLASSES),
}  # fmt: skip


class Made(Expert):
    """Random labels of one task; ``whole`` boxes are at borders of pixels, ``far`` is the largest depth."""

    def __init__(self, task: str, whole: bool = True, convention: Convention | None = None, far: float = 40) -> None:
        convention = convention or CONVENTIONS[task]
        self.card = ExpertCard(f"test:{task}", task, convention, license="CC0-1.0", weights_sha256="03")
        self.whole, self.far = whole, far

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images):
        return [self.one(image) for image in images]

    def one(self, pixels):
        size, rng = pixels.shape[:2], np.random.default_rng(int(pixels[0, 0, 0]))
        valid, task, convention = rng.random(size) > 0.2, self.card.task, self.card.convention
        if task == "segmentation":
            return Segmentation(rng.integers(0, len(convention.classes), size).astype(np.uint16), valid)
        if task == "depth":
            values = rng.uniform(0.1, self.far, size).astype(np.float32)
            return Depth(values, valid, convention.kind, convention.along)
        if task == "edges":
            return Edges(rng.random(size, np.float32), valid)
        if task == "normals":
            vectors = rng.normal(size=(3, *size))
            return Normals((vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32), valid)
        return self.objects(size, rng)

    def objects(self, size, rng) -> Detection:
        low = rng.integers(0, [size[1] - 4, size[0] - 4], (3, 2))
        corners = np.concatenate([low, low + rng.integers(1, 4, (3, 2))], 1).astype(np.float32)
        corners = corners if self.whole else corners + np.float32(0.25)
        ids, ignored = rng.integers(0, 3, 3).astype(np.uint16), np.array([False, True, False])
        return Detection(size, corners, ids, np.ones(3, np.float32), ignored)


def labeled(folder: Path, *made: Made, data: Path | None = None) -> Path:
    """Label a small dataset, and return its path."""
    data = data or make_dataset(folder / "data")
    label(data, list(made), folder / "labels", check=False, progress=False)
    return data


def labels_of(store: Path, task: str) -> dict[str, object]:
    (column,) = (one for one in Store(store).columns() if one.task == task)
    return {row["key"]: column.label(s, row) for s, rows in column.tables() for row in rows.to_pylist()}


def commands(readme: Path) -> list[list[str]]:
    """Return the arguments of the import commands in a README."""
    texts = re.findall(r"```bash\nclipzoo (labels import .*?)```", readme.read_text(), re.DOTALL)
    return [shlex.split(text.replace("\\\n", " ")) for text in texts]


def imported(readme: Path, data: Path, out: Path) -> None:
    """Run the import commands of a README."""
    for words in commands(readme):
        words = [str(data) if word == "DATA" else str(out) if word == "again/" else word for word in words]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output


def fields(one: object) -> Mapping[str, np.ndarray]:
    names = {
        Segmentation: ("ids", "valid"), Depth: ("values", "valid"), Normals: ("vectors", "valid"),
        Edges: ("values", "valid"), Detection: ("boxes", "ids", "ignored"),
    }[type(one)]  # fmt: skip
    return {name: getattr(one, name) for name in names}


TOLERANCE = {"depth": 0.0025, "normals": 2 / 127}
"""Half a millimeter and the store's code of 40 m, 1.9 mm; two codes of a channel: vectors are rounded again."""

PAIRS = [
    *(("png", task) for task in _maps.TASKS), *(("hf", task) for task in _maps.TASKS),
    *(("webdataset", task) for task in _maps.TASKS), ("voc", "segmentation"), ("voc", "detection"),
    ("fiftyone", "segmentation"), ("fiftyone", "detection"),
]  # fmt: skip


@pytest.mark.parametrize(("to", "task"), PAIRS)
def test_the_command_of_the_readme_reads_the_labels_back(tmp_path, to, task):
    data = labeled(tmp_path, Made(task))
    found = export_labels(tmp_path / "labels", data, to, tmp_path / "out")
    assert (found.pictures, found.left_out, found.changed, found.listed) == (12, 0, 0, None)
    imported(tmp_path / "out" / "README.md", data, tmp_path / "again")
    before, after = labels_of(tmp_path / "labels", task), labels_of(tmp_path / "again", task)
    assert before.keys() == after.keys()
    for key, one in before.items():
        for name, values in fields(one).items():
            tolerance = TOLERANCE.get(task, 0) if values.dtype == np.float32 else 0
            np.testing.assert_allclose(fields(after[key])[name], values, rtol=0, atol=tolerance, err_msg=name)


def test_all_columns_are_one_sample_of_a_shard_or_table(tmp_path):
    data = labeled(tmp_path, *map(Made, CONVENTIONS))
    for to in ("webdataset", "hf"):
        export_labels(tmp_path / "labels", data, to, tmp_path / to)
    with tarfile.open(tmp_path / "webdataset" / "00000.tar") as tar:
        names = [name for name in tar.getnames() if name.startswith("000001.")]
        assert sorted(names) == [f"000001.{end}" for end in (
            "depth.png", "detection.json", "edges.png", "normals.png", "png", "segmentation.png", "txt"
        )]  # fmt: skip
        found = json.load(tar.extractfile("000001.detection.json"))
    one = labels_of(tmp_path / "labels", "detection")["000001"]
    x0, y0, x1, y1 = one.boxes[0].tolist()
    assert found["objects"][0]["bbox"] == [x0, y0, x1 - x0, y1 - y0]
    table = pq.read_table(tmp_path / "hf" / "data")
    assert table.column_names == ["key", "image", "caption", "other_captions", *sorted(CONVENTIONS)]
    row = table.to_pylist()[1]
    assert row["key"] == "000001"
    assert row["detection"]["bbox"][0] == [x0, y0, x1 - x0, y1 - y0]
    assert Image.open(io.BytesIO(row["depth"]["bytes"])).mode.startswith("I")


def test_features_of_the_table_are_those_of_datasets(tmp_path):
    """datasets 5.2.0 loads such a file; it also reads "Sequence", the name of "List" before datasets 4."""
    data = labeled(tmp_path, Made("detection"), Made("edges"))
    export_labels(tmp_path / "labels", data, "hf", tmp_path / "out")
    metadata = pq.read_schema(next((tmp_path / "out" / "data").iterdir())).metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["edges"] == {"_type": "Image"}
    label_names = {"feature": {"names": list(CLASSES), "_type": "ClassLabel"}, "_type": "Sequence"}
    assert features["detection"]["category"] == label_names
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nconfigs:")
    assert "load_dataset(" in text


def test_conventions_of_files(tmp_path):
    data = labeled(tmp_path, *map(Made, _maps.TASKS))
    export_labels(tmp_path / "labels", data, "png", tmp_path / "out")
    for task, mode in {"segmentation": "P", "depth": "I;16", "normals": "RGB", "edges": "L"}.items():
        (path,) = (tmp_path / "out" / task).glob("*/000003.png")
        with Image.open(path) as picture:
            assert picture.mode == mode
            values, colors = np.asarray(picture), picture.getpalette()
        one = labels_of(tmp_path / "labels", task)["000003"]
        if task == "segmentation":
            assert (values == np.where(one.valid, one.ids, 255)).all()
            assert colors[3:9] == [128, 0, 0, 0, 128, 0]  # aeroplane and bicycle of PASCAL VOC
            assert colors[-3:] == [224, 224, 192]  # void
        if task == "depth":
            assert (values == np.where(one.valid, np.rint(one.values.astype(np.float64) * 1000), 0)).all()
        if task == "normals":
            assert np.abs(values[one.valid] / 127 - 1 - np.moveaxis(one.vectors, 0, -1)[one.valid]).max() < 0.01
            assert (values[~one.valid] == 0).all()


def test_many_classes_take_16_bits_and_are_refused_by_voc(tmp_path):
    names = tuple(f"class {i}" for i in range(300))
    data = labeled(tmp_path, Made("segmentation", convention=Convention(names)))
    export_labels(tmp_path / "labels", data, "png", tmp_path / "out")
    imported(tmp_path / "out" / "README.md", data, tmp_path / "again")
    before, after = (labels_of(tmp_path / name, "segmentation") for name in ("labels", "again"))
    assert all((before[key].ids == after[key].ids).all() for key in before)
    with pytest.raises(StoreError, match="has 300 classes, but PASCAL VOC's palette PNGs hold 255"):
        export_labels(tmp_path / "labels", data, "voc", tmp_path / "voc")
    assert not (tmp_path / "voc").exists()
    export_labels(tmp_path / "labels", data, "fiftyone", tmp_path / "fo")
    assert "299: 'class 299', 65535: 'unknown'}" in (tmp_path / "fo" / "README.md").read_text()


def test_voc_counts_from_one_and_rounds_boxes_between_pixels(tmp_path):
    data = labeled(tmp_path, Made("detection", whole=False))
    export_labels(tmp_path / "labels", data, "voc", tmp_path / "out")
    one = labels_of(tmp_path / "labels", "detection")["000002"]
    root = parse(tmp_path / "out" / "Annotations" / "000002.xml").getroot()
    assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["16", "12", "3"]
    assert [item.findtext("difficult") for item in root.iter("object")] == ["0", "1", "0"]
    for item, (x0, y0, x1, y1) in zip(root.iter("object"), one.boxes - 0.25, strict=True):
        corners = [int(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        assert corners == [x0 + 1, y0 + 1, x1, y1]
    assert (tmp_path / "out" / "ImageSets" / "Main" / "default.txt").read_text().split() == sorted(
        labels_of(tmp_path / "labels", "detection")
    )


def test_depth_beyond_16_bits_is_unknown_and_listed(tmp_path):
    data = labeled(tmp_path, Made("depth", far=200))
    words = ["export", tmp_path / "labels", "--to", "png", "--data", data, "--out", tmp_path / "out"]
    told = CliRunner().invoke(app, ["labels", *map(str, words)], catch_exceptions=False).output
    assert "12 labels changed" in told
    lines = (tmp_path / "out" / "failures.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["shard", "key", "column", "change", "reason"]
    assert len(lines) == 13
    assert re.fullmatch(r"00000\t000000\tdepth/test-depth\tchanged\t\d+ pixels beyond 65.535 m are unknown", lines[1])


@pytest.mark.parametrize("kind", ["affine-depth", "affine-disparity"])
def test_affine_depth_keeps_its_meaning(tmp_path, kind):
    data = labeled(tmp_path, Made("depth", convention=Convention((), kind, None)))
    export_labels(tmp_path / "labels", data, "png", tmp_path / "out")
    imported(tmp_path / "out" / "README.md", data, tmp_path / "again")
    before, after = (labels_of(tmp_path / name, "depth") for name in ("labels", "again"))
    for key, one in before.items():
        assert (after[key].valid == one.valid).all()
        assert np.corrcoef(one.values[one.valid], after[key].values[one.valid])[0, 1] > 1 - 1e-8


KEYS = ["a", "d/b", "c.d", "../e", "x/../../f", "g\\h", "a.png/z", "k" * 300]


def dataset_of(tmp_path: Path, keys: list[str]) -> Path:
    """A table with these keys."""
    import pyarrow as pa

    rows = {"image": [encoded(image(i), "JPEG") for i in range(len(keys))], "caption": ["x"] * len(keys), "key": keys}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("to", ["png", "voc", "fiftyone", "webdataset"])
def test_keys_never_lead_out_of_the_folder_and_are_never_lost(tmp_path, to):
    (tmp_path / "in").mkdir()
    data = labeled(tmp_path / "in", Made("segmentation"), data=dataset_of(tmp_path / "in", KEYS))
    found = export_labels(tmp_path / "in" / "labels", data, to, tmp_path / "deep" / "er" / "out")
    assert found.pictures + found.left_out == len(KEYS)
    lines = found.listed.read_text().splitlines()[1:]
    listed = {line.split("\t")[1] for line in lines}
    assert {"../e", "x/../../f", "g\\\\h"} <= listed | {key.replace("\\", "\\\\") for key in listed}
    assert len(lines) == found.left_out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "in"]
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["er"]
    written = {path.name for path in (tmp_path / "deep").rglob("*")}
    assert not {"e.png", "f.png", "e", "f"} & written


def test_equal_keys_of_two_shards_are_not_overwritten(tmp_path):
    (tmp_path / "data").mkdir()
    for shard in ("0", "1"):
        members = [("same", {"png": encoded(image(int(shard))), "txt": b"x"})]
        write_shard(tmp_path / "data" / f"{shard}.tar", members)
    data = labeled(tmp_path, Made("edges"), data=tmp_path / "data")
    found = export_labels(tmp_path / "labels", data, "png", tmp_path / "out")
    assert (found.pictures, found.left_out) == (1, 1)
    assert "another sample has this name" in found.listed.read_text()


def test_an_interrupted_export_leaves_no_folder_and_the_next_one_is_whole(tmp_path):
    data = labeled(tmp_path, Made("edges"))
    tar = tmp_path / "labels" / "edges" / "test-edges" / "00001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1000])
    with pytest.raises(StoreError, match="truncated"):
        export_labels(tmp_path / "labels", data, "png", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "labels"]
    tar.write_bytes(whole)
    killed = tmp_path / ".out.partial" / "content" / "edges"  # left by a process that was killed
    killed.mkdir(parents=True)
    (killed / "old.png").write_bytes(b"")
    export_labels(tmp_path / "labels", data, "png", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 12
    assert not (tmp_path / ".out.partial").exists()
    with pytest.raises(StoreError, match=r"exists and is not an empty folder.* Remove it, or give another --out"):
        export_labels(tmp_path / "labels", data, "png", tmp_path / "out")


def test_a_damaged_label_is_left_out(tmp_path):
    data = labeled(tmp_path, Made("edges"))
    (column,) = Store(tmp_path / "labels").columns()
    row = column.rows("00001").to_pylist()[2]
    with column.file("00001", ".tar").open("r+b") as file:
        file.seek(row["offset"])
        file.write(b"\0" * 8)
    found = export_labels(tmp_path / "labels", data, "png", tmp_path / "out")
    assert (found.pictures, found.left_out) == (11, 1)
    (_, line) = found.listed.read_text().splitlines()
    assert line.startswith(f"00001\t{row['key']}\tedges/test-edges\tleft out\t")


def test_shards_without_labels_are_listed(tmp_path):
    data = make_dataset(tmp_path / "data")
    label(data, [Made("edges")], tmp_path / "labels", check=False, progress=False, shards=("00000",))
    found = export_labels(tmp_path / "labels", data, "webdataset", tmp_path / "out")
    assert (found.pictures, found.left_out) == (6, 6)
    assert found.listed.read_text().count("\tleft out\tnot labeled\n") == 6


def test_fiftyone_has_pictures_and_labels_of_one_name(tmp_path):
    """As `COCODetectionDatasetImporter` and `ImageSegmentationDirectoryImporter` of fiftyone 1.22.1 join them."""
    (tmp_path / "in").mkdir()
    made = dataset_of(tmp_path / "in", ["a", "d/b.c"])
    data = labeled(tmp_path / "in", Made("segmentation"), Made("detection"), data=made)
    for task in ("segmentation", "detection"):
        name = f"{task}/test-{task}"
        export_labels(tmp_path / "in" / "labels", data, "fiftyone", tmp_path / task, name)
    pictures = {path.relative_to(tmp_path / "detection" / "data").as_posix() for path in (
        tmp_path / "detection" / "data").rglob("*.*")}  # fmt: skip
    found = json.loads((tmp_path / "detection" / "labels.json").read_text())
    assert {one["file_name"] for one in found["images"]} == pictures == {"a.jpeg", "d/b.c.jpeg"}
    stems = [
        {path.relative_to(tmp_path / "segmentation" / kind).with_suffix("").as_posix() for path in (
            tmp_path / "segmentation" / kind).rglob("*.*")} for kind in ("data", "labels")
    ]  # fmt: skip
    assert stems[0] == stems[1] == {"a", "d/b.c"}


@pytest.mark.slow
@pytest.mark.parametrize("to", ["png", "hf", "webdataset"])
def test_memory_does_not_grow_with_the_samples(tmp_path, to):
    peaks = []
    for count in (200, 1000):
        folder = tmp_path / f"{count}"
        data = labeled(folder, Made("edges"), data=make_dataset(folder / "data", count // 50, 50))
        tracemalloc.start()
        export_labels(folder / "labels", data, to, folder / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000


def test_labels_of_other_frames_are_in_pixels_of_the_picture(tmp_path):
    class Small(Made):
        def one(self, pixels):
            return super().one(pixels[::2, ::2])

    data = labeled(tmp_path, Small("segmentation"))
    export_labels(tmp_path / "labels", data, "voc", tmp_path / "out")
    one = labels_of(tmp_path / "labels", "segmentation")["000004"]
    values = np.asarray(Image.open(tmp_path / "out" / "SegmentationClass" / "000004.png"))
    assert (values == np.where(one.valid, one.ids, 255).repeat(2, 0).repeat(2, 1)).all()
    assert replace(one).ids.shape == (6, 8)
