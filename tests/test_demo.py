"""The demo: pictures that are a pure function of their seed, and the packaged splits, models and experts."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipzoo import experts, locations, model_schemes
from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.demo import rooms
from clipzoo.demo.meshes import classes, meshes, names
from clipzoo.demo.packaged import SPLITS as PACKAGED
from clipzoo.demo.render import conventions, render_split, truth_of
from clipzoo.errors import DatasetError
from clipzoo.evaluation.suite import Suite
from clipzoo.models import Student
from clipzoo.readers import open_dataset, read_at
from clipzoo.store import Store, verify
from clipzoo.tasks import get as get_task
from clipzoo.tasks.normals import normals_from_depth
from clipzoo.types import Camera

FOLDER = Path(str(resources.files("clipzoo.demo")))


def test_a_picture_is_a_pure_function_of_its_seed() -> None:
    a, b = rooms.render(5, "test"), rooms.render(5, "test")
    for field in ("image", "depth", "normals", "segmentation", "instances", "edges"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert a.caption == b.caption
    assert (rooms.render(5, "validation").image != a.image).any(), "splits share no scene"


@pytest.mark.parametrize("seed", range(4))
def test_the_truth_obeys_the_contract_and_agrees_with_itself(seed: int) -> None:
    scene = rooms.render(seed, "test")
    for task, label in truth_of(scene).items():
        get_task(task).check(label, conventions()[task])
    fx, fy, cx, cy = (value / 96 for value in scene.intrinsics)
    derived = normals_from_depth(truth_of(scene)["depth"], Camera(fx, fy, cx, cy))
    cosine = (derived.vectors * scene.normals).sum(0)[derived.valid]
    assert np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) < 5


@pytest.mark.parametrize("seed", range(4))
def test_edges_separate_different_surfaces_only(seed: int) -> None:
    scene = rooms.render(seed, "test")
    ids = scene.segmentation
    for turn in (np.asarray, np.transpose):
        edges, depth = turn(scene.edges), turn(scene.depth)
        differ = turn(ids)[:, 1:] != turn(ids)[:, :-1]
        assert (edges[:, 1:] | edges[:, :-1])[differ].all()
        assert edges[:, 1:][differ & (depth[:, 1:] < depth[:, :-1])].all(), "the nearer one has the outline"
        assert edges[:, :-1][differ & (depth[:, 1:] > depth[:, :-1])].all()
    flat = (ids == ids[0, 0]) & (np.abs(scene.normals - scene.normals[:, :1, :1]) < 1e-6).all(0)
    inside = flat.copy()
    for axis in (0, 1):
        inside &= np.roll(flat, 1, axis) & np.roll(flat, -1, axis)
    assert not (scene.edges & inside).any(), "an edge in the midst of a wall"
    assert 0.01 < scene.edges.mean() < 0.2


def test_held_out_objects_are_in_no_other_split() -> None:
    assert sum(mesh.held_out for mesh in meshes()) >= 5
    assert all(rooms.render(seed, "heldout").held_out for seed in range(3))
    assert not any(rooms.render(seed, "captioned").held_out for seed in range(3))


def test_captions_are_noisy_but_mostly_name_the_object() -> None:
    scenes = [rooms.render(seed, "captioned", size=16) for seed in range(60)]
    distinct = {scene.caption for scene in scenes}
    assert len(distinct) > 40
    assert max(len(text.split()) for text in distinct) < 20


@pytest.mark.slow
def test_rendering_a_split_resumes_and_verifies(tmp_path: Path) -> None:
    render_split("test", 6, tmp_path, workers=1)
    shard = tmp_path / "images" / "00000.tar"
    before = shard.stat().st_mtime_ns
    render_split("test", 6, tmp_path, workers=1)
    assert shard.stat().st_mtime_ns == before
    reader = open_dataset(str(tmp_path / "images"))
    assert [e.key for e in reader.index("00000") if not e.error] == [f"{i:08d}" for i in range(6)]
    assert verify(Store(tmp_path / "truth"), reader) == []
    assert {column.task for column in Store(tmp_path / "truth").columns()} == set(conventions())
    boxes = read_split(open_benchmark(tmp_path), (96, 96)).truth["detection"]
    for seed, found in enumerate(boxes.labels):
        scene = rooms.render(seed, "test")
        np.testing.assert_allclose(found.boxes, scene.boxes, atol=0.01)
        assert [boxes.convention.classes[i] for i in found.ids] == [classes()[i] for i in scene.box_classes]


@pytest.mark.slow
def test_a_training_split_has_no_truth(tmp_path: Path) -> None:
    render_split("captioned", 2, tmp_path, workers=1)
    (entry, _) = open_dataset(str(tmp_path / "images")).index("00000")
    assert set(entry.members) == {"webp", "txt"}
    assert not (tmp_path / "truth").exists()


@pytest.mark.parametrize(
    ("location", "says"), [("demo:tset", "no such packaged"), ("rooms:test", "is not of the form rooms:<split>")]
)
def test_wrong_locations_are_errors(location: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=says):
        locations.resolve(location, tmp_path)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(locations.resolve("demo:test", tmp_path_factory.mktemp("cache"))).parent


@pytest.mark.slow
def test_the_package_is_small_and_complete(unpacked: Path) -> None:
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 25 * 2**20
    assert {path.name for path in unpacked.iterdir() if path.is_dir()} == set(PACKAGED)
    keys = set()
    for split in PACKAGED:
        reader = open_dataset(str(unpacked / split / "images"))
        entries = [entry for shard in reader.shards for entry in reader.index(shard)]
        assert not any(entry.error for entry in entries)
        keys.add((split, len(entries)))
        if split != "captioned":
            assert verify(Store(unpacked / split / "truth"), reader) == []
    assert dict(keys)["captioned"] >= 3000
    assert dict(keys)["test"] >= 2000


def test_packaged_pictures_match_the_renderer(unpacked: Path) -> None:
    import io

    reader = open_dataset(str(unpacked / "test" / "images"))
    entry = reader.index(reader.shards[0])[3]
    sample = reader.read(entry)
    stored = np.asarray(Image.open(io.BytesIO(sample.image)), np.int16)
    scene = rooms.render(int(entry.key), "test")
    assert np.abs(stored - scene.image).mean() < 12, "beyond what WebP loses"
    assert sample.caption == scene.caption
    assert names()[int(read_at(reader.paths[entry.shard], *entry.members["cls"]))] == scene.name


@pytest.mark.parametrize("task", ["segmentation", "depth", "normals"])
def test_the_tiny_experts_are_good_but_not_perfect(unpacked: Path, task: str) -> None:
    suite = Suite.load({"test": unpacked / "test"}, (96, 96))
    expert = experts.create(f"demo:{task}")
    expert.load()
    test = suite.dense["test"].select(range(64))
    from clipzoo.evaluation.baselines import expert as score

    value = next(iter(score(expert.predict, task, test, expert.card.convention).compute().values()))
    low, high = {"segmentation": (0.5, 0.95), "depth": (0.6, 0.99), "normals": (4, 18)}[task]
    assert low < value < high


@pytest.mark.slow
def test_the_tiny_clip_recognizes_at_least_half_of_the_pictures(unpacked: Path) -> None:
    suite = Suite.load({"test": unpacked / "test"}, (96, 96))
    student = Student.create(model_schemes.resolve("demo:clip")).eval()
    top1 = suite.recognition(student, "test")["zero_shot"].compute()["zero_shot/top1"]
    assert top1 >= 0.5
    assert top1 >= 3 / len(names())


def test_rooms_json_lists_names_and_classes() -> None:
    told = json.loads((FOLDER / "rooms.json").read_text())
    assert tuple(told["names"]) == tuple(names())
    assert tuple(told["classes"]) == tuple(classes())
