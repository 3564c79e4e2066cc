"""The types of ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict


class Cell(TypedDict):
    """One measure of a row, or of the difference of two rows; None stands for a number that does not exist.

    Attributes:
        mean: over seeds, or the difference of the means.
        ci: the 95 % interval.
        direction: "higher" or "lower" is better.
        unit: of the measure, "" for a score in [0, 1].
        values: of each seed.
        std: over seeds; of rows.
        n: the number of seeds; of rows.
        p: the probability of the difference by chance; of differences.
        gap_closed: the closed share of the gap to the expert; of differences.
    """

    mean: float | None
    ci: Sequence[float] | None
    direction: str
    unit: str
    values: NotRequired[Sequence[float | None]]
    std: NotRequired[float | None]
    n: NotRequired[int]
    p: NotRequired[float | None]
    gap_closed: NotRequired[float | None]


Cells = dict[str, Cell]
"""Measure -> its value."""


class Comparison(TypedDict, total=False):
    """Rows on one set of images.

    Attributes:
        images: group of measures -> number of images.
        arms: arm -> its measures.
        baselines: baseline -> its measures.
        differences: "a-vs-b" -> their differences.
    """

    images: dict[str, int]
    arms: dict[str, Cells]
    baselines: dict[str, Cells]
    differences: dict[str, Cells]


class Results(Comparison, total=False):
    """The content of ``results.json``; see `clipzoo.evaluation.compare` and `clipzoo.runs.results`."""

    recipe: str
    seeds: list[int]
    subsets: dict[str, Comparison]
    cost: Mapping[str, object]
    protocol: Mapping[str, object]
    versions: Mapping[str, str]
    supervision: Mapping[str, object]
    guard: Mapping[str, object]
