"""Nearest neighbors and logistic regression on frozen embeddings: equality with scikit-learn, and the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

from clipzoo.benchmarks import Split, open_benchmark, read_split
from clipzoo.cli import app
from clipzoo.evaluation import classification
from clipzoo.evaluation.classification import cache, knn, linear_classification
from clipzoo.evaluation.measure import Scored
from parity_records import record
from test_encoders import models  # noqa: F401
from test_pipeline import write_benchmark

NAMES = tuple("abcde")
rng = np.random.default_rng(0)
CENTERS = rng.normal(size=(5, 12))


class Given:
    """An encoder whose embedding of an image is given by its first two bytes."""

    image_size = (4, 4)

    def __init__(self, embeddings: np.ndarray) -> None:
        self.embeddings, self.images = embeddings, 0

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        rows = images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()
        return torch.from_numpy(self.embeddings[rows.numpy()]).float()


def drawn(count: int, first: int, identity: str) -> tuple[Split, np.ndarray]:
    targets = rng.integers(0, 5, count)
    values = CENTERS[targets] + rng.normal(0, 2.0, (count, 12))
    images = np.zeros((count, 4, 4, 3), np.uint8)
    images[..., 0], images[..., 1] = (
        (np.arange(count) + first)[:, None, None] // 256,
        (np.arange(count) + first)[:, None, None] % 256,
    )
    keys = tuple(map(str, range(first, first + count)))
    split = Split(images, keys, (4, 4), targets=tuple(targets.tolist()), classnames=NAMES, identity=identity)
    return split, values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def world() -> tuple[dict[str, Split], dict[str, np.ndarray], Given]:
    splits, values, first = {}, {}, 0
    for name, count in (("probe", 330), ("validation", 90), ("test", 200)):
        splits[name], values[name] = drawn(count, first, name)
        first += count
    return splits, values, Given(np.concatenate([*values.values()]))


def targets(split: Split) -> np.ndarray:
    return np.array(split.targets)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PART", 64)


def neighbors(k: int, values: dict[str, np.ndarray], splits: dict[str, Split]) -> float:
    """Return top-1 of scikit-learn's weighted neighbors."""
    one = KNeighborsClassifier(k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
    return one.fit(values["probe"], targets(splits["probe"])).score(values["test"], targets(splits["test"]))


@pytest.mark.usefixtures("in_parts")
def test_weighted_neighbors_are_those_of_scikit_learn(world, tmp_path):
    splits, values, model = world
    wanted = {name: splits[name] for name in ("probe", "test")}
    scored = classification.evaluate(classification.PRESETS["knn"], model, wanted, tmp_path)["test"]["knn"].compute()
    stored = {name: values[name].astype(np.float32).astype(np.float16).astype(np.float64) for name in values}
    counts = {"top1": 20, "top1_k10": 10, "top1_k100": 100, "top1_k200": 200}
    differences = {name: abs(neighbors(k, stored, splits) - scored[f"knn/{name}"]) for name, k in counts.items()}
    record("Nearest neighbors", "200 images, 330 neighbors, 5 classes", "scikit-learn", differences, 1e-9)
    for name, k in counts.items():
        exact = neighbors(k, values, splits)
        assert exact == pytest.approx(scored[f"knn/{name}"], abs=0.011), "float16 changes two of 200 images at most"
    assert len({*scored.values()}) > 1


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
@pytest.mark.usefixtures("in_parts")
def test_logistic_regression_is_that_of_scikit_learn(world, tmp_path, strength):
    splits, _, model = world
    probe, test = (cache.cached(model, splits[name], tmp_path / name) for name in ("probe", "test"))
    ours = linear_classification.regression([probe], 5, strength, 1000)
    theirs = LogisticRegression(C=1 / strength, max_iter=10000, tol=1e-10)
    x, y = (torch.cat(parts).numpy().astype(np.float64) for parts in zip(*probe.parts(), strict=True))
    theirs.fit(x, y.astype(int))
    unseen = torch.cat([features for features, _ in test.parts()])
    chances = ours.logits(unseen).softmax(1).numpy()
    largest = float(np.abs(chances - theirs.predict_proba(unseen.double().numpy())).max())
    record("Logistic regression", f"strength {strength}", "scikit-learn", {"probabilities": largest}, 1e-3)


@pytest.mark.usefixtures("in_parts")
def test_the_strength_is_chosen_on_validation_and_the_last_fit_has_both_splits(world, tmp_path):
    splits, values, model = world
    preset, stages = classification.PRESETS["linear-classification"], []
    scored = classification.evaluate(preset, model, splits, tmp_path, lambda name, done, total: stages.append(name))
    chosen = json.loads((tmp_path / "linear_classification.json").read_text())
    strength, tried = chosen["strength"], chosen["validation_top1"]
    assert tried[f"{strength:.3g}"] == max(tried.values())
    x = {name: one.astype(np.float32).astype(np.float16).astype(np.float64) for name, one in values.items()}
    y = {name: targets(split) for name, split in splits.items()}

    def fitted(c: float, *names: str) -> LogisticRegression:
        one = LogisticRegression(C=c, max_iter=10000, tol=1e-8)
        return one.fit(np.concatenate([x[name] for name in names]), np.concatenate([y[name] for name in names]))

    coarse = max(fitted(10.0**-power, "probe").score(x["validation"], y["validation"]) for power in range(-6, 7, 2))
    assert fitted(1 / strength, "probe").score(x["validation"], y["validation"]) >= coarse - 1e-9
    final = fitted(1 / strength, "probe", "validation")
    ours = scored["test"]["linear_classification"].compute()["linear_classification/top1"]
    record(
        "Linear classification", "200 images, strength chosen on 90", "scikit-learn",
        {"top1": abs(final.score(x["test"], y["test"]) - ours)}, 1e-9,
    )  # fmt: skip
    assert sum(one == "choosing the strength" for one in stages) <= linear_classification.FITS


def test_the_search_halves_its_interval_around_the_best():
    asked = []

    def accuracy(place: int) -> float:
        asked.append(place)
        return -abs(place - 13)

    assert linear_classification.search(accuracy) == 13
    assert len(asked) == len({*asked}) == linear_classification.FITS
    assert asked[:7] == [-48, -32, -16, 0, 16, 32, 48]
    assert abs(linear_classification.search(lambda place: 0.5)) <= 8, "the middle of equal ones"
    assert linear_classification.search(lambda place: -place) == -48


def test_a_tie_counts_as_a_miss():
    votes = np.array([[0.5, 0.5], [0.6, 0.4], [0.0, 0.0], [0.4, 0.6]])
    assert knn.METRIC.statistics(votes, 0).tolist() == [1, 0, 1, 0, 0]


@pytest.mark.usefixtures("in_parts")
def test_features_are_encoded_once_and_again_for_other_images_and_resume(world, tmp_path):
    splits, values, _ = world
    model = Given(np.concatenate([*values.values()]))
    cache.cached(model, splits["probe"], tmp_path)
    assert model.images == 330
    (tmp_path / "00002.npy").unlink()
    again = cache.cached(model, splits["probe"], tmp_path)
    assert model.images == 330 + 64, "only the missing part"
    assert torch.cat([x for x, _ in again.parts()]).numpy() == pytest.approx(values["probe"], abs=5e-4)
    assert len(again.where(lambda rows: rows % 10 == 0)) == 33
    assert sum(len(x) for x, _ in again.where(lambda rows: rows % 10 == 0).parts()) == 33
    cache.cached(model, splits["test"], tmp_path)
    assert model.images == 330 + 64 + 200


def test_other_weights_are_encoded_again(tmp_path):
    layer = torch.nn.Linear(2, 2)
    before = cache.weights_of(layer)
    with torch.no_grad():
        layer.weight[0, 0] += 1e-6
    assert cache.weights_of(layer) != before


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from clipzoo.evaluation import classification
from clipzoo.evaluation.classification import cache, knn, linear_classification
parts, folder, rng = int(sys.argv[1]), Path(sys.argv[2]), np.random.default_rng(0)
for i in range(parts):
    np.save(folder / f"{i:05d}.npy", rng.normal(size=(cache.PART, 128)).astype(np.float16))
targets = tuple((np.arange(parts * cache.PART) % 7).tolist())
features = cache.Features(tuple(sorted(folder.glob("*.npy"))), targets, torch.device("cpu"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
next(iter(knn.PRESET.fit(features, None, 7, print).predict(torch.randn(64, 128))))
linear_classification.regression([features], 7, 1.0, 1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_features_beyond_a_few_parts_are_not_in_memory(tmp_path):
    """10 and 60 parts are 20 and 120 MB of features."""
    peaks = []
    for parts in (10, 60):
        (tmp_path / str(parts)).mkdir()
        command = [sys.executable, "-c", MEMORY, str(parts), str(tmp_path / str(parts))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 30, f"MB for 10 and 60 parts: {peaks}"


def colored(folder: Path, count: int, seed: int, names: tuple[str, ...] = ("blue", "green", "red")) -> Path:
    colors, random = {"red": 0, "green": 1, "blue": 2}, np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 100, (40, 48, 3))
            pixels[..., colors[name]] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{seed}_{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("colored")
    return {name: f"imagefolder:{colored(root / name, 12, i)}" for i, name in enumerate(("probe", "test"))}


def command(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["eval", *arguments], env={"COLUMNS": "500"})
    return done.exit_code, f"{done.output} {done.exception}"


@pytest.mark.parametrize("preset", ["knn", "linear-classification"])
def test_the_command_measures_models_without_text_and_keeps_their_features(preset, folders, models, tmp_path):  # noqa: F811
    given = [f"timm:local-dir:{models / 'timm'}", f"hf:{models / 'dinov2'}"]
    arguments = [*(f"--model={one}" for one in given), f"--probe={folders['probe']}", f"--test={folders['test']}"]
    code, output = command(*arguments, f"--preset={preset}", f"--out={tmp_path}")
    assert code == 0, output
    results = json.loads((tmp_path / "results.json").read_text())
    group = preset.replace("-", "_")
    for uri in given:
        cell = results["arms"][uri][f"{group}/top1"]
        assert cell["mean"] > 0.5, "colors are easy, even with random weights"
        assert cell["ci"]
    assert "arXiv" in results["protocol"]["source"]
    assert results["protocol"]["preset"].startswith(f"{preset}, version {1 if preset == 'knn' else 2}")
    saved = next((tmp_path / "scores" / preset).rglob("*.npz"))
    assert Scored.load(saved).group == group
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(written) == 4
    for path in (tmp_path / "scores").rglob("done"):
        path.unlink()
    assert command(*arguments, f"--preset={preset}", f"--out={tmp_path}")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == written


def test_the_folder_of_a_student_is_measured_on_shards_and_lists_with_classes(tiny_clip, tmp_path):
    places = {}
    for seed, split in enumerate(("probe", "validation", "test", "heldout")):
        write_benchmark(tmp_path / split, 24, seed)
        places[split] = f"--{split}={tmp_path / split}"
    student = f"open_clip:{tiny_clip.removeprefix('local-dir:')}"
    out = tmp_path / "out"
    code, output = command(f"--model={student}", "--preset=linear-classification", f"--out={out}", *places.values())
    assert code == 0, output
    results = json.loads((out / "results.json").read_text())
    assert results["arms"][student]["linear_classification/top1"]["mean"] > 0.5, "squares of three colors"
    assert "linear_classification/top5" in results["subsets"]["heldout"]["arms"][student]
    assert len([*out.rglob("*.npy")]) == 4
    names = {"train": ("data_256", "places365_train_standard.txt"), "val": ("val_256", "places365_val.txt")}
    (tmp_path / "categories_places365.txt").write_text("/r/red 0\n/g/green 1\n")
    for split, (folder, listed) in names.items():
        lines = []
        for i in range(8):
            name = f"/{'rg'[i % 2]}/{i}.jpg" if split == "train" else f"{i}.jpg"
            path = tmp_path / folder / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), [(200 + i, 0, 0), (0, 200 + i, 0)][i % 2]).save(path)
            lines.append(f"{name} {i % 2}\n")
        (tmp_path / listed).write_text("".join(lines))
    given = [
        f"--probe=places365:{tmp_path}?split=train",
        f"--test=places365:{tmp_path}",
        f"--out={tmp_path / 'places'}",
    ]
    code, output = command(f"--model={student}", "--preset=knn", *given)
    assert code == 0, output
    cells = json.loads((tmp_path / "places/results.json").read_text())["arms"][student]
    assert cells["knn/top1"]["mean"] == 1


@pytest.mark.parametrize("preset", ["quick", "knn"])
def test_a_student_with_other_weights_is_measured_again(tiny_clip, tmp_path, preset):
    places = [f"--{split}={tmp_path / split}" for split in ("probe", "test")][preset == "quick" :]
    for seed, split in enumerate(("probe", "test")):
        write_benchmark(tmp_path / split, 24, seed)
    student = tmp_path / "student"
    shutil.copytree(tiny_clip.removeprefix("local-dir:"), student)
    given = (f"--model=open_clip:{student}", f"--preset={preset}", f"--out={tmp_path / 'out'}", *places)
    assert command(*given)[0] == 0
    code, output = command(*given)
    assert code == 0
    assert "measured again" not in output
    (weights,) = student.glob("*.safetensors")
    save_file({name: value * 1.1 for name, value in load_file(weights).items()}, weights)
    code, output = command(*given)
    assert code == 0
    assert "weights has changed" in " ".join(output.split())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"--preset": "knm"}, "there is no preset 'knm'"),
        ({"--steps": "3"}, "knn has no steps"),
        ({"--validation": "TEST"}, "has no setting that validation chooses"),
        ({"--probe": None}, "--probe is missing"),
        ({"--test": "FEWER"}, "--probe has 3 classes and --test has 2; class 0 is blue and green"),
        ({"--test": "CAPTIONS"}, "the images of --test have no classes"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, text, folders, models, tmp_path):  # noqa: F811
    fewer = colored(tmp_path / "fewer", 2, 9, ("green", "red"))
    captions = {"images": [{"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}]}]}
    Image.new("RGB", (40, 40)).save(tmp_path / "1.jpg")
    (tmp_path / "dataset_x.json").write_text(json.dumps(captions))
    places = {
        "TEST": folders["test"], "FEWER": f"imagefolder:{fewer}",
        "CAPTIONS": f"karpathy:{tmp_path / 'dataset_x.json'}?images={tmp_path}",
    }  # fmt: skip
    options = {
        "--model": f"timm:local-dir:{models / 'timm'}", "--preset": "knn", "--probe": folders["probe"],
        "--test": folders["test"], "--out": str(tmp_path / "out"), **changes,
    }  # fmt: skip
    arguments = [f"{name}={places.get(value, value)}" for name, value in options.items() if value is not None]
    code, output = command(*arguments)
    assert code != 0
    assert text in " ".join(output.split())
    assert "Traceback" not in output


def test_classes_without_a_training_image_are_named(folders):
    splits = {name: read_split(open_benchmark(place), (32, 32)) for name, place in folders.items()}
    assert classification.unseen(splits, ["test"]) == []
    few = splits | {"probe": splits["probe"].select([i for i, t in enumerate(splits["probe"].targets) if t != 1])}
    (sentence,) = classification.unseen(few, ["test"])
    assert sentence == f"1 class of --test without a training image, always missed: {splits['test'].classnames[1]}"
