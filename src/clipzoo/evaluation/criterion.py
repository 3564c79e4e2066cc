"""What chooses between trainings of one arm: a number on validation."""

from __future__ import annotations

import math
from collections.abc import Mapping

from clipzoo.evaluation.measure import Scored


def criterion(run: Mapping[str, Scored]) -> dict[str, float]:
    """The headlines of a run on validation, and ``criterion``: zero-shot top-1 plus the mean of the dense ones.

    Each is on a scale of 0 to 1, angles as 1 − angle / 90°; the same for every arm. One that validation cannot measure,
    as it has nothing of the kind, is left out.
    """
    values: dict[str, float] = {}
    dense: list[float] = []
    for group, scored in run.items():
        (name, measure), *_ = scored.measures.items()
        values[name] = value = scored.compute()[name]
        if group not in ("zero_shot", "retrieval") and not math.isnan(value):
            dense.append(1 - value / 90 if measure.unit == "°" else value)
    values["criterion"] = values.get("zero_shot/top1", 0.0) + (sum(dense) / len(dense) if dense else 0.0)
    return values
