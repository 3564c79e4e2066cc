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
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipzoo.benchmarks import Split, Truth
from clipzoo.evaluation.measure import Scored, shares, stacked
from clipzoo.evaluation.probes.ridge import Ridge
from clipzoo.tasks.base import Statistics

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
        X = tokens(maps, self.mean, self.scale)
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
        step = images_per_chunk(maps, sum(len(r.bias) for r in self.probe.ridges))
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


def tokens(maps: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the standardized tokens [B·h·w, D] of features [B,D,h,w]."""
    return (maps.float().permute(0, 2, 3, 1).flatten(0, 2) - mean) * scale


def images_per_chunk(maps: Tensor, outputs: int) -> int:
    """Return the number of images that fill the cache, or more where adding to the sums [D,O] would dominate."""
    _, D, h, w = maps.shape
    return max(1, CHUNK_BYTES // (4 * h * w * max(outputs, D)), D // (h * w))
