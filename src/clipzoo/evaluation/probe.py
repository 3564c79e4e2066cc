"""Dense probes in closed form on frozen features.

Tokens [h,w] of a feature map are standardized (mean and deviation of the probe split). Ridge regression maps each token
to its block of pixels of ``TASK.oracle(target)``, the correct raw output. The strength is chosen on the validation
split by squared error in the raw space. If the grid does not divide the label size, blocks have ⌈H/h⌉ × ⌈W/w⌉ pixels:
labels are resampled by their task to that size, and predictions are resampled back.

Unknown pixels: the weight of a token is the known share of its block, so entirely unknown blocks have no effect.
Unknown pixels of a partly known block are replaced by the mean of the known ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipzoo.benchmarks import Split, Truth
from clipzoo.evaluation.base import Encoder, feature_batches, gathered
from clipzoo.evaluation.measure import Scored, shares, stacked
from clipzoo.evaluation.ridge import STRENGTHS, Moments, Ridge, solve
from clipzoo.tasks.base import Statistics
from clipzoo.types import View

Read = Callable[[Split], Iterator[Tensor]]
"""Split -> batches of features [B,D,h,w] of its images in order."""

CHUNK_BYTES = 4 << 20  # fits the cache, which is three times as fast as 64 MiB
GROUP_BYTES = 256 << 20


@dataclass(frozen=True)
class Probe:
    """A fitted probe of one task.

    ``mean`` and ``scale`` [D] standardize tokens. ``ridges`` map a token to consecutive groups of its C·bh·bw outputs.
    ``block`` is (bh, bw) in pixels.
    """

    truth: Truth
    mean: Tensor
    scale: Tensor
    ridges: tuple[Ridge, ...]
    block: tuple[int, int]

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths chosen on validation, one for each group of outputs (usually a single group)."""
        return tuple(ridge.strength for ridge in self.ridges)

    def raw(self, maps: Tensor) -> Tensor:
        """Return the raw output [B,C,H,W] for features [B,D,h,w], at the size of the truth."""
        B, _, h, w = maps.shape
        bh, bw = self.block
        X = _tokens(maps, self.mean, self.scale)
        Y = torch.cat([ridge(X) for ridge in self.ridges], 1)
        blocks = Y.reshape(B, h, w, -1, bh, bw).permute(0, 3, 1, 4, 2, 5)
        raw = blocks.reshape(B, -1, h * bh, w * bw)
        size = self.truth.size
        if raw.shape[-2:] != size:
            raw = F.interpolate(raw, size, mode="bilinear", antialias=True)
        return raw

    def predict(self, maps: Tensor) -> list[Any]:
        """Return a label for each image of features [B,D,h,w], at the size of the truth."""
        return self.truth.task.predict(self.raw(maps), self.truth.convention)

    def score(self, maps: Tensor, truth: Truth, keys: Sequence[str]) -> Scored:
        """Score the predictions for features [N,D,h,w]."""
        scoring = _Scoring(self, truth)
        scoring.add(maps)
        return scoring.scored(keys)


@dataclass(frozen=True)
class Probes:
    """The probes of one source of features, one for each task."""

    read: Read
    tasks: Mapping[str, Probe]

    def score(self, part: Split) -> dict[str, Scored]:
        """Return task -> scores on a split, in one pass that keeps no features."""
        scorings = {name: _Scoring(probe, part.truth[name]) for name, probe in self.tasks.items()}
        for maps in self.read(part):
            for scoring in scorings.values():
                scoring.add(maps)
        return {name: scoring.scored(part.keys) for name, scoring in scorings.items()}


class _Scoring:
    """The scores of a probe from batches of features, predicted in chunks of the probe's size."""

    def __init__(self, probe: Probe, truth: Truth) -> None:
        self.probe, self.truth, self.metric = probe, truth, truth.task.metric(truth.convention)
        self.pending: list[Tensor] = []
        self.shares: list[Statistics | None] = []

    def add(self, maps: Tensor) -> None:
        """Add the features [B,D,h,w] of the next images."""
        step = _images_per_chunk(maps, sum(len(r.bias) for r in self.probe.ridges))
        pending = torch.cat([*self.pending, maps]) if self.pending else maps
        complete = len(pending) - len(pending) % step
        for i in range(0, complete, step):
            self._predict(pending[i : i + step])
        self.pending = [pending[complete:]] if complete < len(pending) else []

    def _predict(self, maps: Tensor) -> None:
        truths = self.truth.labels[len(self.shares) : len(self.shares) + len(maps)]
        self.shares += shares(self.metric, self.probe.predict(maps), truths)

    def scored(self, keys: Sequence[str]) -> Scored:
        """Return the scores of all images."""
        for maps in self.pending:
            self._predict(maps)
        self.pending = []
        return Scored(self.truth.task.name, tuple(keys), stacked(self.shares), self.metric, self.truth.convention)


def dense(
    student: Encoder,
    train: Split,
    validation: Split,
    layers: Sequence[int] = (-1,),
    strengths: Sequence[float] = STRENGTHS,
) -> Probes:
    """Fit probes of a frozen student for every task of ``train``."""
    return fit_all(lambda part: feature_batches(student, part, layers), train, validation, strengths)


def fit_all(
    read: Read,
    train: Split,
    validation: Split,
    strengths: Sequence[float] = STRENGTHS,
) -> Probes:
    """Fit a probe for each task, with the features of both splits in memory."""
    fitted = _Tokens.of(gathered(read(train), len(train)))
    choosing = replace(fitted, maps=gathered(read(validation), len(validation)))
    probes = {
        name: _fit(fitted, truth, choosing, validation.truth[name], strengths) for name, truth in train.truth.items()
    }
    return Probes(read, probes)


def fit(
    train_maps: Tensor,
    train: Truth,
    validation_maps: Tensor,
    validation: Truth,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Fit a probe from features [N,D,h,w] to the truth of a task; the strength is chosen on validation."""
    tokens = _Tokens.of(train_maps)
    return _fit(tokens, train, replace(tokens, maps=validation_maps), validation, strengths)


@dataclass
class _Tokens:
    """Features [N,D,h,w] of a split, and ``mean`` and ``scale`` [D], which standardize their tokens."""

    maps: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> _Tokens:
        """Standardize features by their own mean and deviation."""
        deviation = maps.std((0, 2, 3), correction=0)
        scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), torch.zeros_like(deviation))
        return cls(maps, maps.mean((0, 2, 3)), scale)

    def rows(self, images: slice) -> Tensor:
        """Return the standardized tokens [n,D] of some images."""
        return _tokens(self.maps[images], self.mean, self.scale)

    @cached_property
    def sums(self) -> Moments:
        """The sums over all tokens with weight 1, shared by the tasks whose labels are known everywhere."""
        sums, step = Moments.zero(self.maps.shape[1], 0), _images_per_chunk(self.maps, 0)
        for i in range(0, len(self.maps), step):
            X = self.rows(slice(i, i + step))
            sums.add_inputs(X, X.new_ones(len(X)))
        return sums


def _fit(fitted: _Tokens, train: Truth, choosing: _Tokens, validation: Truth, strengths: Sequence[float]) -> Probe:
    _, D, h, w = fitted.maps.shape
    H, W = train.size
    block = (-(-H // h), -(-W // w))
    outputs = train.task.channels(train.convention) * block[0] * block[1]
    width = max(1, GROUP_BYTES // (16 * D))
    ridges = []
    for low in range(0, outputs, width):
        group = slice(low, min(low + width, outputs))
        fit, choose = _moments(fitted, train, group, outputs), _moments(choosing, validation, group, outputs)
        ridges.append(solve(fit, choose, strengths))
    return Probe(train, fitted.mean, fitted.scale, tuple(ridges), block)


def targets(truth: Truth, size: tuple[int, int], step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the oracle's raw outputs of the labels at ``size`` (H, W), ``step`` images at a time.

    Yields:
        (raw [B,C,H,W], valid bool [B,H,W]); raw is zero where nothing is known.
    """
    task, whole = truth.task, View.whole(size)
    for i in range(0, len(truth.labels), step):
        chunk = tuple(truth.labels[i : i + step])
        if size != truth.size:
            chunk = tuple(None if label is None else task.view(label, whole) for label in chunk)
        target = task.collate(chunk, size)
        valid = target["valid"].reshape(len(chunk), *size)
        raw = task.oracle(target, truth.convention).float()
        yield (raw if bool(valid.all()) else torch.where(valid[:, None], raw, 0.0)), valid


def _moments(tokens: _Tokens, truth: Truth, group: slice, outputs: int) -> Moments:
    _, D, h, w = tokens.maps.shape
    H, W = truth.size
    size = (-(-H // h) * h, -(-W // w) * w)
    known = all(label is not None and truth.task.valid_share(label) == 1 for label in truth.labels)
    width = group.stop - group.start
    sums = tokens.sums.with_outputs(width) if known else Moments.zero(D, width)
    add, step = sums.add_outputs if known else sums.add, _images_per_chunk(tokens.maps, outputs)
    for i, (raw, valid) in enumerate(targets(truth, size, step)):
        Y, weight = _blocks(raw, valid, (h, w))
        X = tokens.rows(slice(i * step, (i + 1) * step))
        used = weight > 0
        if not bool(used.all()):
            X, Y, weight = X[used], Y[used], weight[used]
        add(X, Y[:, group], weight)
    return sums


def _tokens(maps: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the standardized tokens [B·h·w, D] of features [B,D,h,w]."""
    return (maps.float().permute(0, 2, 3, 1).flatten(0, 2) - mean) * scale


def _blocks(raw: Tensor, valid: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the block [B·h·w, C·bh·bw] of each token and its known share [B·h·w].

    Args:
        raw: [B,C,H,W]. valid: bool [B,H,W]. grid: (h, w).
    """
    B, C, H, W = raw.shape
    h, w = grid
    split = raw.reshape(B, C, h, H // h, w, W // w).permute(0, 2, 4, 1, 3, 5).reshape(B * h * w, C, -1)
    known = valid.reshape(B, h, H // h, w, W // w).permute(0, 1, 3, 2, 4).reshape(B * h * w, 1, -1)
    share = known.float().mean(2)
    if not bool(known.all()):
        mean = split.mean(2, keepdim=True) / share.clamp_min(1e-6)[..., None]  # raw is zero where unknown
        split = torch.where(known, split, mean)
    return split.flatten(1), share[:, 0]


def _images_per_chunk(maps: Tensor, outputs: int) -> int:
    """Return the number of images that fill the cache, or more where adding to the sums [D,O] would dominate."""
    _, D, h, w = maps.shape
    return max(1, CHUNK_BYTES // (4 * h * w * max(outputs, D)), D // (h * w))
