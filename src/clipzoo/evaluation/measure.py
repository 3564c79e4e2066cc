"""Scores: a row of statistics for each image, and the metric that aggregates them.

Comparisons are paired by image, so `Scored` holds the keys of its images. It is saved as ``.npz`` without pickles.
"""

from __future__ import annotations

import importlib
import json
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
"""The groups of measures without a task; each is a module of this package with a ``METRIC``."""

OPEN_VOCABULARY = "open_vocabulary"
"""The group of segmentation by class names, which has the metric of that task."""

CLASSIFICATION = ("knn", "linear_classification")
"""The groups of classifiers on frozen embeddings; each is a module of `clipzoo.evaluation.classification`."""

NOT_PROBED = (*RECOGNITION, OPEN_VOCABULARY, *CLASSIFICATION)
"""The groups that are not measured by probes of dense tasks, so that they have no effect on choices by dense tasks."""

ALIGNED = "_aligned"
"""Suffix of groups of depth that is fitted to the truth in scale and shift before it is measured."""

DAMAGED = (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
"""Exceptions of numpy (2.4) and zipfile on a truncated or damaged file."""


def rounded(number: float, digits: int, percent: bool = False) -> str:
    """Return a number, or its percent, with ``digits`` decimals; halves are rounded away from zero, zero has no sign.

    The decimal number of ``results.json`` is rounded, not its binary approximation: 0.1235 is 0.124 and 12.4 %.
    """
    exact = Decimal(repr(float(number))).scaleb(2 if percent else 0)
    decimal = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return str(decimal if decimal else abs(decimal))


@dataclass(frozen=True)
class Scored:
    """The statistics of N images for the measures of one group.

    ``group`` is the name of a task, "zero_shot", "retrieval" or "open_vocabulary". ``statistics`` is float64
    [N,S], with a row of zeros for an image without truth. ``keys`` holds the keys of the images in order.
    ``failures`` holds the keys of images without a prediction, which count as unknown, and the reasons.
    """

    group: str
    keys: tuple[str, ...]
    statistics: Rows
    metric: Metric
    convention: Convention = field(default_factory=Convention)
    failures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.statistics.ndim == 2
        assert len(self.keys) == len(self.statistics)

    @property
    def measures(self) -> dict[str, Measure]:
        """``<group>/<measure>`` -> its direction and unit; the first is the headline."""
        return {f"{self.group}/{name}": measure for name, measure in self.metric.measures.items()}

    def compute(self) -> dict[str, float]:
        """Return ``<group>/<measure>`` -> value over all images."""
        return {f"{self.group}/{name}": value for name, value in self.metric.of(self.statistics).items()}

    def each(self, measure: str) -> NDArray[np.float64]:
        """Return one measure of each image, float64 [N]; NaN where nothing is valid."""
        return np.array([self.metric.of(row[None])[measure] for row in self.statistics], np.float64)

    def select(self, keys: Collection[str]) -> Scored:
        """Return the scores of the images with these keys, in the present order."""
        selected = set(keys)
        rows = [i for i, key in enumerate(self.keys) if key in selected]
        failures = {key: reason for key, reason in self.failures.items() if key in selected}
        keys = tuple(self.keys[i] for i in rows)
        return replace(self, keys=keys, statistics=self.statistics[rows], failures=failures)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` of plain arrays, atomically."""
        failures = {"failures": dict(self.failures)} if self.failures else {}
        about = json.dumps({"group": self.group, "convention": self.convention.to_json(), **failures})
        with files.atomic(path, exclusive=True) as partial, partial.open("wb") as file:
            np.savez_compressed(file, about=about, keys=np.array(self.keys, np.str_), statistics=self.statistics)

    @classmethod
    def load(cls, path: Path) -> Scored:
        """Read a file of `save`; raise `DatasetError` if it is damaged."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                about: dict[str, Any] = json.loads(str(data["about"]))
                keys, statistics = tuple(map(str, data["keys"])), data["statistics"].astype(np.float64)
            group, convention = str(about["group"]), Convention.from_json(about["convention"])
            failures = dict(about.get("failures", {}))
            if statistics.ndim != 2 or len(keys) != len(statistics):
                raise ValueError(f"{len(keys)} keys, statistics of shape {statistics.shape}")
        except DAMAGED as error:
            raise DatasetError(
                f"{path} holds no scores ({error}). The file is damaged. Remove it and rerun `clipzoo eval`, which "
                "measures again"
            ) from error
        return cls(group, keys, statistics, metric_of(group, convention), convention, failures)


def metric_of(group: str, convention: Convention) -> Metric:
    """Return the metric of a task, or of a group without one, such as "zero_shot" or "knn".

    A further metric of a task has a group such as "detection_voc" (`Task.metrics`).
    """
    if group in (*RECOGNITION, *CLASSIFICATION):
        folder = "evaluation.classification" if group in CLASSIFICATION else "evaluation"
        metric: Metric = importlib.import_module(f"clipzoo.{folder}.{group}").METRIC
    else:
        task, name = task_of("segmentation" if group == OPEN_VOCABULARY else group)
        metric = tasks.get(task).metrics(convention)[name] if name else tasks.get(task).metric(convention)
    return metric


def task_of(group: str) -> tuple[str, str]:
    """Return the task of a dense group, and the name of its further metric or ""."""
    group = group.removesuffix(ALIGNED)
    task, _, name = group.rpartition("_")
    return (group, "") if group in tasks.PLUGINS.names() else (task, name)


def rows(metric: Metric, predictions: Iterable[Any], truths: Iterable[Any | None]) -> Rows:
    """Return the statistics of predictions, float64 [N,S]; a missing truth gives a row of zeros."""
    return stacked(list(shares(metric, predictions, truths)))


def shares(metric: Metric, predictions: Iterable[Any], truths: Iterable[Any | None]) -> Iterator[Statistics | None]:
    """Yield the statistics of each prediction; None where the truth is missing."""
    for prediction, truth in zip(predictions, truths, strict=True):
        yield None if truth is None else metric.statistics(prediction, truth)


def stacked(statistics: Sequence[Statistics | None]) -> Rows:
    """Stack the statistics of N images to float64 [N,S], with zeros for None."""
    width = next((len(row) for row in statistics if row is not None), 1)
    zeros = np.zeros(width)
    return np.array([zeros if row is None else row for row in statistics], np.float64).reshape(-1, width)
