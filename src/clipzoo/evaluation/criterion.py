"""The criterion that chooses the learning rate of an arm on validation, and its dense part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clipzoo.evaluation.measure import NOT_PROBED, Scored
from clipzoo.tasks.base import Measure

Value = TypeVar("Value", float, NDArray[np.float64])


def criterion(scores: Mapping[str, Scored]) -> dict[str, float]:
    """Return the headline measures and ``criterion``: zero-shot top-1 plus the mean of the dense headlines.

    In the criterion each headline is in [0, 1], angles as 1 − angle / 90°. Groups that were not measured are left out;
    without classes, recall@5 of retrieval takes the place of zero-shot top-1.
    """
    values: dict[str, float] = {}
    dense: list[float] = []
    for group, scored in scores.items():
        (name, measure), *_ = scored.measures.items()
        values[name] = value = scored.compute()[name]
        if group not in NOT_PROBED and not math.isnan(value):
            dense.append(normalized(value, measure))
    recognition = values.get("zero_shot/top1", values.get("retrieval/r5", 0.0))
    values["criterion"] = recognition + (sum(dense) / len(dense) if dense else 0.0)
    return values


def normalized(value: Value, measure: Measure) -> Value:
    """Return a headline as a score in which higher is better: angles become 1 − angle / 90°."""
    return 1 - value / 90 if measure.unit == "°" else value
