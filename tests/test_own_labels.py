"""Labels that a user has: what their column is called, what is noticed of their files, and those inside of tars."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipzoo import experts, import_labels
from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.cli import app
from clipzoo.errors import DatasetError, ExpertError, StoreError
from clipzoo.labeling import _matching, label
from clipzoo.labeling.colors import survey
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store, verify
from making import Bright, encoded, image, make_dataset, samples

H, W = 12, 16
ASKED = {"task": "segmentation", "classes": "floor,wall", "void": "none"}
QUERY = "task=segmentation&classes=floor,wall&void=none"


def mask(seed: int) -> np.ndarray:
    """Ids 0 and 1, [H,W]."""
    return np.random.default_rng(seed).integers(0, 2, (H, W), dtype=np.uint8)


def masks(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:06d}.png").write_bytes(encoded(mask(i)))
    return folder


def brought(data: Path, source: object, out: Path, answers: Mapping[str, str] = ASKED, form: str = "files", **options):
    options = {"progress": False, **options}
    return import_labels(str(data), str(source), form, answers, out, **options).column


def ids(out: Path, key: str) -> np.ndarray:
    """A label's ids, of a store's one column."""
    (column,) = Store(out).columns()
    (found,) = [(s, row) for s, rows in column.tables() for row in rows.to_pylist() if row["key"] == key]
    return column.label(*found).ids


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


# Mistakes --------------------------------------------------------------------------------------------------


def test_an_import_that_failed_does_not_stand_in_the_way_of_the_right_one(data, tmp_path):
    for i in range(12):
        path = tmp_path / "masks" / f"{i:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(255 * mask(i)))
    with pytest.raises(ExpertError, match="0 and 255 alone are read by classes=palette:binary"):
        brought(data, tmp_path / "masks", tmp_path / "out", ASKED | {"as": "truth"})
    right = ASKED | {"as": "truth", "classes": "palette:binary"}
    assert brought(data, tmp_path / "masks", tmp_path / "out", right).labels == 12
    with pytest.raises(StoreError, match=r"labels rm \S+out segmentation/truth --yes"):
        brought(data, tmp_path / "masks", tmp_path / "out", right | {"void": "#ffffff"})


# Labels of two samples -----------------------------------------------------------------------------------


def test_a_label_of_an_earlier_run_is_not_given_to_a_second_sample(tmp_path: Path, monkeypatch) -> None:
    """Only the shards to be labeled are indexed for the check, and none if all are labeled."""
    folder = make_dataset(tmp_path / "data", shards=3, count=2)
    keys = ["a/0", "a/1", "b/0"]
    for i, key in enumerate(keys):
        write_shard(folder / f"{i:05d}.tar", [(key, {"png": encoded(image(i)), "txt": b"x"})])
    (tmp_path / "masks").mkdir()
    for name in "01":
        Image.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    uri = f"files:{tmp_path / 'masks'}?task=segmentation&classes=a,b&void=none&pattern={{at}}/{{n}}:{{n}}"
    label(folder, uri, tmp_path / "out", shards="0000[01]", progress=False)
    with pytest.raises(ExpertError, match=r"'b/0' and 'a/0' would both get the label .*0\.png"):
        label(folder, uri, tmp_path / "out", progress=False)
    indexed: list[str] = []
    own = _matching.usable_keys
    monkeypatch.setattr(_matching, "usable_keys", lambda reader, shard: indexed.append(shard) or own(reader, shard))
    label(folder, uri, tmp_path / "out", shards="0000[01]", progress=False)
    assert not indexed
    write_shard(folder / "00002.tar", [("b/2", {"png": encoded(image(2)), "txt": b"x"})])
    label(folder, uri, tmp_path / "out", max_failures=1, progress=False)
    assert indexed == ["00002"]


def test_equal_hashes_of_two_labels_are_no_error(tmp_path: Path, monkeypatch) -> None:
    data = make_dataset(tmp_path / "data", shards=2, count=2)
    monkeypatch.setattr(_matching, "hash64", lambda data: 7)
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(4):
        Image.fromarray(np.zeros((H, W), np.uint8)).save(masks / f"{i:06d}.png")
    answers = {"task": "segmentation", "classes": "a,b", "void": "none"}
    assert import_labels(str(data), str(masks), "files", answers, tmp_path / "out", progress=False).matched == 4


# Names -----------------------------------------------------------------------------------------------------


def test_masks_become_the_truth_of_a_benchmark_folder(tmp_path):
    """What docs/benchmarks.md says."""
    bench = tmp_path / "bench"
    make_dataset(bench / "images")
    masks(tmp_path / "masks")
    words = ["--format", "files", "--as", "truth", "--out", bench / "truth"]
    words += [word for name, text in ASKED.items() for word in ("--set", f"{name}={text}")]
    told = CliRunner().invoke(app, ["labels", "import", *map(str, [bench / "images", tmp_path / "masks", *words])])
    assert told.exit_code == 0, told.output
    truth = read_split(open_benchmark(bench), (H, W)).truth["segmentation"]
    assert len(truth) == 12
    np.testing.assert_array_equal(truth.labels[7].ids, mask(7))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("files:m/depth?{}", "files-depth"),
        ("files:m/depth.v2/?{}&suffix=_x.png", "files-depth.v2"),
        ("files:m/a mask (1)?{}", "files-a-mask-1"),
        ("files:m?{}&as=truth", "truth"),
    ],
)
def test_a_column_has_a_name_that_can_be_typed(tmp_path, monkeypatch, uri, name):
    monkeypatch.chdir(tmp_path)
    for folder in ("depth", "depth.v2", "a mask (1)"):
        (tmp_path / "m" / folder).mkdir(parents=True)
    card = experts.create(uri.format(QUERY)).card
    assert card.column == f"segmentation/{name}"
    assert card.preprocessing.keys() - {"suffix"} == ASKED.keys()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(ExpertError, match=r"as=.*: use at most 100 letters, digits"):
        experts.create(f"files:{tmp_path}?{QUERY}&as={name}")


def test_two_imports_share_no_column(tmp_path, data):
    for folder in ("a", "b"):
        masks(tmp_path / folder / "masks")
    for answers in (ASKED, ASKED | {"as": "truth"}):
        brought(data, tmp_path / "a" / "masks", tmp_path / "out", answers)
        with pytest.raises(
            StoreError, match=r"was made with uri = .*a/masks.*, the expert now has .*b/masks.* --as NAME"
        ):
            brought(data, tmp_path / "b" / "masks", tmp_path / "out", answers)
        with pytest.raises(StoreError, match="--as NAME"):
            brought(data, tmp_path / "a" / "masks", tmp_path / "out", answers | {"classes": "floor,ceiling"})
    uris = [f"files:{tmp_path}/{folder}/masks?{QUERY}" for folder in "ab"]
    with pytest.raises(ExpertError, match=r"2 experts would write the column segmentation/files-masks.*as=NAME"):
        label(str(data), uris, tmp_path / "two", progress=False)
    label(str(data), [uris[0], uris[1] + "&as=other"], tmp_path / "two", progress=False)
    assert Store(tmp_path / "two").names() == ["segmentation/files-masks", "segmentation/other"]


def test_one_expert_has_one_column_however_its_uri_is_written(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks(tmp_path / "masks")
    turned = "&".join(reversed(QUERY.split("&")))
    written = [f"masks?{QUERY}", f"masks/?{QUERY}", f"./masks?{turned}", f".//masks//?{turned}"]
    assert len({experts.create(f"files:{one}").card.uri for one in written}) == 1
    for source, answers in (("masks", ASKED), ("./masks/", dict(reversed(ASKED.items())))):
        assert brought(data, source, tmp_path / "out", answers).labeled == (12 if source == "masks" else 0)
    cards = [experts.create(f"column:depth/x?{query}").card for query in ("to=normals&fov=60", "fov=60&to=normals")]
    assert cards[0] == cards[1]


# Files that have changed -----------------------------------------------------------------------------------


def xml(x1: int) -> str:
    sides = f"<xmin>1</xmin><ymin>1</ymin><xmax>{x1}</xmax><ymax>9</ymax>"
    thing = f"<object><name>cat</name><bndbox>{sides}</bndbox></object>"
    return f"<annotation><size><width>{W}</width><height>{H}</height></size>{thing}</annotation>"


def mend_files(root: Path) -> None:
    (root / "masks" / "000007.png").write_bytes(encoded(mask(99)))


def mend_rows(root: Path) -> None:
    """The picture alone, not the table that names it."""
    mend_files(root)


def mend_panoptic(root: Path) -> None:
    colors = np.zeros((H, W, 3), np.uint8)
    colors[..., 0] = 1 + mask(99)
    (root / "maps" / "000007.png").write_bytes(encoded(colors))


def mend_tars(root: Path) -> None:
    write_shard(root / "labels" / "1.tar", [(f"{i:06d}", {"seg.png": encoded(mask(i + 99))}) for i in range(6, 12)])


def make_sources(root: Path) -> dict[str, tuple[object, dict[str, str]]]:
    """Format -> source and answers."""
    import json

    masks(root / "masks")
    (root / "maps").mkdir()
    for i in range(12):
        colors = np.zeros((H, W, 3), np.uint8)
        colors[..., 0] = 1 + mask(i)
        (root / "maps" / f"{i:06d}.png").write_bytes(encoded(colors))
    images = [{"id": i, "file_name": f"{i:06d}.jpg", "height": H, "width": W} for i in range(12)]
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    told = [{"image_id": i, "file_name": f"{i:06d}.png", "segments_info": segments} for i in range(12)]
    kinds = [{"id": 1, "name": "floor"}, {"id": 2, "name": "wall"}]
    (root / "p.json").write_text(json.dumps({"images": images, "annotations": told, "categories": kinds}))
    lines = [f"{i:06d},masks/{i:06d}.png,x\n" for i in range(12)]
    (root / "t.csv").write_text("key,mask,caption\n" + "".join(lines))
    for shard in range(2):
        keys = range(6 * shard, 6 * shard + 6)
        write_shard(root / "labels" / f"{shard}.tar", [(f"{i:06d}", {"seg.png": encoded(mask(i))}) for i in keys])
    return {
        "files": (root / "masks", ASKED),
        "rows": (root / "t.csv", ASKED | {"label": "mask"}),
        "panoptic": (root / "p.json", {"maps": str(root / "maps"), "classes": "all"}),
        "tars": (root / "labels", ASKED | {"label": "seg.png"}),
    }


@pytest.mark.parametrize(
    ("form", "mend"), [("files", mend_files), ("rows", mend_rows), ("panoptic", mend_panoptic), ("tars", mend_tars)]
)
def test_a_mended_label_is_looked_up_again_with_its_shard_alone(tmp_path, data, caplog, form, mend):
    source, answers = make_sources(tmp_path / "own")[form]

    def again():
        return brought(data, source, tmp_path / "out", answers, form)

    assert again().labeled == 12
    np.testing.assert_array_equal(ids(tmp_path / "out", "000007"), mask(7))
    assert again().labeled == 0
    assert "changed" not in caplog.text
    before = (tmp_path / "out" / "segmentation").rglob("00000.tar")
    times = {path: path.stat().st_mtime_ns for path in before}
    mend(tmp_path / "own")
    assert again().labeled == 6
    assert "label files of 1 shard have changed and are read again, the first ones those of 00001" in caplog.text
    assert not (ids(tmp_path / "out", "000007") == mask(7)).all()
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert again().labeled == 0
    (column,) = Store(tmp_path / "out").columns()
    assert column.manifest.counts.model_dump()["replaced"] == 1, "by which a plan of the old labels is known"
    assert verify(Store(tmp_path / "out")) == []


def test_a_mended_annotation_of_voc_and_one_that_comes_late(tmp_path):
    data, folder = make_dataset(tmp_path / "data", shards=1), tmp_path / "xml"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i:06d}.xml").write_text(xml(4 + i))
    answers = {"classes": "cat", "origin": "1"}
    assert brought(data, folder, tmp_path / "out", answers, "voc", max_failures=0.2).failures == 1
    (folder / "000005.xml").write_text(xml(9))
    assert brought(data, folder, tmp_path / "out", answers, "voc").labels == 6
    size = (folder / "000001.xml").stat().st_size
    (folder / "000001.xml").write_text(xml(8))
    assert (folder / "000001.xml").stat().st_size == size, "the time alone tells"
    assert brought(data, folder, tmp_path / "out", answers, "voc").labeled == 6


def test_files_that_are_only_touched_give_the_same_bytes(tmp_path, data):
    brought(data, masks(tmp_path / "masks"), tmp_path / "out")
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("0000?.*")}
    os.utime(tmp_path / "masks" / "000003.png", (1, 1))
    brought(data, tmp_path / "masks", tmp_path / "out")
    assert len(kept) == 4
    assert kept == {path: path.read_bytes() for path in kept}
    (column,) = Store(tmp_path / "out").columns()
    assert "replaced" not in column.manifest.counts.model_dump()


def test_labels_whose_files_are_lost_are_not_given_up_unasked(tmp_path, data):
    brought(data, masks(tmp_path / "masks"), tmp_path / "out")
    for i in range(4):
        (tmp_path / "masks" / f"{i:06d}.png").unlink()
    uri = f"files:{tmp_path}/masks?{QUERY}"
    with pytest.raises(ExpertError, match=r"4 of 12 samples of .* have no label"):
        brought(data, tmp_path / "masks", tmp_path / "out")
    with pytest.raises(ExpertError, match="labeling stopped: 4 of 12 samples"):
        label(str(data), [uri], tmp_path / "out", progress=False)
    np.testing.assert_array_equal(ids(tmp_path / "out", "000003"), mask(3))
    (report,) = label(str(data), [uri], tmp_path / "out", max_failures=0.5, progress=False)
    assert (report.labels, report.failures) == (8, 4)


def test_other_colors_of_the_same_classes_are_other_labels(tmp_path, data):
    folder, names = masks(tmp_path / "masks"), tmp_path / "names.txt"
    names.write_text("0 0 0 floor\n1 1 1 wall\n")
    answers = ASKED | {"classes": f"@{names}"}
    brought(data, folder, tmp_path / "out", answers)
    names.write_text("1 1 1 floor\n0 0 0 wall\n")
    with pytest.raises(StoreError, match=r"preprocessing = .*'#000000', '#010101'"):
        brought(data, folder, tmp_path / "out", answers)


def test_a_shard_that_is_labeled_anew_costs_once(tmp_path, data):
    def seconds(**options) -> tuple[float, float]:
        brought(data, tmp_path / "masks", tmp_path / "out", **options)
        (column,) = Store(tmp_path / "out").columns()
        return column.seconds_in_use(), column.manifest.seconds

    masks(tmp_path / "masks")
    (column,) = [seconds() and Store(tmp_path / "out").columns()[0]]
    lines = (column.path / "runs.jsonl").read_text().replace('"seconds": 0.', '"seconds": 9000.')
    (column.path / "runs.jsonl").write_text(lines)
    assert seconds()[0] > 17_000
    mend_files(tmp_path)
    in_use, spent = seconds()
    assert 9_000 <= in_use < 10_000
    assert spent > 18_000
    (tmp_path / "masks" / "000000.png").write_bytes(b"")
    seconds(max_failures=0.2)
    lines = (column.path / "runs.jsonl").read_text().replace('"seconds": 0.', '"seconds": 9000.')
    (column.path / "runs.jsonl").write_text(lines)
    before = seconds(max_failures=0.2)[0]
    seconds(max_failures=0.2, retry_failed=True)
    assert Store(tmp_path / "out").columns()[0].seconds_in_use() >= before, "labels that were kept have their price"


# Errors ----------------------------------------------------------------------------------------------------


def test_a_label_that_cannot_be_used_is_not_the_experts_fault(tmp_path, data):
    folder = masks(tmp_path / "masks")
    np.save(folder / "000001.npy", np.full((H, W), -1.0))
    (folder / "000001.png").unlink()
    (folder / "000002.png").write_bytes(b"no picture")
    (folder / "000003.png").write_bytes(encoded(np.full((H, W), 7, np.uint8)))
    (folder / "000004.png").unlink()
    found = brought(data, folder, tmp_path / "out", max_failures=0.5)
    assert found.failures == 4
    told = [str(failure) for *_, failure in Store(tmp_path / "out").columns()[0].failures()]
    assert all(reason.startswith("its label cannot be used: ") and "expert" not in reason for reason in told)
    depth = {"task": "depth", "kind": "metric", "along": "z", "scale": "1", "invalid": "none"}
    with pytest.raises(ExpertError, match="its label cannot be used: ") as error:
        brought(data, folder, tmp_path / "depth", depth, max_failures=0.5)
    assert "the expert" not in str(error.value)


def test_the_budget_of_an_import_is_that_of_labeling(tmp_path, data):
    folder = masks(tmp_path / "masks")
    (folder / "000003.png").write_bytes(b"no picture")
    with pytest.raises(ExpertError, match=r"labeling stopped: 1 of 12 samples .*\n  1 × its label cannot be used"):
        brought(data, folder, tmp_path / "out")
    assert brought(data, folder, tmp_path / "out", max_failures=0.1).labels == 11


# Tars ------------------------------------------------------------------------------------------------------


def beside(folder: Path, name: str, values: list[np.ndarray]) -> Path:
    """A dataset of two shards with a label beside each picture."""
    for shard in range(2):
        both = [
            (key, {"jpg": encoded(image(i), "JPEG"), "txt": b"x", name: encoded(values[i])})
            for i, (key, _) in enumerate(samples(6, 6 * shard), 6 * shard)
        ]
        write_shard(folder / f"{shard:05d}.tar", both)
    return folder


@pytest.mark.parametrize("name", ["png", "seg.png"])
def test_masks_beside_the_pictures_in_their_tars(tmp_path, name):
    data = beside(tmp_path / "data", name, [mask(i) for i in range(12)])
    found = brought(data, data, tmp_path / "out", ASKED | {"label": name}, "tars")
    assert (found.labels, found.slug) == (12, f"tars-data-{name}")
    np.testing.assert_array_equal(ids(tmp_path / "out", "000007"), mask(7))
    with pytest.raises(
        ExpertError, match=r"no member .* is called <key>.sge.png. The names after keys there are jpg, .*png"
    ):
        brought(data, data, tmp_path / "out", ASKED | {"label": "sge.png"}, "tars")
    with pytest.raises(ExpertError, match="label is missing: the part of the names"):
        brought(data, data, tmp_path / "out", ASKED, "tars")


def test_depth_as_arrays_in_tars_of_their_own_at_an_address(tmp_path, data, memory):
    meters = [np.random.default_rng(i).uniform(1, 9, (H, W)).astype(np.float32) for i in range(12)]
    for i, one in enumerate(meters):
        np.save(tmp_path / f"{i:06d}.npy", one)
    members = [(f"{i:06d}", {"depth.npy": (tmp_path / f"{i:06d}.npy").read_bytes()}) for i in range(11)]
    members.append(("000011", {"depth.npy": b"\x93NUMPY, but no array"}))
    write_shard(tmp_path / "d.tar", members)
    with fsspec.open(f"{memory}/d.tar", "wb") as file:
        file.write((tmp_path / "d.tar").read_bytes())
    answers = {"task": "depth", "kind": "metric", "along": "z", "scale": "1", "invalid": "none", "label": "depth.npy"}
    found = brought(data, f"{memory}/d.tar", tmp_path / "out", answers, "tars", max_failures=0.1)
    assert (found.labels, found.slug) == (11, "tars-d-depth.npy")
    (column,) = Store(tmp_path / "out").columns()
    row = column.rows("00001").to_pylist()[1]
    np.testing.assert_allclose(column.label("00001", row).values, meters[7], rtol=1e-4)


def test_tars_whose_keys_come_twice_are_refused(tmp_path):
    for shard in "ab":
        write_shard(tmp_path / f"{shard}.tar", [("000001", {"seg.png": encoded(mask(1))})])
    with pytest.raises(ExpertError, match=r"shards 'a' and 'b' of .* both have 000001.seg.png"):
        experts.create(f"tars:{tmp_path}?{QUERY}&label=seg.png")
    with pytest.raises(DatasetError, match="no data was found"):
        experts.create(f"tars:{masks(tmp_path / 'none')}?{QUERY}&label=seg.png")


# Masks of two values ---------------------------------------------------------------------------------------


def test_masks_of_0_and_255_are_recognized_and_read(tmp_path, data):
    folder = masks(tmp_path / "masks")
    for i in range(12):
        Image.fromarray(255 * mask(i)).save(folder / f"{i:06d}.png")
    Image.fromarray(mask(5).astype(bool)).save(folder / "000005.png")  # one bit a pixel
    found = survey(folder)
    assert found.shares.keys() == {"#000000", "#ffffff"}
    told = dict(one.split("=", 1) for one in found.advice.split() if "=" in one)
    assert told == {"task": "segmentation", "classes": "palette:binary", "void": "none"}
    brought(data, folder, tmp_path / "out", told)
    assert Store(tmp_path / "out").columns()[0].convention.classes == ("background", "foreground")
    for key, seed in (("000005", 5), ("000007", 7)):
        np.testing.assert_array_equal(ids(tmp_path / "out", key), mask(seed))


def test_colors_are_listed_by_how_often_they_come(tmp_path):
    for name, pixels in (("a", [[9, 9, 9]]), ("b", [[5, 5, 5]]), ("c", [[20, 2, 3]] * 5)):
        Image.fromarray(np.uint8([pixels])).save(tmp_path / f"{name}.png")
    found = survey(tmp_path)
    assert [*found.shares] == ["#140203", "#050505", "#090909"]
    assert "  20 2 3 NAME\n  5 5 5 NAME\n  9 9 9 NAME" in found.advice


# Addresses and stores --------------------------------------------------------------------------------------


def test_a_json_and_a_table_are_read_by_address_and_a_folder_is_not(tmp_path, data, memory):
    import json

    images = [{"id": i, "file_name": f"{i:06d}.jpg", "height": H, "width": W} for i in range(12)]
    told = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    with fsspec.open(f"{memory}/a.json", "wb") as file:
        file.write(json.dumps(told).encode())
    answers = {"classes": "all", "masks": "no"}
    assert brought(data, f"{memory}/a.json", tmp_path / "out", answers, "coco").slug == "coco-a"
    for form, given in (("files", ASKED), ("voc", {"classes": "dog", "origin": "0"})):
        with pytest.raises(ExpertError, match=r"memory://here/masks is a remote address, .* read only from a disk"):
            brought(data, f"{memory}/masks", tmp_path / "out", given, form)


def test_rows_at_an_address_are_looked_up_again_when_they_change(tmp_path, data, memory):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def put(first: int) -> None:
        rows = {"key": [f"{i:06d}" for i in range(12)], "mask": [encoded(mask(i + first)) for i in range(12)]}
        with fsspec.open(f"{memory}/t.parquet", "wb") as file:
            pq.write_table(pa.table(rows | {"caption": ["x"] * 12}), file)

    put(0)
    for expected in (12, 0):
        found = brought(data, f"{memory}/t.parquet", tmp_path / "out", ASKED | {"label": "mask"}, "rows")
        assert found.labeled == expected
    put(50)
    assert brought(data, f"{memory}/t.parquet", tmp_path / "out", ASKED | {"label": "mask"}, "rows").labeled == 12
    np.testing.assert_array_equal(ids(tmp_path / "out", "000007"), mask(57))


def test_a_folder_of_shards_without_a_manifest_is_named(tmp_path, data):
    label(str(data), [Bright(), Bright("other")], tmp_path / "out", progress=False, check=False)
    manifest = tmp_path / "out" / "segmentation" / "test-bright" / "manifest.json"
    manifest.unlink()
    (problem,) = verify(Store(tmp_path / "out"))
    assert str(problem).startswith("segmentation/test-bright: has shards and no manifest.json")
    label(str(data), [Bright()], tmp_path / "out", progress=False, check=False)
    assert verify(Store(tmp_path / "out")) == []
    for path in (tmp_path / "out").rglob("manifest.json"):
        path.unlink()
    with pytest.raises(StoreError, match="but segmentation/test-bright, segmentation/test-other has shards"):
        verify(Store(tmp_path / "out"))
