"""Benchmarks: one reader for dense tasks and recognition, pictures that are streamed, layouts as files of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from clipzoo import plugins, recipe
from clipzoo.benchmarks import Benchmark, Split, open_benchmark, read_split
from clipzoo.errors import DatasetError, RecipeError
from clipzoo.evaluation import baselines
from clipzoo.evaluation.probes import probe
from clipzoo.evaluation.suite import Suite
from clipzoo.experts import ExpertCard
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.runs.before.preflight import check_splits
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks import Convention
from clipzoo.tasks.segmentation import Segmentation
from installing import installed
from installing import written as page
from making import encoded, image, raw_tar

SPACE = Convention(classes=("floor", "chair"))


def truth(folder: Path, space: Convention = SPACE) -> None:
    """A mask of every picture of a benchmark folder: which half of it is a chair depends on the key."""
    reader = open_dataset(str(folder / "images"), captions="optional")
    column = Store(folder / "truth").create(ExpertCard("truth", "segmentation", space), fingerprint(reader))
    for shard in reader.shards:
        keys = [entry.key for entry in reader.index(shard)]
        with ColumnWriter(column, shard, keys) as writer:
            for i, entry in enumerate(reader.index(shard)):
                ids = np.zeros((8, 8), np.uint16)
                ids[:, : 2 + i % 5] = 1
                if entry.error is None:
                    writer.add(entry.key, Segmentation(ids, np.ones((8, 8), np.bool_)))
                else:
                    writer.fail(entry.key, entry.error)
    column.finish()


def written(folder: Path, members: list[tuple[str, bytes]]) -> Path:
    raw_tar(folder / "images" / "0.tar", members)
    (folder / "images" / "classnames.txt").write_text("a\nb\n")
    truth(folder)
    return folder


def sets(folder: Path) -> tuple[Split, Split, Split]:
    """The pictures of dense tasks, of zero-shot and of retrieval."""
    suite = Suite.load({"test": folder}, (8, 8))
    empty = Split((), (), (8, 8))
    return suite.dense["test"], suite.zero_shot.get("test", empty), suite.retrieval.get("test", empty)


# One reader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000", "GIF"])
def test_a_picture_of_any_format_counts_everywhere(form: str, tmp_path: Path) -> None:
    ending = {"JPEG2000": "jp2"}.get(form, form.lower())
    members = [(f"a.{ending}", encoded(image(0), form)), ("a.txt", b"a room"), ("a.cls", b"0")]
    assert [one.keys for one in sets(written(tmp_path, members))] == [("a",)] * 3


@pytest.mark.parametrize("front", ["", "./"])
def test_a_key_is_the_same_everywhere(front: str, tmp_path: Path) -> None:
    members = [(f"{front}a.png", encoded(image(0))), (f"{front}a.txt", b"a room"), (f"{front}a.cls", b"0")]
    assert [one.keys for one in sets(written(tmp_path, members))] == [("a",)] * 3


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ({"json": b'{"caption": "a room"}'}, ("a room",)),
        ({"json": b'{"text": ["a room", "a hall"]}'}, ("a room", "a hall")),
        ({"txt": b"a room\n\n a hall \n"}, ("a room", "a hall")),
        ({"txt": b" \n"}, ()),
        ({}, ()),
    ],
)
def test_a_caption_counts_whatever_holds_it_and_may_be_missing(
    members: Mapping[str, bytes], captions: tuple[str, ...], tmp_path: Path
) -> None:
    named = [("a.png", encoded(image(0))), *((f"a.{ending}", data) for ending, data in members.items())]
    dense, _, told = sets(written(tmp_path, [*named, ("b.png", encoded(image(1))), ("b.txt", b"other")]))
    assert dense.keys == ("a", "b")
    assert told.captions == ((captions, ("other",)) if captions else (("other",),))


def test_of_a_repeated_key_the_first_is_kept_everywhere_and_the_other_is_said(tmp_path: Path) -> None:
    def sample(key: str, seed: int) -> list[tuple[str, bytes]]:
        return [(f"{key}.png", encoded(image(seed))), (f"{key}.txt", b"%d" % seed), (f"{key}.cls", b"%d" % (seed % 2))]

    members = sample("a", 0) + sample("b", 1) + sample("a", 3)
    folder = written(tmp_path, members)
    suite = Suite.load({"test": folder}, (12, 16))
    for one in (suite.dense["test"], suite.zero_shot["test"], suite.retrieval["test"]):
        assert one.keys == ("a", "b")
        np.testing.assert_array_equal(one.images[0], image(0))
    assert suite.zero_shot["test"].targets == (0, 1)
    assert suite.retrieval["test"].captions == (("0",), ("1",))
    ((reason, count),) = suite.left_out["test"].items()
    assert count == 1
    assert "the key 'a' is in the shard 2 times" in reason


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.png", b"no picture"), ("a.txt", b"x")], "the image a of the shard 0 cannot be used: cannot decode"),
        ([("a.png", encoded(image(0))), ("a.cls", b"chair")], "its cls is 'chair', not the index of a class"),
        ([("a.txt", b"a room")], "0 of 1 samples are usable. Most common reason: the sample has no image"),
        ([("a.png", encoded(image(0))), ("a.cls", b"0"), ("b.png", encoded(image(1)))], "1 of 2 images .* no class"),
    ],
)
def test_what_is_wrong_with_a_picture_is_said(members: list[tuple[str, bytes]], says: str, tmp_path: Path) -> None:
    raw_tar(tmp_path / "images" / "0.tar", members)
    (tmp_path / "images" / "classnames.txt").write_text("a\n")
    with pytest.raises(DatasetError, match=says):
        list(read_split(open_benchmark(tmp_path), (8, 8)).batches())


# Memory ------------------------------------------------------------------------------------------------------


def test_a_split_holds_no_picture_and_decodes_each_once_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [(f"{i:03d}.{e}", d) for i in range(40) for e, d in (("png", encoded(image(i))), ("cls", b"1"))]
    suite = Suite.load({"test": written(tmp_path, members)}, (8, 8))
    decoded: list[int] = []
    monkeypatch.setattr("clipzoo.benchmarks._streaming.split.decode_image", lambda data: decoded.append(0) or image(0))
    split = suite.dense["test"]
    assert [len(batch) for batch in split.batches(16)] == [16, 16, 8]
    assert len(decoded) == 40
    first = next(split.batches(4))
    assert len(decoded) <= 40 + 4 + split.threads
    assert first.shape == (4, 8, 8, 3)


PEAK = """
import sys
import numpy as np, torch
from making import peak
from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.evaluation import baselines, zero_shot, retrieval
from clipzoo.evaluation.probes import fitting

torch.set_num_threads(1)

class Student:
    image_size = (64, 64)
    def maps(self, images, layers=(-1,)):
        return [images[:, ::32, ::32].float().permute(0, 3, 1, 2) / 255 for _ in layers]
    def encode_image(self, images):
        return torch.nn.functional.normalize(images[:, ::16, ::16].float().flatten(1) + 1, dim=-1)
    def encode_text(self, texts):
        return torch.nn.functional.normalize(torch.ones(len(texts), 48), dim=-1)

student = Student()
small = read_split(open_benchmark(sys.argv[1]), (64, 64)).labeled()
prior = baselines.position_prior(small, small)
def measure(folder):
    split = read_split(open_benchmark(folder), (64, 64)).labeled()
    fitting.dense(student, split, split).score(split), prior.score(split)
    zero_shot.evaluate(student, split), retrieval.evaluate(student, split.captioned())
measure(sys.argv[1])
before = peak()
measure(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.slow
def test_ten_times_the_pictures_take_no_more_memory(tmp_path: Path) -> None:
    """5,000 small pictures would be 61 MB of pixels and as much of labels again; 500 are 6."""
    data, mask = encoded(image(0, (64, 64)), "JPEG"), np.zeros((64, 64), np.uint16)
    for name, count in (("few", 500), ("many", 5000)):
        folder, endings = tmp_path / name, {"jpg": data, "txt": b"a room", "cls": b"0"}
        raw_tar(folder / "images" / "0.tar", [(f"{i:05d}.{e}", d) for i in range(count) for e, d in endings.items()])
        (folder / "images" / "classnames.txt").write_text("room\nhall\n")
        reader = open_dataset(str(folder / "images"))
        column = Store(folder / "truth").create(ExpertCard("truth", "segmentation", SPACE), fingerprint(reader))
        with ColumnWriter(column, "0") as writer:
            for i in range(count):
                writer.add(f"{i:05d}", Segmentation(mask, np.ones((64, 64), np.bool_)))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "few"), str(tmp_path / "many")],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60 * 2**10, "KB"


def test_scores_of_a_stream_are_those_of_all_features_at_once(tmp_path: Path) -> None:
    members = [(f"{i:03d}.png", encoded(image(i))) for i in range(30)]
    split = Suite.load({"test": written(tmp_path, members)}, (8, 8)).dense["test"]
    probes = baselines.pixels_position(split, split, (2, 2))
    whole = baselines.patches(np.concatenate([*split.batches()]), (2, 2))
    expected = probes.tasks["segmentation"].score(whole, split.truth["segmentation"], split.keys)
    for batch in (1, 7, 30):
        parts = probe.Probes(lambda _, size=batch: iter(whole.split(size)), probes.tasks)
        np.testing.assert_array_equal(parts.score(split)["segmentation"].statistics, expected.statistics)


# Layouts -----------------------------------------------------------------------------------------------------

PROJECT = """
[project]
name = "my-layout"
version = "0.1"
[project.entry-points."clipzoo.benchmarks"]
folders = "my_layout"
[tool.setuptools]
py-modules = ["my_layout"]
"""


def asked(root: Path, **evaluation: str) -> recipe.Recipe:
    return recipe.parse(
        {
            "name": "x", "data": "demo:captioned", "student": {"model": "demo:clip"}, "training": {"steps": 1},
            "arms": ["clip"], "evaluation": evaluation,
        }
    )  # fmt: skip


def test_a_layout_is_one_file_that_a_recipe_names(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for i, name in enumerate(("cat", "dog", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name / f"{i}.png").write_bytes(encoded(image(i)))
    with pytest.raises(RecipeError, match="no benchmark layout 'folders'; "):
        asked(tmp_path, test=str(tmp_path / "pets"), layout="folders")
    with installed(tmp_path / "package", page("benchmarks.md") | {"pyproject.toml": PROJECT}):
        wanted = asked(tmp_path, test=str(tmp_path / "pets"), layout="folders")
        check_splits(wanted)
        found: Benchmark = open_benchmark(tmp_path / "pets", wanted.evaluation.layout)
        split = read_split(found, (8, 8))
        assert (split.classnames, split.targets) == (("cat", "dog"), (0, 1, 1))
        assert Suite.load({"test": tmp_path / "pets"}, (8, 8), layout="folders").zero_shot["test"].keys == split.keys


def test_recipes_of_before_have_the_layout_and_preset_that_they_had(tmp_path: Path) -> None:
    wanted = asked(tmp_path, test="demo:test").evaluation
    assert (wanted.layout, wanted.preset) == ("webdataset", "quick")
    assert {"voc", "webdataset"} <= set(plugins.names("benchmarks"))


# Meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "space", "says"),
    [
        ("heldout", ("floor", "lamp"), "segmentation has other classes: class 1 is chair in evaluation.probe, lamp in"),
        ("test", ("floor", "chair", "lamp"), r"has 2 classes \(floor, chair\) in evaluation.probe, 3 classes \(floor"),
    ],
)
def test_truth_of_other_classes_is_refused_before_the_first_step(
    split: str, space: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    for i, name in enumerate(("probe", "validation", "test", "heldout")):
        members = [(f"{i}-{k}.png", encoded(image(9 * i + k))) for k in range(2 + i)]
        raw_tar(tmp_path / name / "images" / "0.tar", members)
        truth(tmp_path / name, Convention(classes=space) if name == split else SPACE)
    with pytest.raises(RecipeError, match=says) as error:
        check_splits(
            asked(tmp_path, **{name: str(tmp_path / name) for name in ("probe", "validation", "test", "heldout")})
        )
    assert "Convention(" not in str(error.value)


def test_truth_that_means_something_else_than_the_packaged_one_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "mine", [("a.png", encoded(image(0)))])
    with pytest.raises(RecipeError, match=r"evaluation.probe has true labels of depth, evaluation.test has none|segm"):
        check_splits(asked(tmp_path, probe="demo:probe", validation="demo:validation", test=str(tmp_path / "mine")))
