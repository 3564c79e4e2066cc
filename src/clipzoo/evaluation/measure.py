"""One row of statistics an image, and how to read them together.

Scores of one set are compared image by image, so a `Scored` keeps the keys of its images, and can be stored
(``.npz`` without pickles) by the process that had the model and read by the one that compares.
"""

from __future__ import annotations

import importlib
import json
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzoo import files, tasks
from clipzoo.errors import DatasetError
from clipzoo.tasks.base import Convention, Measure, Metric, Rows, Statistics

RECOGNITION = ("zero_shot", "retrieval")
"""The groups of measures that belong to no task; each is a module of this package with a ``METRIC``."""


DAMAGED = (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
"""What numpy (2.4) and its zip files raise of a file that is cut off or changed."""


def rounded(number: float, digits: int, percent: bool = False) -> str:
    """A number, or its percent, with so many decimals; halves go away from zero, as they do by hand.

    It rounds the number that is read in ``results.json``, not its nearest binary one: 0.1235 is 0.124 and 12.4 %.
    """
    exact = Decimal(repr(float(number))).scaleb(2 if percent else 0)
    return str(exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


@dataclass(frozen=True)
class Scored:
    """The statistics of N images for the measures of one group.

    ``group`` is a task's name, "zero_shot" or "retrieval"; ``statistics`` is float64 [N,S], a row of zeros
    where an image has nothing to say; ``keys`` names the images in order.
    """

    group: str
    keys: tuple[str, ...]
    statistics: Rows
    metric: Metric
    convention: Convention = field(default_factory=Convention)

    def __post_init__(self) -> None:
        assert self.statistics.ndim == 2
        assert len(self.keys) == len(self.statistics)

    @property
    def measures(self) -> dict[str, Measure]:
        """``<group>/<measure>`` -> how to read it; the first is the headline."""
        return {f"{self.group}/{name}": measure for name, measure in self.metric.measures.items()}

    def compute(self) -> dict[str, float]:
        """``<group>/<measure>`` -> value over all images."""
        return {f"{self.group}/{name}": value for name, value in self.metric.of(self.statistics).items()}

    def each(self, measure: str) -> NDArray[np.float64]:
        """One measure of every image alone, float64 [N]; NaN where nothing was valid."""
        return np.array([self.metric.of(row[None])[measure] for row in self.statistics], np.float64)

    def select(self, keys: Collection[str]) -> Scored:
        """The images that bear these keys, in the order of this score."""
        wanted = set(keys)
        rows = [i for i, key in enumerate(self.keys) if key in wanted]
        return replace(self, keys=tuple(self.keys[i] for i in rows), statistics=self.statistics[rows])

    def save(self, path: Path) -> None:
        """Write as ``.npz`` of plain arrays, whole or not at all."""
        about = json.dumps({"group": self.group, "convention": self.convention.to_json()})
        with files.whole(path, alone=True) as beside, beside.open("wb") as file:
            np.savez_compressed(file, about=about, keys=np.array(self.keys, np.str_), statistics=self.statistics)

    @classmethod
    def load(cls, path: Path) -> Scored:
        """The inverse of `save`; `DatasetError` on anything else."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                about: dict[str, Any] = json.loads(str(data["about"]))
                keys, statistics = tuple(map(str, data["keys"])), data["statistics"].astype(np.float64)
            group, convention = str(about["group"]), Convention.from_json(about["convention"])
            if statistics.ndim != 2 or len(keys) != len(statistics):
                raise ValueError(f"{len(keys)} keys, statistics of shape {statistics.shape}")
        except DAMAGED as error:
            raise DatasetError(
                f"{path} holds no scores ({error}); remove it and rerun `clipzoo eval`, which measures anew"
            ) from error
        return cls(group, keys, statistics, metric_of(group, convention), convention)


def metric_of(group: str, convention: Convention) -> Metric:
    """The metric of a task, of "zero_shot" or of "retrieval"."""
    if group in RECOGNITION:
        found: Metric = importlib.import_module(f"clipzoo.evaluation.{group}").METRIC
    else:
        found = tasks.get(group).metric(convention)
    return found


def rows(metric: Metric, predictions: Iterable[Any], truths: Iterable[Any | None]) -> Rows:
    """Statistics of predictions against truths, float64 [N,S]; a missing truth gives a row of zeros."""
    return stacked(list(shares(metric, predictions, truths)))


def shares(metric: Metric, predictions: Iterable[Any], truths: Iterable[Any | None]) -> Iterator[Statistics | None]:
    """Statistics of each prediction, one after the other; None where the truth is missing."""
    for prediction, truth in zip(predictions, truths, strict=True):
        yield None if truth is None else metric.statistics(prediction, truth)


def stacked(found: Sequence[Statistics | None]) -> Rows:
    """Statistics of N images as float64 [N,S]; those that are missing as zeros."""
    width = next((len(share) for share in found if share is not None), 1)
    nothing = np.zeros(width)
    return np.array([nothing if share is None else share for share in found], np.float64).reshape(-1, width)
