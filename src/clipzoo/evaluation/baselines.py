"""The rows without which a dense table proves nothing.

position prior: one map for all images, the best constant that could be found; it never sees a picture.
pixels + position: the same ridge on raw patches and the patch's place; what a student gives beyond its own
input. random student: the same architecture, untrained; what the architecture alone gives. expert: its
labels on the very pictures; the ceiling that the pseudo-labels could have. more labels: a student probed on
truth plus pseudo-labels; what the label volume alone gives.
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
from clipzoo.evaluation.probe import Probes, fit_all, targets
from clipzoo.evaluation.ridge import STRENGTHS
from clipzoo.tasks.base import Convention
from clipzoo.types import ImageArray, View

Predict = Callable[[Sequence[ImageArray]], list[Any]]
PATCH_SIDE = 16
PATCHED = 256
"""Images of which patches are cut at a time."""
VALUES = 1 << 22
QUANTILES = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Constants:
    """One label a task, for all pictures."""

    labels: Mapping[str, Any]

    def score(self, part: Split) -> dict[str, Scored]:
        """The scores on a set, task by task."""
        return {name: score_constant(label, part.truth[name], part.keys) for name, label in self.labels.items()}


def position_prior(train: Split, validation: Split) -> Constants:
    """The constant map of each task that does best on validation by the task's headline.

    The candidates are made of the right raw outputs of the probe split, pixel by pixel: their mean (majority of
    one-hot classes, mean direction), their quantiles around the median (of log depth), and the mean less its
    average over the image (which classes are more frequent here than elsewhere).
    """
    best = {}
    for name, truth in train.truth.items():
        labels = [truth.task.predict(raw[None], truth.convention)[0] for raw in _candidates(truth)]
        best[name] = labels[_best([score_constant(x, validation.truth[name], validation.keys) for x in labels])]
    return Constants(best)


def pixels_position(
    train: Split, validation: Split, grid: tuple[int, int], strengths: Sequence[float] = STRENGTHS
) -> Probes:
    """The probe on raw patches of a ``grid`` (h, w), the student's, and one indicator a place."""

    def read(part: Split) -> Iterator[Tensor]:
        return (patches(images, grid) for images in part.batches(PATCHED))

    return fit_all(read, train, validation, strengths)


def patches(images: ImageArray, grid: tuple[int, int], side: int = PATCH_SIDE) -> Tensor:
    """Uint8 [N,H,W,3] -> raw patches as features, float32 [N, 3·p·q + h·w, h, w].

    A patch is resampled to at most ``side`` pixels a side; the last h·w channels say where it lies.
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
) -> Scored:
    """Score an expert on the pictures of ``test``, at their own size.

    Args:
        predict: images of one size, uint8 H×W×3 -> labels in the frame of each.
        task: the task of the labels.
        test: the set.
        convention: what the expert's labels mean; by default what the truth means.
        batch: images a call.

    Raises:
        PlanError: the expert names other classes than the truth.
        LabelError: its labels cannot be judged by this truth.
    """
    truth = test.truth[task]
    if convention is not None and convention.classes != truth.convention.classes:
        raise PlanError(
            f"the expert's {task} labels have the classes {convention.classes}, the truth {truth.convention.classes}: "
            "ids of two label spaces cannot be compared; map the labels, or name an expert of that space"
        )
    metric, whole = truth.task.metric(truth.convention), View.whole(truth.size)
    labels = (truth.task.view(label, whole) for some in _batches(test, batch) for label in predict(some))
    return Scored(task, test.keys, rows(metric, labels, truth.labels), metric, truth.convention)


def _batches(test: Split, batch: int) -> Iterator[list[ImageArray]]:
    """The images at their own size, at most ``batch`` consecutive ones of one size at a time."""
    some: list[ImageArray] = []
    for image in files.ahead(test.images.__getitem__, range(len(test)), test.threads):
        if some and (len(some) == batch or image.shape != some[0].shape):
            yield some
            some = []
        some.append(image)
    if some:
        yield some


def _candidates(truth: Truth) -> list[Tensor]:
    """Constant raw outputs [C,H,W]."""
    channels = truth.task.channels(truth.convention)
    total, count = torch.zeros(channels, *truth.size, dtype=torch.float64), torch.zeros(truth.size)
    for raw, valid in targets(truth, truth.size, 32):
        total += raw.double().sum(0)
        count += valid.sum(0)
    everywhere = total.sum((1, 2)) / count.sum().clamp_min(1)
    mean = torch.where(count > 0, total / count.clamp_min(1), everywhere[:, None, None]).float()
    return [mean, *_quantiles(truth, mean), mean - mean.mean((1, 2), keepdim=True)]


def _quantiles(truth: Truth, fallback: Tensor) -> list[Tensor]:
    """Quantiles of the known values of each pixel, over images spread over the set, at most `VALUES` values."""
    images = max(16, VALUES // fallback.numel())
    some = Truth(truth.task, truth.convention, truth.labels[:: -(-len(truth) // images)], truth.size)
    parts = [torch.where(valid[:, None], raw, torch.nan).flatten(1) for raw, valid in targets(some, some.size, 32)]
    columns = torch.cat(parts).split_with_sizes(_widths(fallback.numel(), VALUES // images), 1)
    found = torch.cat([part.nanquantile(torch.tensor(QUANTILES), dim=0) for part in columns], 1)
    return [torch.where(value.isnan(), fallback, value) for value in found.reshape(-1, *fallback.shape)]


def _widths(total: int, most: int) -> list[int]:
    """Parts of at most ``most``; torch's quantile takes no more than 2²⁴ values at once."""
    return [min(most, total - start) for start in range(0, total, most)]


def score_constant(label: Any, truth: Truth, keys: Sequence[str]) -> Scored:
    """One label in the place of every prediction."""
    metric = truth.task.metric(truth.convention)
    shares = rows(metric, [label] * len(truth), truth.labels)
    return Scored(truth.task.name, tuple(keys), shares, metric, truth.convention)


def _best(scored: Sequence[Scored]) -> int:
    """The index of the best by the headline."""
    name, measure = next(iter(scored[0].measures.items()))
    sign = 1 if measure.direction == "higher" else -1
    return int(np.argmax([np.nan_to_num(sign * s.compute()[name], nan=-np.inf) for s in scored]))
