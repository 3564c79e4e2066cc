"""The pure parts of scripts/openclipart.py and the folders that build_openclipart.py writes, on four tiny drawings."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.readers import open_dataset

pytest.importorskip("cairosvg")
SCRIPTS = Path(__file__).parents[1] / "scripts"
SHAPES = {
    "disc": '<circle cx="70" cy="30" r="20" fill="red"/>',
    "plate": '<rect x="10" y="10" width="60" height="60" fill="blue"/>',
    "glass": '<circle cx="50" cy="50" r="40" fill="red" opacity=".5"/><rect x="40" y="40" width="20" height="20"/>',
    "nothing": "",
}


def svg(shape: str, title: str, keywords: tuple[str, ...] = (), description: str = "") -> bytes:
    bag = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100" viewBox="0 0 100 100"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cc="http://web.resource.org/cc/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title>
<dc:description>{description}</dc:description><dc:subject><rdf:Bag>{bag}</rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>Its author</dc:title></cc:Agent></dc:creator></cc:Work></rdf:RDF></metadata>
{SHAPES[shape]}</svg>""".encode()


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("openclipart")


def test_a_caption_is_what_the_authors_wrote(drawings: Any) -> None:
    found = drawings.read("food/a_cup_01.svg", svg("disc", " A\n cup ", ("cup", "", "tea"), "Hot."))
    assert found.caption == "A cup. cup, tea. Hot."
    assert found.key == "food/a_cup_01"
    assert drawings.read("food/x.svg", svg("disc", "Cup", (), "cup")).caption == "Cup"


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("computer/x.svg", svg("disc", "Cup"), "folder"),
        ("food/x.svg", svg("disc", "Cup", ("hash(0x1)",)), "hash"),
        ("food/x.svg", svg("disc", "Cup", (), "mail me@example"), "hash"),
        ("food/x.svg", svg("disc", " "), "no title"),
        ("food/x.svg", b"<svg", "not XML"),
    ],
)
def test_what_is_left_out_has_a_reason(drawings: Any, path: str, data: bytes, reason: str) -> None:
    assert reason in drawings.read(path, data)


def test_a_series_is_not_torn_apart(drawings: Any) -> None:
    def one(path: str, title: str) -> Any:
        return drawings.Drawing(path, title, title)

    cup, cup_bw = one("food/cup_01.svg", "Cup"), one("office/mug_bw.svg", "Cup (BW)")
    mug, tree = one("office/mug_02.svg", "Clipart by Nicu Buculei"), one("plants/tree_01.svg", "Tree")
    groups = drawings.series([cup, tree, cup_bw, mug])
    assert sorted(sorted(d.path for d in group) for group in groups) == [
        ["food/cup_01.svg", "office/mug_02.svg", "office/mug_bw.svg"],
        ["plants/tree_01.svg"],
    ]


def test_splits_are_drawn_by_hash_in_their_shares(drawings: Any) -> None:
    many = [drawings.Drawing(f"food/{i}.svg", str(i), "") for i in range(2000)]
    splits = [drawings.split_of([d]) for d in many]
    for split, share in drawings.SHARES.items():
        assert abs(splits.count(split) / 20 - share) < 4
    assert splits == [drawings.split_of([d]) for d in many]
    assert drawings.split_of(many[: drawings.LARGE + 1]) == "captioned"
    assert drawings.split_of(many[:3]) == drawings.split_of(many[2::-1])


def test_the_truth_is_the_alpha(drawings: Any) -> None:
    image = drawings.render(svg("glass", "Glass"))
    assert max(image.size) == drawings.SIDE
    picture, alpha = drawings.compose(image, "food/glass")
    label = drawings.truth(alpha)
    pixels = np.asarray(picture)
    assert pixels.shape == (drawings.SIDE, drawings.SIDE, 3)
    assert (pixels[label.ids == 1] < 60).all(), "the black square is the foreground"
    assert (pixels[label.valid & (label.ids == 0)] > 80).all(), "the page is not dark"
    half = (alpha > 110) & (alpha < 140)
    assert half.sum() > 1000
    assert not label.valid[half].any(), "half-transparent is unknown"
    again, _ = drawings.compose(image, "food/glass")
    assert (np.asarray(again) == pixels).all()


def test_the_outline_is_an_edge_and_the_inside_unknown(drawings: Any) -> None:
    _, alpha = drawings.compose(drawings.render(svg("disc", "Disc")), "food/disc")
    label = drawings.outline(alpha)
    rows, columns = np.nonzero(alpha > 128)
    middle, radius = (rows.mean(), columns.mean()), (np.ptp(rows) + 1) / 2
    distance = np.hypot(*(np.indices(alpha.shape) - np.reshape(middle, (2, 1, 1)))) - radius
    edge = label.values == 1
    assert np.abs(distance[edge]).max() < 2
    assert edge.sum() > 5 * radius, "all around"
    assert label.valid[distance > 2].all(), "the page is known"
    assert not label.valid[distance < -2 * drawings.BAND].any(), "what the disc holds is not"


def test_a_soft_end_is_no_edge(drawings: Any) -> None:
    ramp = np.tile(np.linspace(0, 255, drawings.SIDE).astype(np.uint8), (drawings.SIDE, 1))
    label = drawings.outline(ramp)
    assert label.valid[:, :8].all()
    assert not label.values.any()


def test_a_drawing_that_fills_its_box_has_no_truth(drawings: Any) -> None:
    _, alpha = drawings.compose(drawings.render(svg("plate", "Plate")), "food/plate")
    assert drawings.truth(alpha) is None
    with pytest.raises(ValueError, match="draws nothing"):
        drawings.render(svg("nothing", "Air"))


def test_the_folders_are_read_by_clipzoo(drawings: Any, tmp_path: Path) -> None:
    build = importlib.import_module("build_openclipart")
    parts = {
        "test": [("disc", "Disc"), ("plate", "Plate")], "validation": [("glass", "Glass")],
        "probe": [("disc", "Disk")], "captioned": [("disc", "Sun"), ("disc", "Sun 2")],
    }  # fmt: skip
    for split, some in parts.items():
        found = []
        for i, (shape, title) in enumerate(some):
            path = f"food/{split}_{i}.svg"
            (tmp_path / "svg" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "svg" / path).write_bytes(svg(shape, title))
            found.append(drawings.Drawing(path, title, title))
            target = tmp_path / "out" / "drawings" / f"{found[-1].key}.png"
            assert drawings.draw((tmp_path / "svg" / path, target)) is None
        build.write_split(split, found, tmp_path / "out" / "drawings", tmp_path / "out")
    test = tmp_path / "out" / "test"
    dense = read_split(open_benchmark(test), (64, 64))
    labels = dense.truth["segmentation"].labels
    assert [label is None for label in labels] == [False, True]
    assert [label is None for label in dense.truth["edges"].labels] == [False, True]
    assert dense.captions == (("Disc",), ("Plate",))
    reader = open_dataset(str(tmp_path / "out" / "captioned" / "images"))
    assert len(reader.index(reader.shards[0])) == 2


def test_reasons_are_counted_and_files_taken_once(drawings: Any, tmp_path: Path) -> None:
    build = importlib.import_module("build_openclipart")
    for path in ("food/a.svg", "food/b.svg", "special/c.svg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(svg("disc", "Sun"))
    reasons = build.Counter()
    assert [d.path for d in build.collect(tmp_path, reasons)] == ["food/a.svg"]
    assert json.loads(json.dumps(reasons)) == {"the same file or name as another": 1, "folder left out": 1}
