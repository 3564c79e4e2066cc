"""Real disparity all the way: Middlebury's motorcycle (scikit-image) and aloe (OpenCV), imported, probed, measured.

Run ``python -m pytest tests/real_disparity.py``: it fetches scikit-image by pip and opencv-doc by apt-get. Probes are
fitted on tiles of the motorcycle and tested on tiles of aloe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipzoo.benchmarks import open_benchmark
from clipzoo.cli import app
from clipzoo.readers.webdataset import write_shard
from clipzoo.tasks.depth import Depth, DepthMetric
from test_encoders import models  # noqa: F401
from test_layouts import labels

TILE = 160


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> picture uint8 [H,W,3] and disparity float32 [H,W] in pixels, 0 where it is unknown."""
    root = tmp_path_factory.mktemp("fetched")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(root / "pip"), "scikit-image"]
    subprocess.run(pip, check=True, capture_output=True)
    subprocess.run(["apt-get", "download", "opencv-doc"], cwd=root, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", next(root.glob("*.deb")), root / "deb"], check=True)
    photos, examples = root / "pip/skimage/data", root / "deb/usr/share/doc/opencv-doc/examples/data"
    motorcycle = np.load(photos / "motorcycle_disp.npz")["arr_0"]
    aloe = np.asarray(Image.open(examples / "aloeGT.png")).astype(np.float32)
    pictures = [
        np.asarray(Image.open(p).convert("RGB")) for p in (photos / "motorcycle_left.png", examples / "aloeL.jpg")
    ]
    disparities = [np.where(np.isfinite(motorcycle), motorcycle, 0).astype(np.float32), aloe]
    return dict(zip(("motorcycle", "aloe"), zip(pictures, disparities, strict=True), strict=True))


def tiles(picture: np.ndarray, disparity: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    H, W = disparity.shape
    return [
        (picture[y : y + TILE, x : x + TILE], disparity[y : y + TILE, x : x + TILE])
        for y in range(0, H - TILE + 1, TILE)
        for x in range(0, W - TILE + 1, TILE)
    ]


@pytest.fixture(scope="module")
def bench(real: dict[str, tuple[np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits whose truth is imported by the command line: every third tile of the motorcycle is for validation."""
    root = tmp_path_factory.mktemp("real")
    motorcycle, aloe = (tiles(*real[name]) for name in ("motorcycle", "aloe"))
    validation = motorcycle[::3]
    probe = [tile for i, tile in enumerate(motorcycle) if i % 3]
    for split, cut in (("probe", probe), ("validation", validation), ("test", aloe)):
        (root / split / "disparity").mkdir(parents=True)
        samples = []
        for i, (picture, disparity) in enumerate(cut):
            Image.fromarray(picture).save(root / "tile.png")
            samples.append((f"{i:03d}", {"png": (root / "tile.png").read_bytes(), "txt": split.encode()}))
            np.save(root / split / f"disparity/{i:03d}.npy", disparity)
        write_shard(root / split / "images/0.tar", samples)
        options = ["labels", "import", str(root / split / "images"), str(root / split / "disparity")]
        options += ["--format", "files", "--as", "truth", "--out", str(root / split / "truth")]
        for one in ("task=depth", "kind=affine-disparity", "along=z", "scale=1", "invalid=0"):
            options += ["--set", one]
        done = CliRunner().invoke(app, options)
        assert done.exit_code == 0, (done.output, done.exception)
    return root


def test_imported_disparity_is_that_of_the_files(real, bench):
    for split in ("probe", "test"):
        imported = labels(open_benchmark(bench / split), "depth")
        assert len(imported) >= 8
        for i, label in enumerate(imported):
            disparity = np.load(bench / split / f"disparity/{i:03d}.npy")
            assert (label.valid == (disparity > 0)).all()
            step = np.ptp(disparity[label.valid]) / 131_068
            assert np.abs(label.values - disparity)[label.valid].max() <= step * 1.01 + 1e-5
    assert 0.85 < np.mean(real["motorcycle"][1] > 0) < 0.97


def independent(prediction: Depth, truth: Depth) -> tuple[float, float, float]:
    """δ1, absrel and rmse after a least-squares fit by numpy's solver, of disparity normalized to [1, 2]."""
    p, t = prediction.values[truth.valid].astype(float), truth.values[truth.valid].astype(float)
    t = 1 + (t - t.min()) / (t.max() - t.min())
    (scale, shift), *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), t, rcond=None)
    fitted = np.clip(scale * p + shift if scale > 0 else np.full_like(p, t.mean()), t.min() / 2, 2 * t.max())
    ratio = np.maximum(fitted / t, t / fitted)
    return float(np.mean(ratio < 1.25)), float(np.mean(abs(fitted - t) / t)), float(np.sqrt(np.mean((fitted - t) ** 2)))


def test_the_scores_of_a_probe_equal_an_independent_computation(bench, models, tmp_path, monkeypatch):  # noqa: F811
    pairs: list[tuple[Depth, Depth]] = []
    statistics = DepthMetric.statistics

    def recorded(metric: DepthMetric, prediction: Depth, truth: Depth) -> np.ndarray:
        pairs.append((prediction, truth))
        return statistics(metric, prediction, truth)

    monkeypatch.setattr(DepthMetric, "statistics", recorded)
    options = ["eval", "--model", f"timm:local-dir:{models / 'timm'}?size=160", "--label-size", "80"]
    for split in ("probe", "validation", "test"):
        options += [f"--{split}", str(bench / split)]
    done = CliRunner().invoke(app, [*options, "--out", str(tmp_path)])
    assert done.exit_code == 0, (done.output, done.exception)
    results = json.loads((tmp_path / "results.json").read_text())
    count = len([*(bench / "test/disparity").iterdir()])
    starts = [
        start
        for start in range(len(pairs) - count + 1)
        if all(np.array_equal(pairs[start + i][1].values, pairs[i - count][1].values) for i in range(count))
    ]
    assert len(starts) == 2, "the test tiles are measured for the model, then for the position prior"
    for rows, start in zip((results["arms"], results["baselines"]), starts, strict=True):
        (cells,) = rows.values()
        part = pairs[start : start + count]
        means = np.mean([independent(*pair) for pair in part], 0)
        found = [cells[f"depth/{name}"]["mean"] for name in ("delta1", "absrel", "rmse")]
        assert found == pytest.approx(means.tolist(), abs=1e-6)
    for i, (_, truth) in enumerate(pairs[-count:]):
        disparity = np.load(bench / f"test/disparity/{i:03d}.npy")
        parts = [Image.fromarray(x.astype(np.float32)) for x in (disparity, disparity > 0)]
        total, known = (np.asarray(x.resize((80, 80), Image.Resampling.BILINEAR)) for x in parts)
        assert truth.valid.any()
        means = total[truth.valid] / known[truth.valid]
        np.testing.assert_allclose(truth.values[truth.valid], means, atol=0.02)
