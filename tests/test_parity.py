"""Measures equal to independent computations, and docs/parity.md, which names every such check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from clipzoo import tasks
from clipzoo.benchmarks import Split
from clipzoo.evaluation import retrieval, zero_shot
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth, Kind
from clipzoo.tasks.normals import Normals
from parity_records import record
from test_export_targets import EXPORTED, HEADS
from test_recognition import TinyStudent

ROOT = Path(__file__).parent.parent
DEPTH, NORMALS = tasks.get("depth"), tasks.get("normals")


def difference(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    return {name: abs(ours[name] - value) for name, value in theirs.items()}


def depth_measures(p: np.ndarray, t: np.ndarray, kind: Kind) -> dict[str, float]:
    """δ1, absrel and rmse of one image in ten lines of numpy; affine kinds are fitted by least squares."""
    if kind != "metric":
        goal = 1 / t if kind == "affine-disparity" else t
        design = np.stack([p, np.ones_like(p)], 1)
        p = design @ np.linalg.lstsq(design, goal, rcond=None)[0]
        p = np.clip(p, 0.5 * goal.min(), 2 * goal.max())
        p = 1 / p if kind == "affine-disparity" else p
    ratio = np.maximum(p / t, t / p)
    return {
        "delta1": (ratio < 1.25).mean(), "absrel": (abs(p - t) / t).mean(), "rmse": np.sqrt(((p - t) ** 2).mean()),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["metric", "affine-depth", "affine-disparity"])
def test_depth_measures_are_those_of_numpy(kind: Kind) -> None:
    rng, ours, theirs = np.random.default_rng(0), [], []
    metric = DEPTH.metric(Convention(kind=kind, along="z"))
    for _ in range(8):
        truth = rng.uniform(0.5, 10, (20, 30)).astype(np.float32)
        seen = truth * rng.lognormal(0, 0.2, truth.shape).astype(np.float32)
        if kind != "metric":
            base = 1 / seen if kind == "affine-disparity" else seen
            seen = (3 * base + rng.normal()).astype(np.float32)
        known, guessed = rng.random(truth.shape) < 0.8, rng.random(truth.shape) < 0.9
        prediction = Depth(seen, guessed, kind, "z")
        ours.append(
            DEPTH.metric(Convention(kind=kind, along="z")).statistics(prediction, Depth(truth, known, "metric", "z"))
        )
        both = known & guessed
        theirs.append(depth_measures(seen[both].astype(np.float64), truth[both].astype(np.float64), kind))
    mine = metric.compute(np.sum(ours, 0))
    means = {name: float(np.mean([one[name] for one in theirs])) for name in theirs[0]}
    record("Depth", f"{kind}, 8 images", "numpy", difference(mine, means), 1e-9)


def test_angles_of_normals_are_those_of_numpy() -> None:
    rng, total, angles = np.random.default_rng(1), 0, []
    metric = NORMALS.metric(Convention())
    for _ in range(8):
        vectors = rng.normal(size=(3, 20, 30))
        near = vectors + rng.normal(0, 0.3, vectors.shape)
        unit = [(one / np.linalg.norm(one, axis=0)).astype(np.float32) for one in (near, vectors)]
        known = rng.random((20, 30)) < 0.8
        total = total + metric.statistics(Normals(unit[0], np.ones_like(known)), Normals(unit[1], known))
        cosine = np.clip((unit[0].astype(np.float64) * unit[1]).sum(0)[known], -1, 1)
        angles.append(np.degrees(np.arccos(cosine)))
    every = np.concatenate(angles)
    theirs = {"mean_angle": float(every.mean())}
    theirs |= {f"within_{int(limit)}": float((every < limit).mean()) for limit in (11.25, 22.5, 30)}
    record("Normals", "angles in degrees, 8 images", "numpy", difference(metric.compute(total), theirs), 1e-4)


class Spoken:
    """`TinyStudent` as a model of clip-benchmark, whose tokens are the places of texts in a list."""

    def __init__(self, student: TinyStudent) -> None:
        self.student, self.texts = student, []

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        self.texts += texts
        return torch.arange(len(self.texts) - len(texts), len(self.texts))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.student.encode_text([self.texts[i] for i in tokens.tolist()])

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.student.encode_image(images)


@pytest.fixture(scope="module")
def shown() -> tuple[TinyStudent, torch.Tensor]:
    return TinyStudent().eval(), torch.from_numpy(
        np.random.default_rng(3).integers(0, 255, (40, 24, 24, 3)).astype(np.uint8)
    )


def split(pictures: torch.Tensor, **more: object) -> Split:
    return Split(pictures.numpy(), tuple(map(str, range(len(pictures)))), (24, 24), **more)


def test_zero_shot_is_that_of_clip_benchmark(shown: tuple[TinyStudent, torch.Tensor]) -> None:
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    (student, pictures), names = shown, ("chair", "lamp", "sofa", "table", "bed", "desk", "shelf")
    templates = ("a {c}.", "photo of {c}")
    targets = torch.from_numpy(np.random.default_rng(0).integers(0, 7, 40))
    data = split(pictures, targets=tuple(targets.tolist()), classnames=names, templates=templates)
    ours, model = zero_shot.evaluate(student, data).compute(), Spoken(student)
    batches = [(pictures[i : i + 8], targets[i : i + 8]) for i in range(0, 40, 8)]
    classifier = theirs.zero_shot_classifier(model, model.tokenize, names, list(templates), "cpu", amp=False)
    logits, true = theirs.run_classification(model, classifier, batches, "cpu", amp=False)
    hits = logits.topk(5).indices == true[:, None]  # its `accuracy` (1.6.2) raises TypeError with numpy 2.4.6
    values = {"zero_shot/top1": hits[:, 0].float().mean().item(), "zero_shot/top5": hits.any(1).float().mean().item()}
    short = {name.partition("/")[2]: value for name, value in difference(ours, values).items()}
    record("Zero-shot recognition", "40 images, 7 classes, 2 templates", "clip-benchmark", short, 1e-6)


def test_retrieval_is_that_of_clip_benchmark(shown: tuple[TinyStudent, torch.Tensor]) -> None:
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    student, pictures = shown
    captions = tuple((f"a {i} thing", f"{i * 7} of {i}") for i in range(40))
    ours = retrieval.evaluate(student, split(pictures, captions=captions)).compute()
    model = Spoken(student)
    batches = [(pictures[i : i + 8], captions[i : i + 8]) for i in range(0, 40, 8)]
    found = theirs.evaluate(model, batches, model.tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    values = {"retrieval/image_to_text_r5": found["text_retrieval_recall@5"]}
    values["retrieval/text_to_image_r5"] = found["image_retrieval_recall@5"]
    for k in (1, 5, 10):
        values[f"retrieval/r{k}"] = (found[f"text_retrieval_recall@{k}"] + found[f"image_retrieval_recall@{k}"]) / 2
    short = {name.partition("/")[2]: value for name, value in difference(ours, values).items()}
    record("Retrieval", "40 images with 2 captions", "clip-benchmark", short, 1e-6)


# The page ---------------------------------------------------------------------------------------------------


def checks() -> set[str]:
    """Return the first argument of every call of `record` in the tests."""
    found = set()
    for path in (ROOT / "tests").rglob("*.py"):
        if "record(" in (text := path.read_text(encoding="utf-8")):
            found |= {
                node.args[0].value
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "record"
                and len(node.args) == 5 and isinstance(node.args[0], ast.Constant)
            }  # fmt: skip
    return found


def test_the_page_names_every_check() -> None:
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.*)$", page, re.MULTILINE)) == checks()
    assert len(checks()) >= 8
    quick = {one for one in EXPORTED if isinstance(one, tuple) and not hasattr(one, "values")}
    slow = {one.values for one in EXPORTED if hasattr(one, "values")}
    assert quick <= set(re.findall(r"^\| ([\w-]+) to (\w+) \|", page, re.MULTILINE)) <= quick | slow
    assert set(re.findall(r"^\| (\w+/[\w.]+) \|", page, re.MULTILINE)) == set(HEADS)
    for row in re.findall(r"^\| .* ([\d.e-]+) \|$", page, re.MULTILINE):
        assert float(row) > 0


def test_no_difference_of_the_page_is_above_its_limit() -> None:
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\|.*\d \|$", line)]
    assert len(rows) > 20
    for _, package, *differences, limit in rows:
        assert re.search(r"\d\.\d", package)
        assert max(float(one) for one in differences if one.strip()) <= float(limit)
