"""Dense probes in closed form: what frozen features know of a task, with no training run to doubt.

Tokens [h,w] of a feature map are standardized (mean and deviation of the probe split) and regressed by
ridge to the block of pixels that each of them covers in ``TASK.oracle(target)``, the raw output that is
right. The strength is chosen on the validation split by squared error in the raw space; the test split is
only predicted. A grid that does not divide the label's size is given whole blocks of ⌈H/h⌉ × ⌈W/w⌉ pixels,
for which labels are resampled by their task's own law, and predictions are resampled back.

Unknown pixels: a token weighs as much as the share of its block that is known, so a wholly unknown one is
left out; the unknown pixels of a partly known block take the mean of the known ones, so what lies under the
mask is inert.
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
from clipzoo.evaluation.base import Student, feature_batches, gathered
from clipzoo.evaluation.measure import Scored, shares, stacked
from clipzoo.evaluation.ridge import STRENGTHS, Moments, Ridge, solve
from clipzoo.tasks.base import Statistics
from clipzoo.types import View

Read = Callable[[Split], Iterator[Tensor]]
"""A set -> features of its pictures in order, [B,D,h,w] a batch."""

CHUNK_BYTES = 4 << 20  # fits a cache: three times as fast as 64 MiB
GROUP_BYTES = 256 << 20


@dataclass(frozen=True)
class Probe:
    """A fitted probe of one task.

    ``mean`` and ``scale`` [D] standardize tokens; ``ridges`` hold consecutive groups of the C·bh·bw outputs
    of a token; ``block`` is (bh, bw) in pixels.
    """

    truth: Truth
    mean: Tensor
    scale: Tensor
    ridges: tuple[Ridge, ...]
    block: tuple[int, int]

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths chosen on validation, one a group of outputs (nearly always one)."""
        return tuple(ridge.strength for ridge in self.ridges)

    def raw(self, maps: Tensor) -> Tensor:
        """Features [B,D,h,w] -> raw output [B,C,H,W] at the size of the truth."""
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
        """Labels of features [B,D,h,w], one an image, of the size of the truth."""
        return self.truth.task.predict(self.raw(maps), self.truth.convention)

    def score(self, maps: Tensor, truth: Truth, keys: Sequence[str]) -> Scored:
        """Predictions of features [N,D,h,w] against their truth."""
        scoring = _Scoring(self, truth)
        scoring.add(maps)
        return scoring.scored(keys)


@dataclass(frozen=True)
class Probes:
    """The probes of one source of features, a task each; fitted once, they score any set."""

    read: Read
    tasks: Mapping[str, Probe]

    def score(self, part: Split) -> dict[str, Scored]:
        """The scores on a set, task by task, in one pass over its pictures; their features are not kept."""
        scorings = {name: _Scoring(probe, part.truth[name]) for name, probe in self.tasks.items()}
        for maps in self.read(part):
            for scoring in scorings.values():
                scoring.add(maps)
        return {name: scoring.scored(part.keys) for name, scoring in scorings.items()}


class _Scoring:
    """Features that come batch by batch, predicted in the probe's own steps and compared with the truth."""

    def __init__(self, probe: Probe, truth: Truth) -> None:
        self.probe, self.truth, self.metric = probe, truth, truth.task.metric(truth.convention)
        self.pending: list[Tensor] = []
        self.shares: list[Statistics | None] = []

    def add(self, maps: Tensor) -> None:
        """Features [B,D,h,w] of the next images."""
        step = _images_per_chunk(maps, sum(len(r.bias) for r in self.probe.ridges))
        waiting = torch.cat([*self.pending, maps]) if self.pending else maps
        whole = len(waiting) - len(waiting) % step
        for i in range(0, whole, step):
            self._predict(waiting[i : i + step])
        self.pending = [waiting[whole:]] if whole < len(waiting) else []

    def _predict(self, maps: Tensor) -> None:
        truths = self.truth.labels[len(self.shares) : len(self.shares) + len(maps)]
        self.shares += shares(self.metric, self.probe.predict(maps), truths)

    def scored(self, keys: Sequence[str]) -> Scored:
        """The statistics of all images."""
        for maps in self.pending:
            self._predict(maps)
        self.pending = []
        return Scored(self.truth.task.name, tuple(keys), stacked(self.shares), self.metric, self.truth.convention)


def dense(
    student: Student,
    train: Split,
    validation: Split,
    layers: Sequence[int] = (-1,),
    strengths: Sequence[float] = STRENGTHS,
) -> Probes:
    """Probe a frozen student on every task of ``train``."""
    return fit_all(lambda part: feature_batches(student, part, layers), train, validation, strengths)


def fit_all(
    read: Read,
    train: Split,
    validation: Split,
    strengths: Sequence[float] = STRENGTHS,
) -> Probes:
    """Fit a probe a task from the features that ``read`` finds in pictures, those of both sets held meanwhile."""
    seen = _Tokens.of(gathered(read(train), len(train)))
    unseen = replace(seen, maps=gathered(read(validation), len(validation)))
    found = {name: _fit(seen, t, unseen, validation.truth[name], strengths) for name, t in train.truth.items()}
    return Probes(read, found)


def fit(
    train_maps: Tensor,
    train: Truth,
    validation_maps: Tensor,
    validation: Truth,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Fit a probe from features [N,D,h,w] to a task's truth; the strength comes from validation."""
    seen = _Tokens.of(train_maps)
    return _fit(seen, train, replace(seen, maps=validation_maps), validation, strengths)


@dataclass
class _Tokens:
    """Features [N,D,h,w] of a set, whose tokens are standardized by ``mean`` and ``scale`` [D]."""

    maps: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> _Tokens:
        """Features that are standardized by themselves."""
        deviation = maps.std((0, 2, 3), correction=0)
        scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), torch.zeros_like(deviation))
        return cls(maps, maps.mean((0, 2, 3)), scale)

    def rows(self, images: slice) -> Tensor:
        """The tokens [n,D] of some images."""
        return _tokens(self.maps[images], self.mean, self.scale)

    @cached_property
    def sums(self) -> Moments:
        """Of all tokens alike: what every task whose labels are known everywhere has in common."""
        sums, step = Moments.zero(self.maps.shape[1], 0), _images_per_chunk(self.maps, 0)
        for i in range(0, len(self.maps), step):
            X = self.rows(slice(i, i + step))
            sums.add_inputs(X, X.new_ones(len(X)))
        return sums


def _fit(seen: _Tokens, train: Truth, unseen: _Tokens, validation: Truth, strengths: Sequence[float]) -> Probe:
    _, D, h, w = seen.maps.shape
    H, W = train.size
    block = (-(-H // h), -(-W // w))
    outputs = train.task.channels(train.convention) * block[0] * block[1]
    width = max(1, GROUP_BYTES // (16 * D))
    ridges = []
    for low in range(0, outputs, width):
        group = slice(low, min(low + width, outputs))
        fit, choose = _moments(seen, train, group, outputs), _moments(unseen, validation, group, outputs)
        ridges.append(solve(fit, choose, strengths))
    return Probe(train, seen.mean, seen.scale, tuple(ridges), block)


def targets(truth: Truth, size: tuple[int, int], step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The oracle of a truth's labels at ``size`` (H, W), ``step`` images at a time.

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
        if not bool((some := weight > 0).all()):
            X, Y, weight = X[some], Y[some], weight[some]
        add(X, Y[:, group], weight)
    return sums


def _tokens(maps: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """[B,D,h,w] -> standardized tokens [B·h·w, D]."""
    return (maps.float().permute(0, 2, 3, 1).flatten(0, 2) - mean) * scale


def _blocks(raw: Tensor, valid: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Raw [B,C,H,W] and valid [B,H,W] -> each token's block [B·h·w, C·bh·bw] and known share [B·h·w]."""
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
    """As many as fill a cache, but rows enough that adding to the sums [D,O] is not the work."""
    _, D, h, w = maps.shape
    return max(1, CHUNK_BYTES // (4 * h * w * max(outputs, D)), D // (h * w))
