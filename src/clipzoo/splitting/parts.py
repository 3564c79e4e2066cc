"""Sizes of parts, and the part of each sample.

Groups of several samples are assigned first, the largest ones first, then single samples, both ordered by class. Each
goes to the part with the largest deficit, so that parts have their sizes and the same shares of all classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import DatasetError

TRAIN, HELDOUT = "train", "heldout"
MEASURED = ("probe", "validation", "test")
PARTS = (TRAIN, *MEASURED, HELDOUT)
"""In the order of their numbers."""

FOLDER = "folder"
"""The value of ``classes`` and ``series`` for the folder of a sample, instead of a field."""


@dataclass(frozen=True)
class Options:
    """Options of a split.

    Attributes:
        probe, validation, test: size of the part: a share (``10%``, ``0.1``) or a number of samples (``500``). 0 leaves
            the part out. The other samples are the part ``train``.
        heldout: classes whose samples, and those of their groups, are the part ``heldout``.
        classes: ``folder`` (the folder that holds a sample is its class) or a field with text; "" for no classes.
        series: ``folder`` (by its whole path) or a field with text; samples with one value stay in one part.
        series_pattern: regular expression; samples whose keys match it with equal groups stay in one part.
        shard_size: samples in a shard.
        seed: of the random order.
    """

    probe: str = "10%"
    validation: str = "10%"
    test: str = "10%"
    heldout: tuple[str, ...] = ()
    classes: str = ""
    series: str = ""
    series_pattern: str = ""
    shard_size: int = 1000
    seed: int = 0

    def check(self) -> None:
        """Raise `DatasetError` if an option has an invalid value."""
        for part in MEASURED:
            amount(part, getattr(self, part), 0)
        if self.shard_size < 1:
            raise DatasetError(f"--shard-size {self.shard_size} is not a number of samples; give 1 or more")
        if self.heldout and not self.classes:
            raise DatasetError(
                f"--heldout {','.join(self.heldout)} names classes, but the samples have none; add --classes folder, "
                "or --classes FIELD"
            )
        try:
            groups = re.compile(self.series_pattern).groups
        except re.error as error:
            raise DatasetError(
                f"--series-pattern {self.series_pattern!r} is not a regular expression: {error}"
            ) from error
        if self.series_pattern and not groups:
            raise DatasetError(
                f"--series-pattern {self.series_pattern!r} has no group, so it does not say which part of a key names "
                "the series; put that part in brackets, as in '(.+)_[0-9]+'"
            )


def amount(part: str, text: str, total: int) -> int:
    """Return the number of samples of a size; `DatasetError` if it is none."""
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
        if not text.endswith("%") and "." not in text:
            if int(text) < 0:
                raise ValueError
            return int(text)
        if not 0 <= share <= 1:
            raise ValueError
    except ValueError:
        raise DatasetError(
            f"--{part} {text} is not a size; give a share, such as 10% or 0.1, or a number of samples, such as 500"
        ) from None
    return round(share * total)


def sizes(options: Options, total: int) -> list[int]:
    """Return the size of each part but ``heldout``, of ``total`` samples.

    Raises:
        DatasetError: the measured parts need more samples than there are, or a part that was asked for is empty.
    """
    measured = [amount(part, getattr(options, part), total) for part in MEASURED]
    for part, size in zip(MEASURED, measured, strict=True):
        if not size and amount(part, getattr(options, part), 10**12):
            raise DatasetError(
                f"the part {part!r} would be empty: --{part} {getattr(options, part)} of {total} samples is none. Give "
                f"a number, such as --{part} 1, or --{part} 0 to leave it out"
            )
    if sum(measured) > total:
        raise DatasetError(
            f"--probe, --validation and --test ask for {sum(measured)} samples, but there are {total}; give smaller "
            "sizes"
        )
    return [total - sum(measured), *measured]


def assign(roots: NDArray[np.int64], classes: NDArray[np.int64], wanted: Sequence[int], seed: int) -> NDArray[np.int8]:
    """Return the number of the part of each sample.

    Args:
        roots: for each sample, the index of the first sample of its group.
        classes: of each sample; equal numbers for samples without classes.
        wanted: sizes of the parts.
        seed: of the random order.
    """
    members, counts = np.unique(roots, return_counts=True)
    random = _mixed(members.astype(np.uint64), seed)
    parts = np.zeros(len(roots), np.int8)
    filled = _Filling(wanted)
    several = np.flatnonzero(counts > 1)
    for group in several[np.lexsort((random[several], classes[members[several]], -counts[several]))]:
        parts[members[group]] = filled.put(int(counts[group]))
    filled.restart()
    single = np.flatnonzero(counts == 1)
    for group in single[np.lexsort((random[single], classes[members[single]]))]:
        parts[members[group]] = filled.put(1)
    return parts[roots]


class _Filling:
    """Parts that are filled in proportion to their sizes."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self.left = list(wanted)
        self.restart()

    def restart(self) -> None:
        """Fill what is left in proportion from now on."""
        total = sum(max(left, 0) for left in self.left) or 1
        self.shares = [max(left, 0) / total for left in self.left]
        self.put_in, self.total = [0] * len(self.left), 0

    def put(self, size: int) -> int:
        """Return the part for a group: the one with room and the largest deficit, else the one with most room.

        A group that fits in no part makes that part larger than its size.
        """
        self.total += size
        deficit = [share * self.total - count for share, count in zip(self.shares, self.put_in, strict=True)]
        roomy = [part for part, left in enumerate(self.left) if left >= size]
        part = max(roomy, key=deficit.__getitem__) if roomy else max(range(len(self.left)), key=self.left.__getitem__)
        self.left[part] -= size
        self.put_in[part] += size
        return part


def _mixed(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return pseudo-random numbers that depend on a value and the seed only (splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
