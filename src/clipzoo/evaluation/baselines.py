"""Baselines of the dense tasks.

- position prior: the best constant map, the same for all images.
- pixels + position: the same ridge on raw patches and their positions.
- random student: the architecture of the student with random weights.
- expert: its labels of the test images, an upper bound of the pseudo-labels.
- more labels: a student probed on truth plus pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipzoo import files
from clipzoo.benchmarks import Split, Truth
from clipzoo.errors import PlanError
from clipzoo.evaluation.measure import Scored, rows
from clipzoo.evaluation.probes.fitting import fit_all, targets
from clipzoo.evaluation.probes.probe import Probes
from clipzoo.evaluation.probes.ridge import STRENGTHS
from clipzoo.experts.calls import check_label, one_each, reason
from clipzoo.tasks.base import Convention
from clipzoo.types import ImageArray, View

Predict = Callable[[Sequence[ImageArray]], list[Any]]
PATCH_SIDE = 16
PATCHED = 256
"""Images that are cut into patches at a time."""
VALUES = 1 << 22
QUANTILES = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Constants:
    """Constant predictions: one label for each task."""

    labels: Mapping[str, Any]

    def score(self, part: Split) -> dict[str, Scored]:
        """Return task -> scores on a split."""
        return {name: score_constant(label, part.truth[name], part.keys) for name, label in self.labels.items()}


def position_prior(train: Split, validation: Split) -> Constants:
    """Return the constant map of each task with the best headline measure on validation.

    The candidates are statistics of the oracle's raw outputs on the probe split, for each pixel: their mean (majority
    of one-hot classes, mean direction), their quantiles around the median (of log depth), and the mean minus its
    average over the image (classes that are more frequent at this pixel than elsewhere).
    """
    best = {}
    for name, truth in train.truth.items():
        labels = [truth.task.predict(raw[None], truth.convention)[0] for raw in _candidates(truth)]
        scores = [score_constant(label, validation.truth[name], validation.keys) for label in labels]
        best[name] = labels[_best(scores)]
    return Constants(best)


def pixels_position(
    train: Split, validation: Split, grid: tuple[int, int], strengths: Sequence[float] = STRENGTHS
) -> Probes:
    """Fit the probe on raw patches of the student's ``grid`` (h, w) and an indicator of each position."""

    def read(part: Split) -> Iterator[Tensor]:
        return (patches(images, grid) for images in part.batches(PATCHED))

    return fit_all(read, train, validation, strengths)


def patches(images: ImageArray, grid: tuple[int, int], side: int = PATCH_SIDE) -> Tensor:
    """Return raw patches of images (uint8 [N,H,W,3]) as features, float32 [N, 3·p·q + h·w, h, w].

    A patch is resampled to at most ``side`` pixels a side. The last h·w channels are a one-hot code of its position.
    """
    (h, w), (N, H, W, _) = grid, images.shape
    p, q = min(side, -(-H // h)), min(side, -(-W // w))
    place = torch.eye(h * w).reshape(1, h * w, h, w)
    x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    if (h * p, w * q) != (H, W):
        x = F.interpolate(x, (h * p, w * q), mode="bilinear", antialias=True)
    cut = x.reshape(N, 3, h, p, w, q).permute(0, 1, 3, 5, 2, 4).reshape(N, -1, h, w)
    return torch.cat([cut, place.expand(N, -1, -1, -1)], 1)


def expert(
    predict: Predict,
    task: str,
    test: Split,
    convention: Convention | None = None,
    batch: int = 16,
    device: str = "cpu",
) -> Scored:
    """Score an expert on the images of a split, at their original size.

    An image that it cannot label counts as unknown, and is listed in `Scored.failures`.

    Args:
        predict: images of one size, uint8 H×W×3 -> labels in the frame of each.
        task: of the labels.
        test: the split.
        convention: of the expert's labels; by default that of the truth.
        batch: the largest number of images in a call.
        device: of the expert.

    Raises:
        PlanError: the classes of the expert are not those of the truth.
        DeviceError: the GPU has failed.
        LabelError: its labels cannot be compared with this truth.
    """
    truth = test.truth[task]
    if convention is not None and convention.classes != truth.convention.classes:
        raise PlanError(
            f"the {task} labels of the expert have the classes {convention.classes}, the truth has "
            f"{truth.convention.classes}. Class ids of two label spaces cannot be compared. Map the labels, or choose "
            "an expert with the classes of the truth"
        )
    metric, nothing = truth.task.metric(truth.convention), truth.task.unknown(truth.size, truth.convention)
    failures: dict[str, str] = {}

    def labels() -> Iterator[Any]:
        batches = _batches(test, batch)
        found = (label for images in batches for label in labeled(predict, truth, images, convention, device))
        for key, label in zip(test.keys, found, strict=True):
            if isinstance(label, Exception):
                failures[key] = reason(label)
            yield nothing if isinstance(label, Exception) else label

    statistics = rows(metric, labels(), truth.labels)
    return Scored(task, test.keys, statistics, metric, truth.convention, failures)


def labeled(
    predict: Predict,
    truth: Truth,
    images: Sequence[ImageArray],
    convention: Convention | None = None,
    device: str = "cpu",
) -> list[object]:
    """Return an expert's labels of images of one size, resampled to those of the truth.

    An image that it cannot label has an exception instead. See `expert` for the arguments and errors.
    """
    whole = View.whole(truth.size)

    def viewed(some: Sequence[ImageArray]) -> list[object]:
        labels = predict(some)
        for label in labels:
            check_label(truth.task, label, convention or truth.convention)
        return [truth.task.view(label, whole) for label in labels]

    return one_each(viewed, images, device)


def _batches(test: Split, batch: int) -> Iterator[list[ImageArray]]:
    """Yield at most ``batch`` consecutive images of one size, at their original size."""
    images: list[ImageArray] = []
    for image in files.map_ahead(test.images.__getitem__, range(len(test)), test.threads):
        if images and (len(images) == batch or image.shape != images[0].shape):
            yield images
            images = []
        images.append(image)
    if images:
        yield images


def _candidates(truth: Truth) -> list[Tensor]:
    """Return constant raw outputs [C,H,W]."""
    channels = truth.task.channels(truth.convention)
    total, count = torch.zeros(channels, *truth.size, dtype=torch.float64), torch.zeros(truth.size)
    for raw, valid in targets(truth, truth.size, 32):
        total += raw.double().sum(0)
        count += valid.sum(0)
    everywhere = total.sum((1, 2)) / count.sum().clamp_min(1)
    mean = torch.where(count > 0, total / count.clamp_min(1), everywhere[:, None, None]).float()
    return [mean, *_quantiles(truth, mean), mean - mean.mean((1, 2), keepdim=True)]


def _quantiles(truth: Truth, fallback: Tensor) -> list[Tensor]:
    """Return quantiles of the known values of each pixel, of at most `VALUES` values from evenly spaced images."""
    images = max(16, VALUES // fallback.numel())
    sample = Truth(truth.task, truth.convention, truth.labels[:: -(-len(truth) // images)], truth.size)
    parts = [torch.where(valid[:, None], raw, torch.nan).flatten(1) for raw, valid in targets(sample, sample.size, 32)]
    columns = torch.cat(parts).split_with_sizes(_widths(fallback.numel(), VALUES // images), 1)
    quantiles = torch.cat([part.nanquantile(torch.tensor(QUANTILES), dim=0) for part in columns], 1)
    return [torch.where(value.isnan(), fallback, value) for value in quantiles.reshape(-1, *fallback.shape)]


def _widths(total: int, most: int) -> list[int]:
    """Split ``total`` into parts of at most ``most``: torch's quantile takes no more than 2²⁴ values."""
    return [min(most, total - start) for start in range(0, total, most)]


def score_constant(label: Any, truth: Truth, keys: Sequence[str]) -> Scored:
    """Score one label as the prediction of every image."""
    metric = truth.task.metric(truth.convention)
    shares = rows(metric, [label] * len(truth), truth.labels)
    return Scored(truth.task.name, tuple(keys), shares, metric, truth.convention)


def _best(scores: Sequence[Scored]) -> int:
    """Return the index of the best scores by the headline measure."""
    name, measure = next(iter(scores[0].measures.items()))
    sign = 1 if measure.direction == "higher" else -1
    return int(np.argmax([np.nan_to_num(sign * scored.compute()[name], nan=-np.inf) for scored in scores]))
