"""Zero-shot and retrieval against straightforward computations; benchmark layouts and sets from disk."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipzoo.benchmarks import Split, check_meaning, open_benchmark, read_split
from clipzoo.errors import CheckpointError, DatasetError, PlanError
from clipzoo.evaluation import retrieval, zero_shot
from clipzoo.evaluation.base import embed_texts, features
from clipzoo.evaluation.suite import Suite
from clipzoo.readers.webdataset import write_shard
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth

METRES = Convention(kind="metric", along="z")
EYE = np.eye(13, dtype=np.float32)
"""Embeddings of captions of which an image's embedding is its similarity with each."""
CLASSES = Convention(classes=("floor", "chair", "lamp"))


# Students ---------------------------------------------------------------------------------------------


class TinyStudent(torch.nn.Module):
    """A real OpenCLIP model behind the student's interface, with letters as tokens."""

    def __init__(self):
        super().__init__()
        vision = {"image_size": 24, "patch_size": 12, "width": 32, "layers": 2, "head_width": 16}
        text = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
        torch.manual_seed(0)
        self.clip = open_clip.model.CLIP(16, vision, text)

    image_size = (24, 24)

    def pixels(self, images):
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    def maps(self, images, layers=(-1,)):
        assert not self.training
        indices = [layer % 2 for layer in layers]
        visual = self.clip.visual
        return visual.forward_intermediates(self.pixels(images), indices=indices, output_fmt="NCHW")[
            "image_intermediates"
        ]

    def encode_image(self, images):
        return self.clip.encode_image(self.pixels(images), normalize=True)

    def encode_text(self, texts):
        rows = [[(ord(c) % 62) + 1 for c in text][:15] for text in texts]
        tokens = torch.tensor([row + [63] + [0] * (15 - len(row)) for row in rows])
        return self.clip.encode_text(tokens, normalize=True)


@pytest.fixture(scope="module")
def student():
    return TinyStudent()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(3).integers(0, 255, (13, 24, 24, 3)).astype(np.uint8)


def shown(pictures, **more):
    return Split(pictures, tuple(map(str, range(len(pictures)))), (24, 24), **more)


def test_features_are_frozen_and_the_mode_comes_back(student, pictures):
    student.train()
    maps = features(student, shown(pictures), (-1, 0), batch=4)
    assert student.training
    assert maps.shape == (13, 64, 2, 2)
    assert not maps.requires_grad


def test_zero_shot_is_the_plain_computation(student, pictures):
    names, templates = ("red chair", "blue lamp", "sofa", "table", "bed", "desk", "shelf"), ("a {c}.", "photo of {c}")
    targets = tuple(int(i) for i in np.random.default_rng(0).integers(0, 7, 13))
    data = shown(pictures, targets=targets, classnames=names, templates=templates)
    scored = zero_shot.evaluate(student, data, batch=5)
    with torch.no_grad():
        classes = []
        for name in names:
            mean = torch.stack([student.encode_text([t.format(c=name)])[0] for t in templates]).mean(0)
            classes.append(mean / mean.norm())
        scores = student.encode_image(torch.tensor(pictures)) @ torch.stack(classes).T
    top = scores.topk(5).indices.numpy()
    hit = top == np.array(targets)[:, None]
    assert scored.compute() == {"zero_shot/top1": hit[:, 0].mean(), "zero_shot/top5": hit.any(1).mean()}


def test_a_collapsed_student_knows_nothing():
    assert zero_shot.METRIC.statistics(np.ones(6), 2).tolist() == [1, 0, 0]
    rows = retrieval.rows_of(np.ones((12, 12), np.float32), EYE[:12, :12], [[i] for i in range(12)])
    assert retrieval.METRIC.compute(rows.sum(0))["r10"] == 0


def test_retrieval_of_hand_made_ranks():
    similarity = np.eye(12, dtype=np.float32)
    similarity[0, 1:4] = 2  # three wrong captions before the right one; images 1-3 each lose their first place
    values = retrieval.METRIC.compute(retrieval.rows_of(similarity, EYE[:12, :12], [[i] for i in range(12)]).sum(0))
    assert values["image_to_text_r5"] == values["text_to_image_r5"] == values["r5"] == 1
    assert values["r1"] == pytest.approx((11 / 12 + 9 / 12) / 2)


def test_ranks_are_the_same_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 50))
    owned = [rng.choice(50, 3, replace=False).tolist() for _ in range(40)]
    whole = retrieval.rows_of(image, text, owned)
    monkeypatch.setattr(retrieval, "VALUES", 120)
    np.testing.assert_array_equal(retrieval.rows_of(image, text, owned), whole)


def test_equal_captions_are_right_for_either_image(student, pictures):
    captions = [("a chair",), (" a chair",), ("a lamp", "a light")] + [(f"thing {i}",) for i in range(10)]
    texts, owned = retrieval._unique(captions)
    assert texts[:3] == ["a chair", "a lamp", "a light"]
    assert owned[:3] == [[0], [0], [1, 2]]
    similarity = np.zeros((13, 13), np.float32)
    similarity[0, 0], similarity[1, 0] = 0.2, 0.9  # the twin is nearer: no mistake
    similarity[2, 1], similarity[2, 2] = 0.1, 0.8
    rows = retrieval.rows_of(similarity, EYE, owned)
    assert rows[:3].tolist() == [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 2, 2, 2, 2]]
    scored = retrieval.evaluate(student, shown(pictures, captions=tuple(captions)))
    assert scored.statistics.shape == (13, 8)
    assert embed_texts(student, texts).shape == (13, 16)


# Layouts ----------------------------------------------------------------------------------------------
def write_benchmark(root: Path, labels: list[int], captions: bool = True) -> None:
    images = root / "images"
    (images / "test").mkdir(parents=True)
    (images / "classnames.txt").write_text("chair\nlamp\n")
    (images / "zeroshot_classification_templates.txt").write_text("a {c}.\nthe {c}.\n")
    with tarfile.open(images / "test" / "0.tar", "w") as tar:
        for i, label in enumerate(labels):
            file = io.BytesIO()
            Image.new("RGB", (30, 20), (i, 0, 0)).save(file, "PNG")
            members = {"png": file.getvalue(), "cls": str(label).encode()}
            members |= {"txt": b"a chair\na seat\n"} if captions else {}
            for extension, data in members.items():
                info = tarfile.TarInfo(f"s{i:03d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_clip_benchmark_layout(tmp_path):
    write_benchmark(tmp_path / "good", [0, 1, 1])
    found = read_split(open_benchmark(tmp_path / "good"), (16, 16))
    assert (found.targets, found.classnames, found.templates) == ((0, 1, 1), ("chair", "lamp"), ("a {c}.", "the {c}."))
    (images,) = found.batches()
    assert images.shape == (3, 16, 16, 3)
    assert images[2, 0, 0].tolist() == [2, 0, 0]
    assert found.captions[0] == ("a chair", "a seat")
    write_benchmark(tmp_path / "bad", [0, 2], captions=False)
    with pytest.raises(DatasetError, match=r"2 lines"):
        read_split(open_benchmark(tmp_path / "bad"), (16, 16))
    with pytest.raises(DatasetError, match="has no folder images/"):
        open_benchmark(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match=r"holds a \.tar"):
        open_benchmark(tmp_path)


def test_recognition_sees_what_the_models_preprocessing_does(tmp_path):
    folder = tmp_path / "test"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "classnames.txt").write_text("a\nb")
    (folder / "images" / "zeroshot_classification_templates.txt").write_text("{c}")
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200  # the center alone is bright
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "PNG")
    write_shard(folder / "images" / "0.tar", [("0", {"png": file.getvalue(), "txt": b"a", "cls": b"0"})])
    means, identities = {}, {}
    for crop in ("whole", "center", "padded"):
        suite = Suite.load({"test": folder}, (16, 16), crop=crop)
        means[crop] = tuple(next(of["test"].batches()).mean() for of in (suite.zero_shot, suite.retrieval))
        identities[crop] = suite.identities["test"]
    assert means["center"] == pytest.approx((200, 200), rel=0.02)
    assert means["whole"][0] < 100
    assert means["padded"] == pytest.approx((means["whole"][0] * 5 / 16,) * 2, rel=0.05)  # 5 of 16 rows are not black
    assert identities["whole"] == identities["center"] != identities["padded"]


def test_dense_set_reads_dataset_and_store(tmp_path):
    from clipzoo.experts.base import ExpertCard
    from clipzoo.readers import fingerprint, open_dataset
    from clipzoo.store import ColumnWriter, Store

    write_benchmark(tmp_path / "data", [0, 1, 1])
    location = str(tmp_path / "data" / "images")
    reader = open_dataset(location)
    shard, keys = reader.shards[0], [entry.key for entry in reader.index(reader.shards[0])]
    column = Store(tmp_path / "data" / "truth").create(ExpertCard("truth", "depth", METRES), fingerprint(reader))
    label = Depth(np.full((20, 30), 2, np.float32), np.ones((20, 30), np.bool_), "metric", "z")
    with ColumnWriter(column, shard, keys) as writer:
        writer.add(keys[0], label)
        writer.fail(keys[1], "no depth here")
        writer.add(keys[2], label)
    part = read_split(open_benchmark(tmp_path / "data"), (16, 16), (8, 8))
    assert part.keys == tuple(keys)
    labels = part.truth["depth"].labels
    assert labels[1] is None
    np.testing.assert_allclose(labels[2].values, np.full((8, 8), 2), rtol=1e-4)
    assert part.labeled().keys == (keys[0], keys[2])
    assert part.images[2].shape == (20, 30, 3)
    assert part.select([2]).images[0][0, 0].tolist() == [2, 0, 0]
    shutil.rmtree(column.path)
    with pytest.raises(PlanError, match="no column"):
        open_benchmark(tmp_path / "data")


def test_embeddings_that_are_not_finite_are_an_error_not_a_hit(pictures):
    class Broken(TinyStudent):
        def encode_image(self, images):
            return super().encode_image(images) * float("nan")

    data = shown(pictures, targets=(0,) * 13, classnames=("a", "b"))
    with pytest.raises(CheckpointError, match="13 of 13 images"):
        zero_shot.evaluate(Broken(), data)


def test_splits_must_differ_in_pictures_and_agree_in_meaning(tmp_path):
    with pytest.raises(PlanError, match="probe and test are the same folder"):
        Suite.load({"probe": tmp_path, "test": tmp_path}, (16, 16))
    along_ray = Convention(kind="metric", along="ray")
    with pytest.raises(PlanError, match="depth is metric, measured along z in probe, metric, measured along the ray"):
        check_meaning({"probe": {"depth": METRES}, "test": {"depth": along_ray}, "heldout": {}})


def test_of_classes_with_one_name_the_first_is_predicted(student, pictures):
    """As in OpenCLIP, where both have one embedding, the images of one of them are hits."""
    others = ("lamp", "sofa", "table", "bed", "desk")
    names, once = ("missile", *others, "missile"), ("missile", *others)
    twice = zero_shot.evaluate(student, shown(pictures[:4], targets=(0, 6, 1, 0), classnames=names)).statistics
    single = zero_shot.evaluate(student, shown(pictures[:4], targets=(0, 0, 1, 0), classnames=once)).statistics
    assert twice[:, 1].tolist() == [single[0, 1], 0, single[2, 1], single[3, 1]]
    assert zero_shot.same_names(names) == [[0, 6]]
    assert zero_shot.same_names(once) == []
