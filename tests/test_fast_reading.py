"""Reading for training: equal to decoding the whole label and viewing it, and within stated bounds from a level."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision  # noqa: F401  # its decoder is used where it is loaded
from PIL import Image

from clipzoo import jpeg, tasks
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.data._pixels import jittered, viewed, whole_pixels
from clipzoo.errors import ImageError, LabelError, StoreError
from clipzoo.experts import ExpertCard
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks import Convention, levels, maps, png
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray, FloatArray, View, decode_image

MAPS = ("segmentation", "depth", "normals", "edges")
TOKENS = lambda texts: torch.zeros(len(texts), 4, dtype=torch.long)  # noqa: E731


# Labels and views ------------------------------------------------------------------------------------------


def smooth(rng: np.random.Generator, size: tuple[int, int], coarse: int = 5) -> FloatArray:
    field = Image.fromarray(rng.normal(0, 1, (coarse, coarse)).astype(np.float32))
    return np.array(field.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def label_of(name: str, size: tuple[int, int], seed: int, known: BoolArray | None = None) -> object:
    """A label of smooth regions with holes; ``known`` replaces the holes."""
    rng = np.random.default_rng(seed)
    valid = smooth(rng, size, 9) < 1 if known is None else known
    if name == "segmentation":
        ids = np.digitize(smooth(rng, size, 8), [-1, -0.3, 0.3, 1]).astype(np.uint16) * (300 if seed % 3 == 0 else 1)
        return Segmentation(ids, valid, 0.5)
    if name == "depth":
        kind = ("metric", "affine-depth", "affine-disparity")[seed % 3]
        values = np.exp(1 + 0.5 * smooth(rng, size)) if kind == "metric" else smooth(rng, size)
        return Depth(values.astype(np.float32), valid, kind, "z")
    if name == "normals":
        vectors = np.stack([0.5 * smooth(rng, size), 0.5 * smooth(rng, size), 1 + smooth(rng, size) ** 2])
        return Normals((vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32), valid)
    return Edges(np.clip(np.abs(smooth(rng, size, 12)), 0, 1), valid)


def views(size: tuple[int, int], rng: np.random.Generator) -> list[View]:
    small, large = (int(rng.integers(1, 12)), int(rng.integers(1, 12))), (size[0] + 5, size[1] + 9)
    drawn = [View.draw(rng, size, (13, 17), (0.05, 1)) for _ in range(4)]
    corner = View((0.0, 0.0, 0.4, 0.3), small, True)
    return [*drawn, corner, View((0.7, 0.55, 1.0, 1.0), (9, 7)), View.whole(small), View.whole(large), View.whole(size)]


def assert_equal(one: object, other: object) -> None:
    for field in type(one).__dataclass_fields__:  # type: ignore[attr-defined]
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), strict=True)


def slowly(name: str, data: bytes, view: View) -> object:
    task = tasks.get(name)
    return task.view(task.taught(task.decode(data)), view)


# Whole maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", png.CODECS)
@pytest.mark.parametrize("name", MAPS)
def test_reading_equals_decoding_and_viewing_to_the_last_bit(name: str, codec: str) -> None:
    rng = np.random.default_rng(0)
    for seed, size in enumerate([(1, 1), (1, 9), (37, 53), (64, 48), (150, 101)]):
        data = tasks.get(name).encode_as(label_of(name, size, seed), codec)
        for view in views(size, rng):
            assert_equal(tasks.get(name).read(data, view), slowly(name, data, view))


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", MAPS)
def test_labels_that_are_unknown_or_known_everywhere_are_read_alike(name: str, share: float) -> None:
    size = (40, 60)
    data = tasks.get(name).encode(label_of(name, size, 1, np.full(size, share > 0)))
    for view in views(size, np.random.default_rng(1)):
        seen = tasks.get(name).read(data, view)
        assert_equal(seen, slowly(name, data, view))
        assert seen.valid.mean() == share


def test_tasks_without_maps_are_read_by_decoding() -> None:
    task = tasks.get("detection")
    data = json.dumps({"task": "detection", "size": [10, 20], "objects": []}).encode()
    with pytest.raises(LabelError):
        task.read(data, View.whole((5, 5)))


def test_changed_pixels_under_the_view_are_an_error() -> None:
    data = png.write(np.full((30, 30, 3), 20, np.uint8), "normals", {}, 6)
    with pytest.raises(LabelError, match="not of length 1"):
        tasks.get("normals").read(data, View.whole((5, 5)))


# Levels ----------------------------------------------------------------------------------------------------

SIZE, TARGET = (400, 480), (30, 30)


def both(name: str, seed: int, view: View) -> tuple[object, object]:
    """What is read from the level, and from the whole map."""
    data = tasks.get(name).encode_as(label_of(name, SIZE, seed), png.LEVELS)
    assert levels.read_level(data, name, view) is not None
    return tasks.get(name).read(data, view), slowly(name, data, view)


def level_views() -> list[View]:
    rng = np.random.default_rng(5)
    return [View.whole(TARGET), *(View.draw(rng, SIZE, TARGET, (0.5, 1)) for _ in range(5))]


@pytest.mark.parametrize("name", MAPS)
def test_a_level_is_part_of_a_png_that_others_read(name: str) -> None:
    label = label_of(name, SIZE, 1)
    plain, data = (tasks.get(name).encode_as(label, codec) for codec in (png.RLE, png.LEVELS))
    assert_equal(tasks.get(name).decode(data), tasks.get(name).decode(plain))
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), np.array(Image.open(io.BytesIO(plain))))
    assert data == tasks.get(name).encode_as(label, png.LEVELS)
    assert len(plain) < len(data)


@pytest.mark.parametrize("name", MAPS)
def test_validity_of_a_level_is_that_of_the_map_but_at_borders(name: str) -> None:
    for view in level_views():
        fast, slow = both(name, 2, view)
        assert (fast.valid != slow.valid).mean() < 0.02
        grown = maps.resample(slow.valid[None].astype(np.float32), np.ones(TARGET, bool), View.whole((10, 10)))[0][0]
        inner = maps.nearest(np.where((grown > 0) & (grown < 1), -1, grown), View.whole(TARGET))
        np.testing.assert_array_equal(fast.valid[inner >= 0], slow.valid[inner >= 0])


def test_a_level_of_depth_has_the_same_means() -> None:
    for seed in range(3):
        for view in level_views():
            fast, slow = both("depth", seed, view)
            known = fast.valid & slow.valid
            spread = np.ptp(slow.values[known])
            assert np.abs(fast.values - slow.values)[known].max() < 0.03 * spread
            assert np.abs(fast.values - slow.values)[known].mean() < 0.003 * spread


def test_a_level_of_normals_has_the_same_directions() -> None:
    for seed in range(3):
        for view in level_views():
            fast, slow = both("normals", seed, view)
            known = fast.valid & slow.valid
            chords = np.linalg.norm(fast.vectors - slow.vectors, axis=0)[known]
            angles = 2 * np.degrees(np.arcsin(chords / 2))
            assert angles.mean() < 0.4
            assert angles.max() < 3
            np.testing.assert_allclose(np.linalg.norm(fast.vectors, axis=0)[fast.valid], 1, atol=1e-5)


def test_a_level_of_segmentation_has_pixels_within_one_and_a_half_of_the_source() -> None:
    label = label_of("segmentation", SIZE, 1)
    data = tasks.get("segmentation").encode_as(label, png.LEVELS)
    codes = np.where(label.valid, label.ids.astype(int), -1)
    padded = np.pad(codes, 2, mode="edge")
    for view in level_views():
        seen = tasks.get("segmentation").read(data, view)
        found = np.where(seen.valid, seen.ids.astype(int), -1)
        near = [
            maps.nearest(padded[dy : dy + SIZE[0], dx : dx + SIZE[1]], view) for dy in range(1, 4) for dx in range(1, 4)
        ]
        near = [maps.mirror(one) if view.flip else one for one in near]
        assert np.any([found == one for one in near], axis=0).all()


def test_a_level_of_edges_has_the_largest_under_pixels_whose_borders_are_within_two() -> None:
    label = label_of("edges", SIZE, 1, np.ones(SIZE, bool))
    data = tasks.get("edges").encode_as(label, png.LEVELS)
    decoded = tasks.get("edges").decode(data).values
    padded = np.pad(decoded, 2)
    around = [padded[dy : dy + SIZE[0], dx : dx + SIZE[1]] for dy in range(5) for dx in range(5)]
    grown, shrunk = np.max(around, axis=0), np.min(around, axis=0)
    for view in level_views():
        seen = tasks.get("edges").read(data, view).values
        least, most = (maps.largest(one, np.ones(SIZE, bool), view)[0] for one in (shrunk, grown))
        seen = maps.mirror(seen) if view.flip else seen
        assert ((least <= seen) & (seen <= most)).all()


@pytest.mark.parametrize("name", MAPS)
def test_the_level_is_read_only_where_it_has_a_pixel_per_pixel(name: str) -> None:
    data = tasks.get(name).encode_as(label_of(name, SIZE, 1), png.LEVELS)
    fine = View((0.2, 0.2, 0.4, 0.4), (60, 60), True)
    assert levels.read_level(data, name, fine) is None
    assert_equal(tasks.get(name).read(data, fine), slowly(name, data, fine))
    assert levels.read_level(data, name, View.whole((40, 40))) is not None


def test_small_maps_have_no_level_and_large_ones_that_of_their_task() -> None:
    sizes = {(100, 900): 1, (192, 900): 2, (384, 384): 4, (2000, 3000): 4}
    assert {size: levels.factor(size, 4) for size in sizes} == sizes
    assert levels.factor((2000, 3000), 2) == 2


@pytest.mark.parametrize("name", MAPS)
def test_a_damaged_level_is_an_error_of_the_label(name: str) -> None:
    data = tasks.get(name).encode_as(label_of(name, SIZE, 1), png.LEVELS)
    at = data.index(levels.NAME) + 30
    damaged = data[:at] + bytes(8) + data[at + 8 :]
    with pytest.raises(LabelError, match=r"checksum of its chunk b'czLV' is wrong; label the image again"):
        tasks.get(name).read(damaged, View.whole(TARGET))
    other = next(one for one in MAPS if one != name)
    with pytest.raises(LabelError, match="decode it with that task"):
        tasks.get(other).read(data, View.whole(TARGET))


# The store -------------------------------------------------------------------------------------------------


def training_set(tmp_path: Path, codec: str | None, resampling: str = "pillow") -> TrainingSet:
    rng = np.random.default_rng(0)
    if not (tmp_path / "data").exists():
        pictures = {
            f"{i}": Image.fromarray(rng.integers(0, 256, (60, 72, 3), np.uint8)).resize((96, 80)) for i in range(6)
        }
        files = {}
        for key, picture in pictures.items():
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=95)
            files[key] = {"jpg": file.getvalue(), "txt": b"t"}
        write_shard(tmp_path / "data" / "0.tar", files.items())
    reader = open_dataset(str(tmp_path / "data"))
    store = Store(tmp_path / f"labels-{codec}")
    for name in MAPS:
        convention = Convention(("a", "b", "c", "d", "e"), *(("metric", "z") if name == "depth" else (None, None)))
        card = ExpertCard(f"test:{name}", name, convention if name in ("segmentation", "depth") else Convention())
        column = store.create(card, fingerprint(reader), codec=codec)
        if not column.committed():
            with ColumnWriter(column, "0") as writer:
                for i in range(6):
                    label = label_of(name, SIZE, 3 * i + 1)
                    if name == "depth":
                        label = Depth(np.abs(label.values) + 1, label.valid, "metric", "z")
                    if name == "segmentation":
                        label = Segmentation(label.ids % 5, label.valid)
                    writer.add(str(i), label)
    columns = {c.name: c for c in store.columns()}
    viewing = Viewing((48, 48), jitter=0.2, resampling=resampling)
    labels = {n: LabelColumn(c, 2) for n, c in columns.items()}
    return TrainingSet(Plan.build(reader, columns), reader, labels, viewing, seed=3)


def test_training_reads_the_beginning_of_a_file_with_a_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "HEAD", 40_000)
    dataset = training_set(tmp_path, png.LEVELS)
    asked: list[int | None] = []
    column = dataset.labels["depth/test-depth"].column
    member = type(column).member

    def seen(self, shard, key, offset, size, first=None):
        asked.append(first)
        return member(self, shard, key, offset, size, first)

    monkeypatch.setattr(type(column), "member", seen)
    whole = training_set(tmp_path, None)
    (row,) = dataset.plan.rows([0])
    view = View((0.1, 0.1, 0.9, 0.9), (24, 24), True)
    place = row["shard"], row["key"], row["depth/test-depth:offset"], row["depth/test-depth:size"]
    near = column.view(*place, view)
    assert asked == [40_000]
    fine = View((0.1, 0.1, 0.3, 0.3), (90, 90))
    column.view(*place, fine)
    assert asked == [40_000, 40_000, None], "the level is not enough"
    (row,) = whole.plan.rows([0])
    place = row["shard"], row["key"], row["depth/test-depth:offset"], row["depth/test-depth:size"]
    exact = whole.labels["depth/test-depth"].column.view(*place, view)
    known = near.valid & exact.valid
    assert np.abs(near.values - exact.values)[known].max() < 0.05 * np.ptp(exact.values)


@pytest.mark.parametrize("resampling", ["pillow", "torch"])
def test_training_with_levels_resumes_at_the_exact_sample(tmp_path: Path, resampling: str) -> None:
    dataset = training_set(tmp_path, png.LEVELS, resampling)
    whole = list(loader(dataset, 2, TOKENS, steps=6))
    rest = list(loader(dataset, 2, TOKENS, start=4, steps=6, workers=1))
    for a, b in zip(whole[4:], rest, strict=True):
        assert torch.equal(a.images, b.images)
        for column, target in a.targets.items():
            for name, value in target.items():
                assert torch.equal(value, b.targets[column][name])


def test_a_column_keeps_its_codec(tmp_path: Path) -> None:
    card = ExpertCard("test:edges", "edges", Convention())
    assert Store(tmp_path).create(card, {}, codec=png.LEVELS).manifest.codec == "png-levels"
    assert Store(tmp_path).create(card, {}).manifest.codec == "png-levels"
    with ColumnWriter(Store(tmp_path).create(card, {}), "0") as writer:
        writer.add("a", label_of("edges", (20, 30), 1))
    with pytest.raises(StoreError, match=r"codec 'png-levels', not 'png', and a column has one codec\. Omit"):
        Store(tmp_path).create(card, {}, codec="png")
    with pytest.raises(StoreError, match=r"the codec 'jxl' is unknown\. Use one of png, png-rle, png-levels"):
        Store(tmp_path).create(card, {}, codec="jxl")


# Images ----------------------------------------------------------------------------------------------------


def file_of(size: tuple[int, int], seed: int = 0, gray: bool = False, **options: object) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[0] // 5 + 2, size[1] // 5 + 2, 3), np.uint8)
    picture = Image.fromarray(noise).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    (picture.convert("L") if gray else picture).save(file, "JPEG", **options)
    return file.getvalue()


KINDS = (
    {"quality": 95}, {"quality": 75, "subsampling": 0}, {"quality": 80, "subsampling": 1}, {"progressive": True},
    {"gray": True}, {"quality": 30, "restart_marker_rows": 1}, {"keep_rgb": True},
)  # fmt: skip


def by_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> object:
    with monkeypatch.context() as patched:
        patched.setattr(jpeg, "pixels", lambda data: None)
        return decoded(data)


def decoded(data: bytes) -> object:
    try:
        return decode_image(data)
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("options", KINDS)
def test_jpeg_files_have_the_pixels_of_pillow(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    for size in [(1, 1), (7, 5), (67, 93), (128, 200)]:
        data = file_of(size, **options)
        assert jpeg.pixels(data) is not None
        np.testing.assert_array_equal(decode_image(data), by_pillow(data, monkeypatch), strict=True)


def test_damaged_jpeg_files_give_the_pixels_or_the_error_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, errors = np.random.default_rng(0), 0
    for seed in range(150):
        data = bytearray(file_of((37, 53), seed, **KINDS[seed % len(KINDS)]))
        if seed % 3 == 0:
            data = data[: rng.integers(len(data))]
        for _ in range(seed % 3):
            data[rng.integers(len(data))] = rng.integers(256)
        seen, expected = decoded(bytes(data)), by_pillow(bytes(data), monkeypatch)
        errors += isinstance(expected, str)
        np.testing.assert_array_equal(seen, expected)
    assert 30 < errors < 120


def test_orientation_and_other_kinds_of_jpeg_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of((20, 30), exif=exif)
    assert decode_image(turned).shape == (30, 20, 3)
    np.testing.assert_array_equal(decode_image(turned), by_pillow(turned, monkeypatch))
    file = io.BytesIO()
    Image.new("CMYK", (16, 8), (10, 200, 30, 40)).save(file, "JPEG")
    np.testing.assert_array_equal(decode_image(file.getvalue()), by_pillow(file.getvalue(), monkeypatch))


def test_a_decoder_with_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data))) ^ 1

    assert jpeg._agrees(jpeg._torchvision) or jpeg._has_simplejpeg()
    assert not jpeg._agrees(other)


def test_jitter_is_that_of_float_arithmetic_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    for seed in range(60):
        image = rng.integers(0, rng.integers(2, 256), (*rng.integers(1, 230, 2), 3), np.uint8)
        brightness, contrast = np.random.default_rng(seed).uniform(0.7, 1.3, 2)
        x = image.astype(np.float32)
        mean = x.mean()
        expected = np.clip((x - mean) * contrast + mean * brightness, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(jittered(image, np.random.default_rng(seed), 0.3), expected)
    assert jittered(image, rng, 0) is image


def photo(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(file_of((size[0] // 4, size[1] // 4), seed))).resize(size[::-1]))


@pytest.mark.parametrize("flip", [False, True])
def test_torch_resamples_whole_pixels_as_pillow_does(flip: bool) -> None:
    image = photo(0, (240, 320))
    for crop in [(0.0, 0.0, 1.0, 1.0), (0.101, 0.203, 0.807, 0.95), (0.5, 0.5, 0.501, 0.501)]:
        view, pixels = viewed(image, View(crop, (56, 64), flip), "torch")
        x0, y0, x1, y1 = (round(x) for x in view.box((240, 320)))
        cut = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1])).resize((64, 56), Image.Resampling.BICUBIC)
        expected = np.asarray(cut).astype(int)
        assert np.abs(pixels - (expected[:, ::-1] if flip else expected)).max() <= 2
        assert pixels.flags.c_contiguous


def test_whole_pixels_are_at_most_half_a_pixel_away_and_never_empty() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(n) for n in rng.integers(1, 60, 2))
        view = View.draw(rng, size, (8, 8), (0.001, 1))
        moved = whole_pixels(view, size)
        distance = np.abs(np.array(moved.box(size)) - view.box(size))
        x0, y0, x1, y1 = np.array(moved.box(size)).round(6)
        assert distance.max() <= 1
        assert x1 - x0 >= 1
        assert y1 - y0 >= 1
        assert 0 <= x0 < x1 <= size[1]
        assert 0 <= y0 < y1 <= size[0]
        np.testing.assert_allclose(np.array([x0, y0, x1, y1]) % 1, 0)


def test_the_default_reads_the_pixels_of_the_view(tmp_path: Path) -> None:
    image = photo(0, (50, 70))
    view = View((0.11, 0.2, 0.77, 0.93), (20, 24), True)
    same, pixels = viewed(image, view, "pillow")
    assert same is view
    expected = Image.fromarray(image).resize((24, 20), Image.Resampling.BICUBIC, box=view.box((50, 70)))
    np.testing.assert_array_equal(pixels, np.asarray(expected)[:, ::-1])
    assert Viewing((8, 8)).resampling == "pillow"
