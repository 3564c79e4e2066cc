"""Fit dense probes in one pass over each split's images: only sums over tokens are kept.

Products are summed in float32 within a chunk, so tokens are first scaled by the mean and deviation of the first batch;
the sums, in float64, are then standardized by the mean and deviation of all tokens of the probe split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from clipzoo.benchmarks import Split, Truth
from clipzoo.evaluation.base import Encoder, feature_batches
from clipzoo.evaluation.probes.probe import Probe, Probes, Read, images_per_chunk, tokens
from clipzoo.evaluation.probes.ridge import STRENGTHS, Moments, Ridge, solve
from clipzoo.types import View

GROUP_BYTES = 256 << 20
"""A task's outputs are fitted in groups; this is about the memory for the factors of a group."""
PASS_BYTES = 1 << 30
"""Sums of outputs of one split in memory; if they are larger, the images are encoded in several passes."""
LEAST = 1e-6
"""A channel with a smaller deviation is constant and is not used."""

Groups = Mapping[str, Sequence[slice]]
"""Task -> groups of its outputs."""


def dense(
    student: Encoder,
    train: Split,
    validation: Split,
    layers: Sequence[int] = (-1,),
    strengths: Sequence[float] = STRENGTHS,
) -> Probes:
    """Fit probes of a frozen student for every task of ``train``."""
    return fit_all(lambda part: feature_batches(student, part, layers), train, validation, strengths)


def fit_all(read: Read, train: Split, validation: Split, strengths: Sequence[float] = STRENGTHS) -> Probes:
    """Fit a probe for each task of ``train``; its strength is chosen on validation."""
    batches = read(train)
    first = next(batches)
    scaling, grid = _Scaling.of(first), (first.shape[-2], first.shape[-1])
    ridges: dict[str, list[Ridge]] = {name: [] for name in train.truth}
    exact = scaling
    for number, groups in enumerate(_passes(train.truth, first)):
        fitted, choosing = (_Sums(scaling, grid, part.truth, groups) for part in (train, validation))
        fitted.add_all(chain([first], batches) if number == 0 else read(train))
        choosing.add_all(read(validation))
        exact = fitted.exact()
        for fit, choose in zip(fitted.moments, choosing.moments, strict=True):
            for sums in (fit.sums, choose.sums):
                sums.standardize(*scaling.to(exact))
            ridges[fit.name].append(solve(fit.sums, choose.sums, strengths))
    probes = {
        name: Probe(truth, exact.mean.float(), exact.scale.float(), tuple(ridges[name]), _block(truth, grid))
        for name, truth in train.truth.items()
    }
    return Probes(read, probes)


@dataclass(frozen=True)
class _Scaling:
    """Token -> (token − ``mean``) · ``scale``, both float64 [D]."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> _Scaling:
        """Return the mean and the inverse deviation of the tokens of features [B,D,h,w]; 1 for a constant channel."""
        values = maps.double().transpose(0, 1).flatten(1)
        deviation = values.std(1, correction=0)
        return cls(values.mean(1), torch.where(deviation > LEAST, 1 / deviation.clamp_min(LEAST), 1.0))

    def tokens(self, maps: Tensor) -> Tensor:
        """Return the scaled tokens [B·h·w,D] of features [B,D,h,w]."""
        return tokens(maps, self.mean.float(), self.scale.float())

    def to(self, other: _Scaling) -> tuple[Tensor, Tensor]:
        """Return (shift, factor) [D]: tokens scaled by ``other`` are (tokens scaled by self − shift) · factor."""
        return (other.mean - self.mean) * self.scale, other.scale / self.scale


@dataclass
class _TaskSums:
    """Sums of one group of a task's outputs."""

    name: str
    group: slice
    sums: Moments


class _Sums:
    """Sums over the tokens of a split: of all tokens, and with the outputs of each group.

    Args:
        scaling: of the tokens.
        grid: (h, w) of the features.
        truth: task -> labels of the split.
        groups: outputs to sum.
    """

    def __init__(self, scaling: _Scaling, grid: tuple[int, int], truth: Mapping[str, Truth], groups: Groups) -> None:
        self.scaling, self.grid, self.truth = scaling, grid, truth
        D = len(scaling.mean)
        self.moments = [
            _TaskSums(name, group, Moments.zero(D, group.stop - group.start))
            for name, slices in groups.items()
            for group in slices
        ]
        self.outputs = max((_outputs(truth[name], grid) for name in groups), default=0)
        self.count, self.total, self.square = 0, torch.zeros(D).double(), torch.zeros(D).double()

    def add_all(self, batches: Iterable[Tensor]) -> None:
        """Add the features [B,D,h,w] of all images, in order."""
        image = 0
        for maps in batches:
            for chunk in torch.split(maps, images_per_chunk(maps, self.outputs)):
                self._add(chunk, image)
                image += len(chunk)

    def _add(self, maps: Tensor, image: int) -> None:
        X = self.scaling.tokens(maps)
        self.count += len(X)
        self.total += X.sum(0).double().cpu()
        self.square += X.square().sum(0).double().cpu()
        gram: Tensor | None = None  # shared by the tasks whose labels are known everywhere in this chunk
        for name in dict.fromkeys(one.name for one in self.moments):
            Y, columns, weight = self._blocks(self.truth[name], slice(image, image + len(maps)))
            used, known = weight > 0, bool((weight == 1).all())
            if not bool(used.any()):
                continue
            if known and gram is None:
                gram = (X.T @ X).double().cpu()
            rows = (X, Y, weight) if bool(used.all()) else (X[used], Y[used], weight[used])
            for one in [one for one in self.moments if one.name == name]:
                inside = (columns >= one.group.start) & (columns < one.group.stop)
                every = bool(inside.all())
                some = (rows[0], rows[1] if every else rows[1][:, inside], rows[2])
                one.sums.add(*some, columns=columns[inside] - one.group.start, gram=gram if known else None)

    def _blocks(self, truth: Truth, images: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs Y [n,O'] of some images, the indices of their columns [O'], and weights [n].

        Channels that are zero in all of these images, such as classes that do not occur, have no columns.
        """
        H, W = _block(truth, self.grid)
        size = (H * self.grid[0], W * self.grid[1])
        raw, valid = target(truth, images, size)
        present = raw.flatten(2).any(2).any(0).nonzero()[:, 0]
        pixels = torch.arange(H * W)
        Y, weight = _blocks(raw if len(present) == raw.shape[1] else raw[:, present], valid, self.grid)
        return Y, (present[:, None] * (H * W) + pixels).flatten(), weight

    def exact(self) -> _Scaling:
        """Return the mean and the inverse deviation of all tokens; 0 for a constant channel."""
        mean = self.total / self.count
        deviation = (self.square / self.count - mean.square()).clamp_min(0).sqrt() / self.scaling.scale
        inverse = torch.where(deviation > LEAST, 1 / deviation.clamp_min(LEAST), 0.0)
        return _Scaling(self.scaling.mean + mean / self.scaling.scale, inverse)


def _passes(truth: Mapping[str, Truth], maps: Tensor) -> Iterator[dict[str, list[slice]]]:
    """Yield the groups of outputs of each pass over the images."""
    D, grid = maps.shape[1], (maps.shape[-2], maps.shape[-1])
    width, room = max(1, GROUP_BYTES // (16 * D)), max(1, PASS_BYTES // (8 * D))
    groups: dict[str, list[slice]] = {}
    used = 0
    for name, labels in truth.items():
        outputs = _outputs(labels, grid)
        for low in range(0, outputs, width):
            group = slice(low, min(low + width, outputs))
            if used and used + group.stop - group.start > room:
                yield groups
                groups, used = {}, 0
            groups.setdefault(name, []).append(group)
            used += group.stop - group.start
    yield groups


def _block(truth: Truth, grid: tuple[int, int]) -> tuple[int, int]:
    """Return the pixels (bh, bw) of a token; blocks of a grid that does not divide the size reach beyond it."""
    return -(-truth.size[0] // grid[0]), -(-truth.size[1] // grid[1])


def _outputs(truth: Truth, grid: tuple[int, int]) -> int:
    bh, bw = _block(truth, grid)
    return truth.task.channels(truth.convention) * bh * bw


def target(truth: Truth, images: slice, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the oracle's raw output [B,C,H,W] of the labels of some images at ``size``, zero where nothing is known.

    Returns:
        (raw, valid bool [B,H,W]).
    """
    task, whole = truth.task, View.whole(size)
    labels = tuple(truth.labels[images])
    if size != truth.size:
        labels = tuple(None if label is None else task.view(label, whole) for label in labels)
    collated = task.collate(labels, size)
    valid = collated["valid"].reshape(len(labels), *size)
    raw = task.oracle(collated, truth.convention).float()
    return (raw if bool(valid.all()) else torch.where(valid[:, None], raw, 0.0)), valid


def targets(truth: Truth, size: tuple[int, int], step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the `target` of all labels, ``step`` images at a time."""
    for i in range(0, len(truth), step):
        yield target(truth, slice(i, min(i + step, len(truth))), size)


def _blocks(raw: Tensor, valid: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the block [B·h·w, C·bh·bw] of each token and its known share [B·h·w].

    Args:
        raw: [B,C,H,W]. valid: bool [B,H,W]. grid: (h, w).
    """
    B, C, H, W = raw.shape
    (h, w), (bh, bw) = grid, (H // grid[0], W // grid[1])
    split = raw.reshape(B, C, h, bh, w, bw).permute(0, 2, 4, 1, 3, 5).reshape(B * h * w, C, bh * bw)
    known = valid.reshape(B, h, bh, w, bw).permute(0, 1, 3, 2, 4).reshape(B * h * w, 1, bh * bw)
    share = known.float().mean(2)
    if not bool(known.all()):
        mean = split.mean(2, keepdim=True) / share.clamp_min(1e-6)[..., None]  # raw is zero where unknown
        split = torch.where(known, split, mean)
    return split.flatten(1), share[:, 0]
