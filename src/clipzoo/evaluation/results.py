"""The types of ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from clipzoo.evaluation.tradeoff import Reported


class Measured(TypedDict):
    """A measurement of the guard: the number of updates before it, and its value."""

    step: int
    value: float


class Event(TypedDict):
    """A rollback, or the end of a training by the guard; ``value`` is None if a gradient was not finite."""

    step: int
    event: str
    returned_to: int
    value: float | None
    rate_factor: float


class GuardRecord(TypedDict):
    """The plain values of ``guard.json``."""

    measure: str
    samples: int
    max_loss: float
    action: str
    start: float
    measured: list[Measured]
    alarms: int
    events: list[Event]


class Unlabeled(TypedDict):
    """Test images that the expert of a task cannot label, which count as unknown: their number and the first reason."""

    images: int
    of: int
    first: str


class NamedArm(TypedDict):
    """An arm of a subset of the columns: these columns, and the folder of its run in that of the whole run."""

    columns: list[str]
    folder: str


class TrainingRecord(TypedDict):
    """A training: samples of an epoch, steps, samples per step, seconds of all steps (from the speeds of its log; None
    without a log), and the hardware, "" if it was not recorded."""

    samples: int
    steps: int
    batch_size: int
    seconds: float | None
    hardware: str


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
        named_arms: arm of a subset of the columns -> its columns and folder; only with such arms.
    """

    images: dict[str, int]
    arms: dict[str, Cells]
    baselines: dict[str, Cells]
    differences: dict[str, Cells]
    named_arms: dict[str, NamedArm]


class Results(Comparison, total=False):
    """The content of ``results.json``; see `clipzoo.evaluation.compare` and `clipzoo.runs.results`."""

    recipe: str
    seeds: list[int]
    subsets: dict[str, Comparison]
    cost: Mapping[str, object]
    protocol: Mapping[str, object]
    versions: Mapping[str, str]
    students: Mapping[str, Mapping[str, str]]
    supervision: Mapping[str, object]
    trainings: Mapping[str, Mapping[str, TrainingRecord]]
    expert_failures: Mapping[str, Mapping[str, Unlabeled]]
    guard: Mapping[str, Mapping[str, GuardRecord]]
    interpolation: Mapping[str, Mapping[str, Reported]]


class VariantRecord(TypedDict):
    """A variant of ``ablation.json``: its kind (without, only, named), its column, all columns, and its folder."""

    kind: str
    column: str
    columns: list[str]
    folder: str


class AblationResults(Comparison):
    """The content of ``ablation.json``: the rows ``clip``, ``clip-ft``, ``all`` and one for each variant."""

    recipe: str
    seeds: list[int]
    steps: int
    columns: list[str]
    cost: Mapping[str, object]
    variants: dict[str, VariantRecord]
    versions: Mapping[str, str]


class Apart(TypedDict):
    """A row that cannot be compared with the first run in one measure, and the reason."""

    row: str
    measure: str
    value: float | None
    reason: str


class RunsComparison(Comparison):
    """The content of ``comparison.json``: rows are named by the letter of their run, such as ``A clipzoo``."""

    runs: dict[str, dict[str, str]]
    apart: list[Apart]
    settings: dict[str, dict[str, object]]
    cost: Mapping[str, object]
    versions: Mapping[str, str]
