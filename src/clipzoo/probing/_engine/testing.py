"""Tests of a trained probe: sliding windows, whole pictures or center crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from clipzoo.benchmarks import Benchmark
from clipzoo.errors import PlanError
from clipzoo.evaluation.base import Encoder, frozen
from clipzoo.evaluation.measure import ALIGNED, Scored
from clipzoo.heads import resize
from clipzoo.probing._engine.detector import DetectorModule
from clipzoo.probing._engine.module import ProbeModule, layers_of
from clipzoo.probing._engine.pictures import Label, MapLabel, Pictures, padded
from clipzoo.probing.base import Preset, depth_of, fitted, patch_of
from clipzoo.tasks.base import Statistics
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.types import ImageArray, Size, View

Predict = Callable[[Tensor, Size], Tensor]
"""Images uint8 [B,H,W,3] of the encoder's size, and the size of the output -> raw [B,C,H,W]."""


def score(
    preset: Preset, module: ProbeModule | DetectorModule, model: Encoder, benchmark: Benchmark
) -> dict[str, Scored]:
    """Return group -> scores on every labeled picture of a benchmark, each at the size of its label.

    Args:
        preset: of the probe.
        module: in evaluation mode.
        model: the encoder at `size_of` the preset's tests; a detector has its own.
        benchmark: with truth of the preset's task.

    Raises:
        PlanError: the truth has other classes than the probe, or not the preset's task.
    """
    pictures = Pictures.of(benchmark, preset.task)
    task, convention = pictures.task, pictures.convention
    if not preset.bins and task.raw_channels(convention, preset.loss) != module.outputs:
        raise PlanError(
            f"the probe has {module.outputs} outputs, but the {preset.task} truth of {benchmark.reader.location} needs "
            f"{task.raw_channels(convention, preset.loss)}. Give probe and test benchmarks of the same classes"
        )
    predict = _predictor(preset, module, model)
    groups = {preset.task: task.metric(convention)}
    groups |= {f"{preset.task}_{name}": task.metrics(convention)[name] for name in preset.metrics}
    if preset.aligned:
        groups[f"{preset.task}{ALIGNED}"] = groups[preset.task]
    rows: dict[str, list[Statistics]] = {group: [] for group in groups}
    for image, label in pictures.each():
        prediction, truth = _pair(preset, module, predict, model, image, label, pictures)
        for group, metric in groups.items():
            compared = prediction
            if group.endswith(ALIGNED) and isinstance(prediction, Depth):
                compared = Depth(prediction.values, prediction.valid, "affine-depth", prediction.along)
            rows[group].append(metric.statistics(compared, truth))
    return {
        group: Scored(group, pictures.keys, np.stack(rows[group]).astype(np.float64), metric, convention)
        for group, metric in groups.items()
    }


def _pair(
    preset: Preset,
    module: ProbeModule | DetectorModule,
    predict: Predict,
    model: Encoder,
    image: ImageArray,
    label: Label,
    pictures: Pictures,
) -> tuple[Label, Label]:
    """Return the prediction for a picture, and its truth."""
    if isinstance(label, Detection):
        assert isinstance(module, DetectorModule)
        return module.detect(image, label.size), label
    raw, truth = _raw(preset, predict, model, image, label, pictures)
    found: Label = pictures.task.predict(raw[:, : pictures.task.channels(pictures.convention)], pictures.convention)[0]
    return found, truth


def size_of(preset: Preset, patch: int) -> Size:
    """Return the (H, W) at which the encoder sees pictures in tests."""
    return fitted(preset.test_size or preset.crop, patch)


def _predictor(preset: Preset, module: ProbeModule | DetectorModule, model: Encoder) -> Predict:
    layers = layers_of(preset, depth_of(model))

    def predict(images: Tensor, size: Size) -> Tensor:
        with frozen(model):
            raw: Tensor = module([one.float() for one in model.maps(images, layers)], size)
            if not preset.flip_average:
                return raw
            mirrored: Tensor = module([one.float() for one in model.maps(images.flip(2), layers)], size).flip(3)
            if preset.task == "normals":
                mirrored = mirrored * mirrored.new_tensor([-1.0, 1, 1, 1][: mirrored.shape[1]]).view(1, -1, 1, 1)
            if preset.bins:  # raw depth is logarithmic; DINOv2 and DINOv3 average meters
                return torch.logaddexp(raw, mirrored) - math.log(2)
            return (raw + mirrored) / 2

    return predict


def _raw(
    preset: Preset, predict: Predict, model: Encoder, image: ImageArray, label: MapLabel, pictures: Pictures
) -> tuple[Tensor, MapLabel]:
    """Return raw [1,C,H,W] of a picture at the size of its truth, and the truth."""
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else "cpu"
    size: Size = (label.valid.shape[0], label.valid.shape[1])
    if preset.test == "slide":
        return _slide(preset, predict, image, size, patch_of(model), device), label
    wanted = size_of(preset, patch_of(model))
    if preset.test == "center":
        view = View.center(image.shape[:2], wanted)
        label = pictures.task.view(label, View(view.crop, preset.crop))
        size = preset.crop
    else:
        view = View.whole(wanted)
    return predict(torch.from_numpy(view.image(image)[None].copy()).to(device), size), label


def _slide(
    preset: Preset, predict: Predict, image: ImageArray, size: Size, patch: int, device: torch.device | str
) -> Tensor:
    """Return the mean of the outputs of all windows, resized to ``size``."""
    crop = fitted(preset.crop, patch)
    H, W = image.shape[:2]
    factor = preset.test_short / min(H, W)
    height, width = max(round(H * factor), 1), max(round(W * factor), 1)
    whole = padded(View.whole((height, width)).image(image), (max(height, crop[0]), max(width, crop[1])))
    total, count = None, torch.zeros(whole.shape[:2], device=device)
    for top, left in _windows(whole.shape[:2], crop, preset.stride):
        window = whole[top : top + crop[0], left : left + crop[1]]
        raw = predict(torch.from_numpy(window[None].copy()).to(device), crop)
        total = raw.new_zeros(1, raw.shape[1], *whole.shape[:2]) if total is None else total
        total[:, :, top : top + crop[0], left : left + crop[1]] += raw
        count[top : top + crop[0], left : left + crop[1]] += 1
    assert total is not None
    return resize((total / count)[:, :, :height, :width], size)


def _windows(size: tuple[int, ...], crop: Size, stride: Size) -> Iterator[tuple[int, int]]:
    """Yield (top, left) of windows that cover a picture; the last of each row and column ends at its border."""
    starts = []
    for whole, window, step in zip(size, crop, stride, strict=True):
        count = max(-(-(whole - window) // step), 0) + 1
        starts.append([min(i * step, whole - window) for i in range(count)])
    return ((top, left) for top in starts[0] for left in starts[1])
