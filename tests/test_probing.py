"""Trained probes of published presets: crops, windows, bins, resumption, and `clipzoo eval --preset`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from clipzoo import encoders, probing, tasks
from clipzoo.benchmarks import open_benchmark
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, PluginError, RecipeError
from clipzoo.probing import Bins, Preset, ProbeJob
from clipzoo.probing._engine import testing, training
from clipzoo.probing._engine.module import ProbeModule, layers_of
from clipzoo.probing._engine.pictures import Pictures, augmented
from clipzoo.probing.base import fitted
from clipzoo.tasks.base import Convention
from clipzoo.tasks.segmentation import Segmentation
from test_encoders import models  # noqa: F401
from test_pipeline import write_benchmark

TINY = Preset("segmentation", "these tests", (32, 32), 4, 1e-2, 0.0, 0.25, 12, batch_norm=True, short_side=(24, 48))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_benchmark(folder / "probe", 20, 0)
    write_benchmark(folder / "test", 12, 1)
    return folder


def model(models: Path, size: str = "32x32") -> encoders.Encoder:  # noqa: F811
    return encoders.create(f"timm:local-dir:{models / 'timm'}?size={size}&norm=yes")


def test_a_training_crop_moves_picture_and_label_together():
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 60), np.bool_)
    mask[10:30, 20:40] = True
    image = np.where(mask[..., None], 255, 0).astype(np.uint8).repeat(3, 2)
    label = Segmentation(mask.astype(np.uint16), np.ones_like(mask))
    sizes = set()
    for _ in range(30):
        crop, cut = augmented(image, label, tasks.get("segmentation"), TINY, (32, 48), rng)
        assert crop.shape == (32, 48, 3)
        assert cut.valid.shape == (32, 48)
        inside = cut.valid
        assert np.mean((crop[..., 0] > 127)[inside] == cut.ids[inside]) > 0.93
        assert (crop[~inside] == 128).all()
        sizes.add(int(inside.sum()))
    assert len(sizes) > 1, "small pictures are padded, and the padding is unknown"


def test_batches_depend_on_seed_and_step_alone(bench):
    pictures = Pictures.of(open_benchmark(bench / "probe"), "segmentation")
    whole = [*pictures.batches(TINY, (32, 32), 0, 0, 7)]
    later = [*pictures.batches(TINY, (32, 32), 0, 4, 7)]
    for one, other in zip(whole[4:], later, strict=True):
        for (a, _), (b, _) in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    other = next(pictures.batches(TINY, (32, 32), 1, 0, 1))
    assert any((a != b).any() for (a, _), (b, _) in zip(whole[0], other, strict=True))


def test_windows_cover_the_picture():
    covered = np.zeros((512, 700), int)
    tops = [*testing._windows((512, 700), (512, 512), (341, 341))]
    for top, left in tops:
        covered[top : top + 512, left : left + 512] += 1
    assert tops == [(0, 0), (0, 188)]
    assert (covered > 0).all()
    assert [*testing._windows((512, 512), (512, 512), (341, 341))] == [(0, 0)]


def test_bins_are_a_mean_depth():
    preset = replace(TINY, task="depth", bins=Bins(3, 1.0, 3.0), batch_norm=False)
    module = ProbeModule(preset, tasks.get("depth"), Convention(kind="metric", along="z"), [2])
    raw = torch.tensor([[0.0, 0.0, 0.8], [-5.0, -5.0, -5.0]]).view(2, 3, 1, 1)
    depth = module._depth(raw).exp().flatten()
    assert depth.tolist() == pytest.approx([(0.1 * 1 + 0.1 * 2 + 0.9 * 3) / 1.1, 2.0])


def test_the_gradient_loss_ignores_a_constant_factor_and_unknown_pixels():
    target = torch.rand(2, 1, 16, 16)
    valid = torch.rand(2, 16, 16) > 0.2
    shifted = torch.where(valid[:, None], target + 3, torch.nan)
    assert training.gradient_loss(shifted, target, valid).item() == pytest.approx(0, abs=1e-5)
    assert training.gradient_loss(2 * target, target, valid).item() > 0.1


@pytest.mark.parametrize("name", ["paper-voc-psp", "voc-deeplabv3"])
def test_presets_of_voc_train_their_heads(name, bench, models, tmp_path):  # noqa: F811
    preset = replace(probing.get(name), crop=(32, 32), short_side=(24, 48), batch=2, steps=2, warmup=1)
    options = {"width": 16} if preset.head == "psp" else {}
    job = ProbeJob(replace(preset, head_options=options), model(models), "x", tmp_path)
    module = probing.train(job, open_benchmark(bench / "probe"))
    assert type(module.head).__module__ == f"clipzoo.heads.{preset.head}"


def test_layers_and_sizes():
    four = replace(TINY, layers="four")
    assert layers_of(four, 12) == (2, 5, 8, 11)
    assert layers_of(four, 24) == (5, 11, 17, 23)
    assert fitted((416, 544), 14) == (406, 532)


def test_a_probe_learns_and_resumes_bit_for_bit(bench, models, tmp_path, monkeypatch):  # noqa: F811
    benchmark, encoder, losses = open_benchmark(bench / "probe"), model(models), []
    job = ProbeJob(TINY, encoder, "x", tmp_path / "whole", step=lambda done, total, loss: losses.append(loss))
    whole = probing.train(job, benchmark)
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])

    def stop(done: int, total: int, loss: float) -> None:
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "EVERY_SECONDS", 0.0)
    again = ProbeJob(TINY, encoder, "x", tmp_path / "stopped", step=stop)
    with pytest.raises(KeyboardInterrupt):
        probing.train(again, benchmark)
    assert torch.load(tmp_path / "stopped" / "probe.pt", weights_only=True)["step"] == 4
    resumed = probing.train(replace(again, step=lambda *values: None), benchmark)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(CheckpointError, match="is of another model, preprocessing, benchmark, seed or preset"):
        probing.train(replace(again, identity="y"), benchmark)


def test_a_perfect_probe_scores_one_by_windows_and_as_a_whole(bench, models):  # noqa: F811
    """Outputs that are read off the picture: windows are put back to their places."""
    benchmark, encoder = open_benchmark(bench / "test"), model(models)
    perfect = ProbeModule(replace(TINY, batch_norm=False), tasks.get("segmentation"), Convention(("a", "b")), [2])
    perfect.head = torch.nn.Identity()

    def maps(images, layers):
        bright = (images.amax(3) > 130).float()
        return [torch.stack([1 - bright, bright], 1)]

    encoder.maps = maps
    for test in (
        {"test": "slide", "test_short": 64, "stride": (20, 20)}, {"test": "whole"}, {"test": "center"},
        {"test": "whole", "flip_average": True},
    ):  # fmt: skip
        preset = replace(TINY, **test)
        scored = probing.score(preset, perfect, encoder, benchmark)["segmentation"]
        assert scored.compute()["segmentation/miou"] > 0.93, test


def test_a_preset_needs_its_task(bench, models, tmp_path):  # noqa: F811
    job, benchmark = ProbeJob(replace(TINY, task="depth"), model(models), "x", tmp_path), open_benchmark(bench / "test")
    with pytest.raises(RecipeError, match="has no true labels of depth, which the preset needs; it has segmentation"):
        probing.train(job, benchmark)


def test_presets_are_listed():
    assert {"dinov3-ade-linear", "dinov3-nyu-linear", "probe3d-nyu-depth", "probe3d-nyu-normals"} <= {*probing.names()}
    with pytest.raises(PluginError, match="no preset 'dinov3-ade-linaer'; did you mean dinov3-ade-linear"):
        probing.get("dinov3-ade-linaer")


@pytest.mark.slow
def test_a_preset_runs_from_the_command_line(bench, models, tmp_path):  # noqa: F811
    options = ["eval", "--model", f"timm:local-dir:{models / 'timm'}", "--preset", "dinov3-ade-linear", "--steps", "2"]
    options += ["--probe", str(bench / "probe"), "--test", str(bench / "test"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (arm,) = results["arms"].values()
    assert 0 <= arm["segmentation/miou"]["mean"] <= 1
    assert results["protocol"]["preset"] == "dinov3-ade-linear, version 1, 2 steps instead of its own"
    assert results["protocol"]["crop"] == [512, 512]
    missing = [*options[:-6], "--test", str(bench / "test")]
    assert "--probe is missing" in str(CliRunner().invoke(app, missing).exception)


MEMORY = """
import resource, sys
from pathlib import Path
from clipzoo import encoders, probing
from clipzoo.benchmarks import open_benchmark
preset = probing.Preset("segmentation", "tests", (32, 32), 4, 1e-2, 0.0, 0.25, 10, batch_norm=True, short_side=(24, 48))
model, benchmark = encoders.create(sys.argv[1]), open_benchmark(sys.argv[2])
module = probing.train(probing.ProbeJob(preset, model, "x", Path(sys.argv[3])), benchmark)
probing.score(preset, module, model, benchmark)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pictures(models, tmp_path):  # noqa: F811
    peaks = []
    for count in (100, 1000):
        write_benchmark(tmp_path / str(count), count, 0)
        uri = f"timm:local-dir:{models / 'timm'}?size=32"
        arguments = [uri, str(tmp_path / str(count)), str(tmp_path / f"out{count}")]
        done = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40, f"MB for 100 and 1,000 pictures: {peaks}"


KILLED = """
import os, signal, sys
from dataclasses import replace
from clipzoo.cli import app
from clipzoo.probing import probe3d_nyu_depth
from clipzoo.probing._engine import training
probe3d_nyu_depth.PRESET = replace(probe3d_nyu_depth.PRESET, head_options={"width": 16}, batch=2)
limit, saved, save = int(sys.argv[1]), [], training._save
def saving(*values):
    save(*values)
    saved.append(values)
    if len(saved) == limit:
        os.kill(os.getpid(), signal.SIGKILL)
training.EVERY_SECONDS, training._save = 0.0, saving
app(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_depth_preset_trains_on_pairs_of_nyu_and_resumes_after_a_kill(models, tmp_path):  # noqa: F811
    """probe3d-nyu-depth, narrower and with two pictures per step, killed by SIGKILL after the second of three steps."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        folder = tmp_path / split / "bathroom"
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(folder / f"rgb_{i:05d}.jpg")
            depth = rng.integers(500, 5000, (480, 640)).astype(np.uint16)
            Image.fromarray(depth).save(folder / f"sync_depth_{i:05d}.png")
    options = ["eval", "--model", f"timm:local-dir:{models / 'timm'}", "--preset", "probe3d-nyu-depth", "--steps", "3"]
    options += ["--probe", f"nyu:{tmp_path / 'train'}?crop=none", "--test", f"nyu:{tmp_path / 'test'}"]

    def run(out: str, limit: int) -> int:
        command = [sys.executable, "-c", KILLED, str(limit), *options, "--out", str(tmp_path / out)]
        return subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode

    assert [run("whole", 99), run("killed", 2), run("killed", 99)] == [0, -9, 0]
    one, other = (
        torch.load(next((tmp_path / out).rglob("probe.pt")), weights_only=True)["module"] for out in ("whole", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    results = [json.loads((tmp_path / out / "results.json").read_text()) for out in ("whole", "killed")]
    assert results[0]["arms"] == results[1]["arms"]
    (arm,) = results[0]["arms"].values()
    assert {"depth/rmse", "depth_aligned/rmse"} <= {*arm}


def test_depth_of_a_picture_and_its_mirror_image_is_averaged_in_meters():
    preset, calls = probing.get("dinov3-nyu-linear"), iter((2.0, 4.0))

    class Encoder(torch.nn.Module):
        depth = 1

        def maps(self, images, layers):
            return [torch.zeros(1, 1, 2, 2)]

    predict = testing._predictor(preset, lambda maps, size: torch.full((1, 1, 2, 2), next(calls)).log(), Encoder())
    depth = predict(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), (2, 2)).exp()
    torch.testing.assert_close(depth, torch.full((1, 1, 2, 2), 3.0))
