"""column: and ensemble:, labels made of the labels in other columns, and labeling that hands these over."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipzoo import experts, recipe
from clipzoo.derived import _fusion, column
from clipzoo.errors import ExpertError, SampleError, StoreError
from clipzoo.experts import Expert, ExpertCard, ExpertInput
from clipzoo.labeling import label
from clipzoo.runs import Run
from clipzoo.store import Store
from clipzoo.tasks import Convention, rle
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals, normals_from_depth
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import Camera, ImageArray
from making import Bright, encoded, image, make_dataset

SIZE = (12, 16)


class Tilted(Expert):
    """Metric depth of a plane that comes nearer to the right, and of a box before it; nothing for dark corners."""

    def __init__(self, weights: str = "02", kind: str = "metric") -> None:
        self.card = ExpertCard("test:tilted", "depth", Convention(kind=kind, along="z"), "MIT", weights_sha256=weights)

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images: Sequence[ImageArray]) -> list[Depth]:
        return [self.one(picture) for picture in images]

    def one(self, picture: ImageArray) -> Depth:
        if picture[0, 0, 0] < 40:
            raise ValueError("a dark corner")
        x = (np.arange(SIZE[1]) + 0.5) / SIZE[1] - 0.5
        plane = np.tile(2 / (1 + 0.5 * x / 0.8), (SIZE[0], 1))  # z = 2 − x/2 seen with fx = 0.8 of the width
        plane[2:7, 3:8] = 0.7
        return Depth(plane.astype(np.float32), np.ones(SIZE, bool), self.card.convention.kind, "z")


class Halves(Bright):
    """`Bright` with another border between dark and bright."""

    def __init__(self, name: str, border: int) -> None:
        super().__init__(name)
        self.border = border

    def predict(self, images: Sequence[ImageArray]) -> list[Segmentation]:
        return [
            Segmentation((picture.mean(2) > self.border).astype(np.uint16), np.ones(SIZE, bool)) for picture in images
        ]


FOV = float(np.degrees(2 * np.arctan(0.5 / 0.8)))
NORMALS = f"column:depth/test-tilted?fov={FOV}&to=normals"


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(make_dataset(tmp_path / "shards"))


def stored(root: Path, expert: str) -> dict[str, Any]:
    """Key -> label, or the reason why there is none, of the column that this URI made."""
    (found,) = [one for one in Store(root).columns() if one.manifest.expert["uri"] == expert]
    rows = [(shard, row) for shard in sorted(found.committed()) for row in found.rows(shard).to_pylist()]
    return {row["key"]: row["error"] or found.label(shard, row) for shard, row in rows}


def boxes(*rows: tuple[float, ...], ignored: Sequence[bool] = (), masks: Any = None) -> Detection:
    """(x0, y0, x1, y1, id, score) each."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    nothing = np.zeros(len(table), bool) if not ignored else np.array(ignored)
    return Detection(SIZE, table[:, :4], table[:, 4].astype(np.uint16), table[:, 5], nothing, masks)


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


# Labeling with columns ------------------------------------------------------------------------------------


def test_one_call_makes_a_column_and_what_is_made_of_it(data, tmp_path):
    """In whatever order they are named; a sample that the first one lacks is a row with its reason."""
    reports = label(data, [NORMALS, Tilted()], tmp_path / "labels", max_failures=1, progress=False)
    assert [report.task for report in reports] == ["normals", "depth"]
    depths, normals = stored(tmp_path / "labels", "test:tilted"), stored(tmp_path / "labels", NORMALS)
    dark = [key for key, found in depths.items() if isinstance(found, str)]
    assert 0 < len(dark) < len(depths) == len(normals) == 12
    for key, found in normals.items():
        if key in dark:
            assert "no label to read: depth/test-tilted has none of this sample" in found
            continue
        camera = Camera(0.8, 0.8 * 16 / 12)
        wanted = normals_from_depth(depths[key], camera)
        assert np.array_equal(found.valid, wanted.valid)
        assert found.vectors == pytest.approx(wanted.vectors, abs=0.005)
        plane = np.array([-1, 0, 2]) / np.sqrt(5)  # what comes nearer to the right faces left
        assert found.vectors[:, 9, 10] == pytest.approx(plane, abs=0.01)
        assert not found.valid[2:7, 2:4].any(), "the depth jumps here"
    again = label(data, [NORMALS], tmp_path / "labels", max_failures=1, progress=False)
    assert again[0].labeled == 0


def test_a_column_says_whose_labels_it_is_made_of(data, tmp_path):
    label(data, [Tilted(), NORMALS], tmp_path / "labels", max_failures=1, progress=False)
    (made,) = [one for one in Store(tmp_path / "labels").columns() if one.task == "normals"]
    told = made.manifest.expert["preprocessing"]
    assert told["reads"]["depth/test-tilted"]["weights_sha256"] == "02"
    assert told["fov"] == str(FOV)
    assert made.manifest.expert["licence"] == "MIT"
    Store(tmp_path / "labels").remove("depth", "test-tilted")
    label(data, [Tilted("03")], tmp_path / "labels", max_failures=1, progress=False)
    with pytest.raises(StoreError, match="made with preprocessing"):
        label(data, [NORMALS], tmp_path / "labels", max_failures=1, progress=False)


def test_derived_labels_are_made_again_when_the_labels_that_they_are_made_of_change(tmp_path, caplog):
    """One shard of masks is replaced and imported again; the shard of boxes made of it follows, the other one stays."""
    data, out, masks = make_dataset(tmp_path / "shards"), tmp_path / "out", tmp_path / "masks"
    masks.mkdir()
    for i in range(12):
        (masks / f"{i:06d}.png").write_bytes(encoded(np.uint8(block(2, 2, 7, 7))))
    truth = f"files:{masks}?task=segmentation&classes=wall,box&void=none&as=truth"
    parts = "column:segmentation/truth?things=box&to=detection"
    label(data, [truth, parts], out, progress=False)
    assert [one.labeled for one in label(data, [truth, parts], out, progress=False)] == [0, 0]
    (masks / "000000.png").write_bytes(encoded(np.uint8(block(2, 2, 9, 9))))
    label(data, truth, out, progress=False)
    (report,) = label(data, parts, out, progress=False)
    assert report.labeled == 6
    assert "labels in segmentation/truth of 1 shard have changed and are read again" in caplog.text
    assert stored(out, parts)["000000"].boxes.tolist() == [[2, 2, 9, 9]]
    assert label(data, parts, out, progress=False)[0].labeled == 0


def test_derived_labels_without_a_record_of_what_they_are_made_of_are_current(data, tmp_path):
    """Those of an earlier clipzoo. Labels that are kept do not get a record, since they may be old."""
    label(data, [Tilted(), NORMALS], tmp_path / "labels", max_failures=1, progress=False)
    (made,) = [one for one in Store(tmp_path / "labels").columns() if one.task == "normals"]
    path = made.path / "runs.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "source": ""}) + "\n" for line in lines))
    Store(tmp_path / "labels").remove("depth", "test-tilted")
    again = Tilted()
    again.one = lambda picture: Depth(np.full(SIZE, 3, np.float32), np.ones(SIZE, bool), "metric", "z")
    options = {"max_failures": 1, "progress": False}
    (depth, normals) = label(data, [again, NORMALS], tmp_path / "labels", **options)
    assert (depth.labeled, normals.labeled) == (12, 0)
    (normals,) = label(data, NORMALS, tmp_path / "labels", retry_failed=True, **options)
    assert 0 < normals.labeled < 12
    assert not any(line.get("source") for line in map(json.loads, path.read_text().splitlines()))


def test_a_damaged_label_that_is_read_is_one_failure(data, tmp_path):
    label(data, Bright(), tmp_path / "out", progress=False)
    (read,) = Store(tmp_path / "out").columns()
    shard = sorted(read.committed())[0]
    row = read.rows(shard).to_pylist()[1]
    with read.file(shard, ".tar").open("r+b") as file:
        file.seek(row["offset"])
        file.write(b"\0" * 8)
    parts = "column:segmentation/test-bright?to=detection&things=bright"
    (report,) = label(data, parts, tmp_path / "out", max_failures=1, progress=False)
    assert report.failures == 1
    (kind,) = report.reasons
    assert kind == "damaged-input"


def test_what_is_not_there_is_asked_for(data, tmp_path):
    with pytest.raises(
        ExpertError, match=r"reads the column 'depth/test-tilted', which does not exist(.|\n)*same call"
    ):
        label(data, [NORMALS], tmp_path / "labels", progress=False)
    first = "00000"
    label(data, [Tilted()], tmp_path / "labels", shards=[first], max_failures=1, progress=False)
    with pytest.raises(
        StoreError, match=r"with 1 missing shard, the first is '00001'\. Label this column first with test:tilted"
    ):
        label(data, [NORMALS], tmp_path / "labels", max_failures=1, progress=False)
    (part,) = label(data, [NORMALS], tmp_path / "labels", shards=[first], max_failures=1, progress=False)
    assert part.shards == 1


def test_columns_of_another_dataset_are_not_read(data, tmp_path):
    label(data, [Tilted()], tmp_path / "labels", max_failures=1, progress=False)
    other = make_dataset(tmp_path / "other", shards=1)
    with pytest.raises(StoreError, match="label store of another dataset"):
        label(str(other), [NORMALS], tmp_path / "labels", max_failures=1, progress=False)


def test_columns_that_read_each_other(data, tmp_path):
    class Circular(Tilted):
        def __init__(self, own: str, other: str) -> None:
            self.card = ExpertCard(f"test:{own}", "depth", Convention(kind="metric", along="z"))
            self.reads = (f"depth/test-{other}",)

    with pytest.raises(ExpertError, match="read each other's columns"):
        label(data, [Circular("a", "b"), Circular("b", "a")], tmp_path / "labels", progress=False)


def test_three_stages(data, tmp_path):
    """Boxes of an ensemble of two class maps, all named in one call."""
    ensemble = "ensemble:segmentation/test-a,segmentation/test-b?agree=1"
    parts = "column:segmentation/ensemble-segmentation-test-a-segmentation-test-b-agree-1?to=detection&things=bright"
    out = tmp_path / "labels"
    label(data, [parts, ensemble, Halves("a", 120), Halves("b", 140)], out, progress=False)
    one, two = stored(out, "test:a"), stored(out, "test:b")
    for key, found in stored(out, ensemble).items():
        same = one[key].ids == two[key].ids
        assert np.array_equal(found.valid, same)
        assert (found.ids == one[key].ids)[same].all()
        assert found.confidence == 1
    (made,) = [column for column in Store(out).columns() if column.task == "detection"]
    assert made.convention == Convention(("bright",))


def test_a_recipe_knows_what_its_derived_columns_mean(data, tmp_path):
    """Before anything is labeled: the head of the student is built by it."""
    made = recipe.Recipe.model_validate(
        {
            "name": "x", "data": data, "student": {"model": "demo:clip"}, "training": {"steps": 1},
            "columns": [{"expert": "demo:depth"}, {"expert": "column:depth/demo-depth?to=normals&fov=60"},
                        {"expert": "demo:segmentation"},
                        {"expert": "column:segmentation/demo-segmentation?to=detection&things=seating,table"}],
        }
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(made.to_yaml())
    specs = Run(made, tmp_path / "run").specs
    assert [spec.convention.classes for _, spec in specs.values() if spec.task == "detection"] == [("seating", "table")]


def test_a_picture_alone_says_nothing(tmp_path):
    with pytest.raises(ExpertError, match="whole samples"):
        experts.create(NORMALS).predict([image(0)])
    with pytest.raises(SampleError, match="no label to read"):
        experts.create(NORMALS).predict_inputs([ExpertInput("a", image(0))])


# column: ---------------------------------------------------------------------------------------------------


def test_masks_are_painted_with_the_surest_on_top():
    masks = [block(0, 0, 8, 6), block(4, 2, 12, 8), block(6, 0, 16, 3)]
    label = boxes((0, 0, 8, 6, 1, 0.9), (4, 2, 12, 8, 0, 0.5), (6, 0, 16, 3, 2, 0.95), ignored=[False, False, True],
                  masks=tuple(map(rle.encode, masks)))  # fmt: skip
    made = column.painted(label, background=True)
    assert (made.ids[masks[0]] == 2).all()
    assert (made.ids[masks[1] & ~masks[0]] == 1).all()
    doubtful = masks[2] & ~masks[0] & ~masks[1]
    assert np.array_equal(~made.valid, doubtful)
    assert (made.ids[~(masks[0] | masks[1] | masks[2])] == 0).all()
    areas = (masks[0].sum(), (masks[1] & ~masks[0]).sum())
    assert made.confidence == pytest.approx(np.average([0.9, 0.5], weights=areas), abs=1e-6)
    rest = column.painted(label, background=False)
    assert np.array_equal(rest.valid, masks[0] | masks[1])
    assert (rest.ids[masks[0]] == 1).all()
    some = column.painted(replace(label, asked=np.array([1, 2], np.uint16)), background=True)
    assert np.array_equal(some.valid, rest.valid), "it may be of a class that was not looked for"
    with pytest.raises(SampleError, match="no masks"):
        column.painted(boxes((0, 0, 8, 6, 1, 0.9)), background=True)
    assert not column.painted(boxes(), background=False).valid.any()


def test_an_ignored_box_without_a_mask_is_unknown_as_a_whole():
    """As that of a picture whose caption names no class (``prompts=caption``), which was not searched."""
    mask = block(2, 2, 6, 6)
    label = boxes((2, 2, 6, 6, 1, 0.9), (4.5, 0, 9, 8, 0, 0), ignored=[False, True], masks=(rle.encode(mask), None))
    made = column.painted(label, background=True)
    assert np.array_equal(~made.valid, block(4, 0, 9, 8) & ~mask)
    assert (made.ids[mask] == 2).all()
    not_searched = replace(boxes((0, 0, 16, 12, 0, 0), ignored=[True]), asked=np.zeros(0, np.uint16))
    assert not column.painted(not_searched, background=True).valid.any()
    tight = column.tightened(not_searched)
    assert (tight.boxes.tolist(), tight.ignored.tolist()) == ([[0, 0, 16, 12]], [True])


def test_boxes_are_drawn_tight_around_masks():
    masks = (rle.encode(block(3, 2, 7, 9)), rle.encode(np.zeros(SIZE, bool)))
    made = column.tightened(boxes((0, 0, 16, 12, 1, 0.9), (1, 1, 2, 2, 0, 0.8), masks=masks))
    assert made.boxes.tolist() == [[3, 2, 7, 9], [1, 1, 2, 2]]
    assert made.ignored.tolist() == [False, True]


def test_connected_parts_of_things_become_boxes():
    ids = np.zeros(SIZE, np.uint16)
    ids[1:4, 1:5] = 2
    ids[4:6, 5:9] = 2  # touches it at a corner: one part
    ids[8:11, 10:15] = 1
    ids[0, 15] = 2  # too small
    valid = ~block(0, 8, 3, 12)
    made = column.components(Segmentation(ids, valid, 0.8), (2, 1), least=0.02)
    told = {tuple(box): (int(number), bool(doubt)) for box, number, doubt in
            zip(made.boxes.tolist(), made.ids, made.ignored, strict=True)}  # fmt: skip
    assert told == {
        (1, 1, 9, 6): (0, False), (15, 0, 16, 1): (0, True), (10, 8, 15, 11): (1, False), (0, 8, 3, 12): (0, True),
    }  # fmt: skip
    assert made.scores == pytest.approx(0.8)


def test_thin_unknown_lines_do_not_ignore_the_picture():
    """Borders between regions, as `ensemble:` leaves them: all are connected, and their box is the whole picture."""
    side = 256
    ids, valid = np.zeros((side, side), np.uint16), np.ones((side, side), np.bool_)
    ids[70:100, 70:110] = 1
    valid[64::64], valid[:, 64::64] = False, False
    valid[200:250, 200:250] = False  # a part that belongs to the web, and is not thin
    valid[10:20, 10:30] = False  # a part of its own
    made = column.components(Segmentation(ids, valid), (1,), least=0.001)
    assert [tuple(box) for box in made.boxes[~made.ignored].tolist()] == [(70, 70, 110, 100)]
    assert (10, 10, 30, 20) in {tuple(box) for box in made.boxes[made.ignored].tolist()}
    assert not (made.valid & ~valid).any(), "every unknown pixel is ignored"
    assert made.valid.mean() > valid.mean() - 0.09
    again = column.components(Segmentation(ids, valid), (1,), least=0.001)
    assert np.array_equal(made.boxes, again.boxes)
    for size in ((1, 1), (3, 40), (17, 300)):
        odd = np.random.default_rng(0).random(size) > 0.6
        made = column.components(Segmentation(np.zeros(size, np.uint16), odd), (), least=0)
        assert not (made.valid & ~odd).any()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("depth/x", "labels of depth do not become labels of what"),
        ("normals/x?to=depth", "integrating them bends"),
        ("segmentation/x?to=edges", "two chairs"),
        ("depth/x?to=normals", "fov is missing"),
        ("depth/x?to=normals&fov=200", "less than or equal to 179"),
        ("depth/x?to=normals&fov=60&bned=3", "options are wrong:\n  bned is not an option .*; did you mean bend"),
        ("depth/x?to=normals&far=3", "Other labels do not state this(.|\n)*far is not an option"),
        ("segmentation/x?to=detection", "things is missing"),
        ("detection/x?to=segmentation&background=", "a name is needed"),
        ("depth?to=normals&fov=60", "as `clipzoo labels ls` lists them"),
        ("depth/../../x?to=normals&fov=60", "as `clipzoo labels ls` lists them"),
    ],
)
def test_wrong_columns(uri, message):
    with pytest.raises(ExpertError, match=message):
        experts.create(f"column:{uri}")


def bound(uri: str, *conventions: Convention) -> Expert:
    expert = experts.create(uri)
    cards = [ExpertCard("x:y", name.split("/")[0], c) for name, c in zip(expert.reads, conventions, strict=True)]
    expert.bind(dict(zip(expert.reads, cards, strict=True)))
    return expert


def test_meanings_of_columns():
    space = Convention(("cat", "dog"))
    assert bound("column:detection/x?to=segmentation&background=rest", space).card.convention.classes == (
        "rest", "cat", "dog",
    )  # fmt: skip
    assert bound("column:detection/x?to=detection", space).card.convention == space
    assert bound("column:segmentation/x?to=detection&things=all", space).card.convention == space
    for uri, convention, message in (
        ("column:detection/x?to=segmentation&background=cat", space, "a class 'cat' already"),
        ("column:segmentation/x?to=detection&things=cow", space, "no class 'cow'; it has cat, dog"),
        ("column:depth/x?to=normals&fov=60", Convention(kind="affine-disparity"), "an unknown shift bends planes"),
    ):
        with pytest.raises(ExpertError, match=message):
            bound(uri, convention)


# ensemble: -------------------------------------------------------------------------------------------------


def maps(*rows: str) -> list[Segmentation]:
    """A label a text: digits are ids, dots unknown."""
    values = [np.array([[9 if c == "." else int(c) for c in row]], np.uint16) for row in rows]
    return [Segmentation(ids, ids != 9) for ids in values]


def one_by_one(pile: Detection, owner: np.ndarray, overlap: float) -> list[tuple[list[int], np.ndarray]]:
    """Return rows and box of each cluster, of a search through all clusters for each box."""
    clusters: list[tuple[list[int], np.ndarray]] = []
    for row in np.argsort(-pile.scores, kind="stable").tolist():
        if pile.ignored[row]:
            continue
        free = [
            i for i, (rows, _) in enumerate(clusters)
            if pile.ids[rows[0]] == pile.ids[row] and owner[row] not in owner[rows]
        ]  # fmt: skip
        near = _fusion._iou(pile.boxes[[row]], np.array([clusters[i][1] for i in free]).reshape(-1, 4))[0]
        if near.max(initial=0) >= overlap:
            place = free[int(near.argmax())]
            rows = [*clusters[place][0], row]
            weights = np.maximum(pile.scores[rows].astype(np.float64), 1e-6)
            clusters[place] = rows, np.average(pile.boxes[rows], axis=0, weights=weights)
        else:
            clusters.append(([row], pile.boxes[row].astype(np.float64)))
    return clusters


@pytest.mark.parametrize("overlap", [0.01, 0.3, 0.55, 1.0])
def test_clusters_of_boxes_are_those_of_a_search_one_by_one(overlap):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        count = [0, 1, 40, 90, 90, 120][seed]
        low = rng.integers(0, 40, (count, 2))
        boxes = np.concatenate([low, low + rng.integers(1, 20, (count, 2))], 1).astype(np.float32)
        scores = rng.choice([0.0, 0.25, 0.5, 0.9], count).astype(np.float32)
        pile = Detection((64, 64), boxes, rng.integers(0, 3, count).astype(np.uint16), scores, rng.random(count) < 0.1)
        owner = np.sort(rng.integers(0, 3, count))
        found = _fusion._clusters(pile, owner, overlap)
        expected = one_by_one(pile, owner, overlap)
        assert [one.rows for one in found] == [rows for rows, _ in expected]
        assert all(one.box.tobytes() == box.tobytes() for one, (_, box) in zip(found, expected, strict=True))


def test_hundreds_of_boxes_are_fused_in_a_fraction_of_a_second():
    rng = np.random.default_rng(0)
    low = rng.random((150, 2)) * 900
    boxes = np.concatenate([low, low + 20 + rng.random((150, 2)) * 80], 1).astype(np.float32)
    ids, none = np.zeros(150, np.uint16), np.zeros(150, np.bool_)
    scores = rng.random(150).astype(np.float32)
    labels = [Detection((1000, 1000), boxes + shift, ids, scores, none) for shift in (0, 300, 600)]
    pile, owner = _fusion.joined(labels), np.repeat(np.arange(3), 150)
    began = time.process_time()
    _fusion._clusters(pile, owner, 0.55)
    fast = time.process_time() - began
    began = time.process_time()
    one_by_one(pile, owner, 0.55)
    assert 4 * fast < time.process_time() - began


def test_the_majority_has_the_pixel():
    made = _fusion.vote(maps("00112.", "0122..", "0211.."), agree=0.5)
    assert made.valid.tolist() == [[True, False, True, True, False, False]]
    assert made.ids[made.valid].tolist() == [0, 1, 1]
    assert made.confidence == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert _fusion.vote(maps("00112.", "0122..", "0211.."), agree=1).valid.tolist()[0] == [True] + [False] * 5
    lone = _fusion.vote(maps("00112.", "0122..", "0211.."), agree=0.2)
    assert lone.valid.tolist()[0] == [True, False, True, True, True, False], "a tie stays unknown"
    assert _fusion.vote(maps("0", "1"), agree=0).confidence is None


def metric(*rows: Sequence[float], kind: str = "metric") -> list[Depth]:
    """A label a row; 0 is unknown."""
    return [Depth(np.float32([row]), np.float32([row]) != 0, kind, "z") for row in rows]


def test_metric_depth_is_the_median_where_experts_are_near_it():
    made = _fusion.middle(metric([1, 2, 4, 0], [1.1, 2, 8, 0], [0.9, 2.2, 1, 3]), spread=0.25)
    assert made.valid.tolist() == [[True, True, False, False]]
    assert made.values[0, :2] == pytest.approx([1, 2])
    assert (made.kind, made.along) == ("metric", "z")


def test_affine_depths_are_aligned_before_they_are_compared():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, (1, 200))
    labels = [Depth((a * truth + b).astype(np.float32), np.ones((1, 200), bool), "affine-depth", None)
              for a, b in ((1, 0), (3, -7), (0.2, 100))]  # fmt: skip
    made = _fusion.middle(labels, spread=0.01)
    assert made.valid.all()
    assert np.corrcoef(made.values.ravel(), truth.ravel())[0, 1] == pytest.approx(1, abs=1e-5)
    broken = labels[0].values.copy()
    broken[0, :5] += 4
    odd = Depth(broken, labels[0].valid, "affine-depth", None)
    assert (_fusion.middle([odd, *labels[1:]], spread=0.3).valid.ravel() == (np.arange(200) >= 5)).all()
    flat = Depth(np.ones((1, 200), np.float32), labels[0].valid, "affine-depth", None)
    with pytest.raises(SampleError, match="flat"):
        _fusion.middle([flat, *labels], 0.3)


def test_normals_are_averaged_as_directions():
    def towards(*degrees: float) -> Normals:
        angles = np.radians(degrees)[None]
        vectors = np.stack([np.sin(angles), 0 * angles, np.cos(angles)]).astype(np.float32)
        return Normals(vectors, np.isfinite(angles))

    made = _fusion.direction([towards(0, 10, 0, -90, 5), towards(20, 10, 80, 90, np.nan)], angle=30)
    assert made.valid.tolist() == [[True, True, False, False, False]]
    assert np.degrees(np.arctan2(made.vectors[0], made.vectors[2]))[0, :2] == pytest.approx([10, 10], abs=1e-4)
    assert np.linalg.norm(made.vectors[:, made.valid], axis=0) == pytest.approx(1)


def test_edges_are_averaged():
    def edges(*values: float) -> Edges:
        row = np.float32([values])
        return Edges(np.nan_to_num(row), np.isfinite(row))

    made = _fusion.mean([edges(0, 1, 0.5), edges(0.5, 1, np.nan), edges(1, np.nan, np.nan)])
    assert made.values.tolist() == [[0.5, 1, 0]]
    assert made.valid.tolist() == [[True, True, False]]


def test_boxes_that_experts_agree_on_are_fused():
    one = boxes((0, 0, 8, 8, 0, 0.9), (10, 2, 14, 6, 1, 0.6), (0, 8, 4, 12, 1, 0.7))
    two = boxes((0, 0, 8, 9, 0, 0.3), (10, 2, 14, 6, 0, 0.8), (0, 8, 4, 12, 1, 0.2), (12, 8, 16, 12, 0, 0.4),
                ignored=[False, False, True, True])  # fmt: skip
    made = _fusion.fuse([one, two], overlap=0.55, experts=2)
    sure = made.take(~made.ignored)
    assert sure.boxes.tolist() == [[0, 0, 8, 8.25]]
    assert sure.scores == pytest.approx([0.6])
    doubtful = made.take(made.ignored)
    assert sorted(map(tuple, doubtful.boxes.tolist())) == [
        (0, 8, 4, 12), (0, 8, 4, 12), (10, 2, 14, 6), (10, 2, 14, 6), (12, 8, 16, 12),
    ]  # fmt: skip
    either = _fusion.fuse([one, two], overlap=0.55, experts=1)
    assert (~either.ignored).sum() == 4
    assert either.scores.max() == pytest.approx(0.6)
    assert (either.ignored).sum() == 1, "what was found is not doubtful"


def test_of_fused_boxes_is_known_what_every_expert_was_asked_for():
    def asked(*given):
        labels = [replace(boxes(), asked=None if ids is None else np.array(ids, np.uint16)) for ids in given]
        made = _fusion.fuse(labels, overlap=0.5, experts=1).asked
        return made if made is None else made.tolist()

    assert asked(None, None) is None
    assert asked(None, (2, 0), (1, 2)) == [2]
    assert asked((0,), (1,)) == []


def test_an_expert_has_one_vote_an_object():
    twice = boxes((0, 0, 8, 8, 0, 0.9), (0, 0, 8, 8, 0, 0.8))
    made = _fusion.fuse([twice, boxes()], overlap=0.5, experts=2)
    assert made.ignored.all()
    assert len(_fusion.fuse([boxes(), boxes()], 0.5, 2).ids) == 0


def test_masks_of_a_fused_box_are_where_most_are():
    blocks = [block(0, 0, 8, 8), block(0, 0, 8, 7), block(1, 0, 8, 8)]
    labels = [boxes((0, 0, 8, 8, 0, 0.9), masks=(rle.encode(mask),)) for mask in blocks]
    (text,) = _fusion.fuse(labels, 0.5, 2).masks
    assert np.array_equal(rle.decode(text, SIZE), sum(mask.astype(int) for mask in blocks) >= 2)
    assert _fusion.fuse([*labels[:2], boxes((0, 0, 8, 8, 0, 0.9))], 0.5, 2).masks is None


def test_labels_of_other_sizes_are_brought_to_the_largest():
    expert = bound("ensemble:segmentation/a,segmentation/b", Convention(("a", "b")), Convention(("a", "b")))
    small, large = maps("01")[0], Segmentation(np.uint16([[0, 0, 1, 1]] * 2), np.ones((2, 4), bool))
    labels = {"segmentation/a": small, "segmentation/b": large}
    (made,) = expert.predict_inputs([ExpertInput("k", image(0), labels=labels)])
    assert made.ids.tolist() == large.ids.tolist()
    assert made.valid.all()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("depth/a", "two or more"),
        ("depth/a,depth/a", "two or more columns"),
        ("depth/a,normals/b", "depth and normals"),
        ("color/a,color/b", "one of the tasks segmentation"),
        ("depth/a,depth/b?agree=0.5", "agree is not an option of labels of depth"),
        ("edges/a,edges/b?agree=0.5", "agree is not an option of labels of edges"),
        ("segmentation/a,segmentation/b?agree=2", "less than or equal to 1"),
        ("detection/a,detection/b?experts=3", "there are 2 columns"),
    ],
)
def test_wrong_ensembles(uri, message):
    with pytest.raises(ExpertError, match=message):
        experts.create(f"ensemble:{uri}")


def test_only_labels_of_one_meaning_are_compared():
    with pytest.raises(ExpertError, match=r"depth/b is .*affine-disparity.* that of depth/a .*metric"):
        bound("ensemble:depth/a,depth/b", Convention(kind="metric", along="z"), Convention(kind="affine-disparity"))
