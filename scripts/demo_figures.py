"""Print validation figures of the embedded demo: baselines, initial CLIP, experts. The test split is not read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from clipzoo import demo, recipe
from clipzoo.benchmarks import Split, open_benchmark, read_split
from clipzoo.demo.meshes import names
from clipzoo.evaluation.measure import Scored
from clipzoo.runs import Run

HEADLINES = {"segmentation/miou": 1, "depth/delta1": 1, "normals/mean_angle": 1, "zero_shot/top1": 1}


def histograms(images: np.ndarray) -> np.ndarray:
    """Roots of color histograms (4×4×4, whole and center) of uint8 N×H×W×3, N×128."""
    cells = (images // 64).astype(np.int64) @ np.array([16, 4, 1])
    high = len(cells[0]) // 4
    middle = cells[:, high:-high, high:-high]
    counts = [[np.bincount(x.ravel(), minlength=64) / x.size for x in pair] for pair in zip(cells, middle, strict=True)]
    return np.asarray(np.sqrt(np.concatenate(np.moveaxis(np.array(counts), 1, 0), -1)))


def color_baseline(fit: Split, seen: Split) -> float:
    """Top-1 of the name by a ridge from color histograms, best of three strengths."""
    a, b = (histograms(np.concatenate([*one.batches()])) for one in (fit, seen))
    wanted, told = np.eye(len(names()))[list(fit.targets)], np.array(seen.targets)
    scores = [
        ((b @ np.linalg.solve(a.T @ a + strength * np.eye(a.shape[1]), a.T @ wanted)).argmax(1) == told).mean()
        for strength in (0.1, 1.0, 10.0)
    ]
    return float(max(scores))


def check(arguments: argparse.Namespace) -> None:
    """Print the rows of docs/demo.md."""
    torch.set_grad_enabled(False)
    run = Run(recipe.load(Path(demo.__file__).parent / "recipe.yaml", ["arms=[clip]"]), arguments.out / "check")
    rows: dict[str, Mapping[str, Scored]] = dict(run.baselines(["validation"])["validation"])
    rows["start"] = run.suite.measure(run.start().eval(), ["validation"])["validation"]
    for row, groups in rows.items():
        values = {name: value for scored in groups.values() for name, value in scored.compute().items()}
        print(f"{row:16s}", {name: round(value, 3) for name, value in values.items() if name in HEADLINES}, flush=True)
    fit = read_split(open_benchmark(run.inputs.located("demo:probe")), run.suite.size)
    print("color histogram", round(color_baseline(fit, run.suite.zero_shot["validation"]), 3))
