"""The comparison of arms: the numbers of ``results.json``.

The value of an arm is the mean over its seeds. Its interval resamples images, the same ones for all seeds, and
estimates the variation over test sets; ``std`` over seeds estimates the variation over trainings. Differences are
paired: by image in every resample, and by seed where both arms have it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import PlanError
from clipzoo.evaluation.bootstrap import RESAMPLES, centered, interval, p_value, resample
from clipzoo.evaluation.measure import Scored
from clipzoo.evaluation.results import Cell, Comparison, Results
from clipzoo.tasks.base import Measure

RowScores = Mapping[str, Scored]
"""Group of measures -> scores, of an arm with one seed or of a baseline."""

TableScores = Mapping[str, Mapping[int, RowScores]]
"""Arm or baseline -> seed -> its scores."""

PAIRS = (
    ("clipzoo", "clip-ft"), ("clipzoo", "clip"), ("clip-ft", "clip"), ("clipzoo-best", "clip-ft-best"),
    ("clipzoo-best", "clip-ft"), ("clipzoo-best", "clip"), ("clipzoo-best", "clipzoo"), ("clip-ft-best", "clip"),
    ("clip-ft-best", "clip-ft"),
)  # fmt: skip
CEILING, UNTRAINED = "expert", "clip"


def compare(
    arms: TableScores,
    baselines: TableScores | None = None,
    *,
    recipe: str = "",
    subsets: Mapping[str, tuple[TableScores, TableScores]] | None = None,
    cost: Mapping[str, object] | None = None,
    protocol: Mapping[str, object] | None = None,
    versions: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Results:
    """Return the comparison as strict JSON values; a number that does not exist is null.

    Args:
        arms: the scores of "clip", "clip-ft" and "clipzoo", for each seed.
        baselines: the scores of "position_prior", "pixels_position", "random_student", "expert", …; a baseline without
            seeds has the seed 0.
        recipe: the name or text of the recipe.
        subsets: name -> (arms, baselines) on other or fewer images, such as held-out objects (see `restrict`).
        cost: the cost of labeling, column -> {"seconds_per_image", "bytes_per_image", "images", …}.
        protocol: crop, resolution, mask, alignment, averaging, templates, ….
        versions: software -> version.
        resamples: the number of bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        PlanError: rows of one group were measured on different images.
    """
    trained = {arm: seeds for arm, seeds in arms.items() if arm != UNTRAINED or len(arms) == 1}
    results = {
        "recipe": recipe,
        "seeds": sorted({seed for seeds in trained.values() for seed in seeds}),
        **comparison(arms, baselines or {}, resamples, seed),
        "subsets": {name: comparison(*pair, resamples=resamples, seed=seed) for name, pair in (subsets or {}).items()},
        "cost": dict(cost or {}),
        "protocol": {**(protocol or {}), "bootstrap": {"resamples": resamples, "level": 0.95, "seed": seed}},
        "versions": dict(versions or {}),
    }
    return cast(Results, strict(results))


def restrict(table: TableScores, keys: Collection[str]) -> TableScores:
    """Return the scores of the images with these keys, without the groups that have none of them."""
    return {row: {seed: _restrict(scores, keys) for seed, scores in seeds.items()} for row, seeds in table.items()}


def _restrict(scores: RowScores, keys: Collection[str]) -> RowScores:
    selected = {group: scored.select(keys) for group, scored in scores.items()}
    return {group: scored for group, scored in selected.items() if scored.keys}


def comparison(
    arms: TableScores,
    baselines: TableScores,
    resamples: int = RESAMPLES,
    seed: int = 0,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Comparison:
    """Return arms, baselines and differences on one set of images; see `compare`.

    ``pairs`` are the rows whose differences are computed, by default those of the arms of a run.
    """
    pairs = _pairs(arms, baselines) if pairs is None else pairs
    out: Comparison = {
        "images": {},
        "arms": {arm: {} for arm in arms},
        "baselines": {name: {} for name in baselines},
        "differences": {f"{a}-vs-{b}": {} for a, b in pairs},
    }
    for group in dict.fromkeys(group for seeds in arms.values() for scores in seeds.values() for group in scores):
        _add_group(out, group, arms, baselines, resamples, seed, pairs)
    return out


def _add_group(
    out: Comparison,
    group: str,
    arms: TableScores,
    baselines: TableScores,
    resamples: int,
    seed: int,
    pairs: Sequence[tuple[str, str]],
) -> None:
    rows = {
        row: {s: scores[group] for s, scores in seeds.items() if group in scores}
        for row, seeds in [*arms.items(), *baselines.items()]
    }
    rows = {row: seeds for row, seeds in rows.items() if seeds}
    first = _same_images(group, rows)
    statistics = {(row, s): scored.statistics for row, seeds in rows.items() for s, scored in seeds.items()}
    draws = resample(statistics, first.metric, resamples, seed)
    computed = {row: {s: scored.compute() for s, scored in seeds.items()} for row, seeds in rows.items()}
    out["images"][group] = int(np.any([one.any(axis=1) for one in statistics.values()], axis=0).sum())
    for name, measure in first.measures.items():
        values = {row: {s: every[name] for s, every in seeds.items()} for row, seeds in computed.items()}
        bare = name.split("/", 1)[1]
        drawn = {row: np.mean([draws[row, s][bare] for s in seeds], 0) for row, seeds in rows.items()}
        for row in values:
            kind = out["arms"] if row in arms else out["baselines"]
            kind[row][name] = _cell(list(values[row].values()), drawn[row], measure)
        for a, b in pairs:
            if a in values and b in values:
                ceiling = values.get(CEILING) if b != CEILING else None
                difference = _difference(values[a], values[b], drawn[a] - drawn[b], measure, ceiling)
                out["differences"][f"{a}-vs-{b}"][name] = difference


def _cell(values: Sequence[float], draws: NDArray[np.float64], measure: Measure) -> Cell:
    spread, mean = float(np.std(values, ddof=1)) if len(values) > 1 else None, float(np.mean(values))
    possible = centered(draws, mean).clip(*measure.limits)
    return {
        "mean": mean, "std": spread, "n": len(values), "values": list(values),
        "ci": interval(possible), "direction": measure.direction, "unit": measure.unit,
    }  # fmt: skip


def _difference(
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    draws: NDArray[np.float64],
    measure: Measure,
    ceiling: Mapping[int, float] | None,
) -> Cell:
    """Return ours minus theirs: ``mean`` in the unit of the measure, ``values`` for each pair of seeds."""
    a, b = float(np.mean(list(ours.values()))), float(np.mean(list(theirs.values())))
    top, draws = None if ceiling is None else float(np.mean(list(ceiling.values()))), centered(draws, a - b)
    return {
        "mean": a - b, "ci": interval(draws), "p": p_value(draws), "values": _paired(ours, theirs),
        "gap_closed": _gap_closed(a, b, top, measure), "direction": measure.direction, "unit": measure.unit,
    }  # fmt: skip


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return the difference for each seed; an arm with a single seed is compared with every seed of the other."""
    if len(theirs) == 1:
        (other,) = theirs.values()
        return [value - other for value in ours.values()]
    return [ours[s] - theirs[s] for s in ours if s in theirs]


def _gap_closed(ours: float, theirs: float, top: float | None, measure: Measure) -> float | None:
    """Return (ours − theirs) / (expert − theirs), or None unless the expert is better than both."""
    if top is None:
        return None
    ahead = min(top - ours, top - theirs) if measure.direction == "higher" else min(ours - top, theirs - top)
    return (ours - theirs) / (top - theirs) if ahead > 0 else None


def _pairs(arms: TableScores, baselines: TableScores) -> list[tuple[str, str]]:
    pairs = [(a, b) for a, b in PAIRS if a in arms and b in arms]
    known = {row for pair in PAIRS for row in pair}
    for named in (arm for arm in arms if arm not in known):
        pairs += [pair for pair in ((named, "clip-ft"), ("clipzoo", named), (named, "clip")) if {*pair} <= {*arms}]
    return pairs + [(arm, name) for arm in ("clipzoo", "clipzoo-best") for name in baselines if arm in arms]


def _same_images(group: str, rows: Mapping[str, Mapping[int, Scored]]) -> Scored:
    """Return the scores of the first row; raise `PlanError` unless all rows have its images and its convention."""
    first_row, first = next((row, scored) for row, seeds in rows.items() for scored in seeds.values())
    for row, seeds in rows.items():
        for scored in seeds.values():
            if scored.keys != first.keys or scored.convention != first.convention:
                raise PlanError(
                    f"{group}: {row!r} was measured on {len(scored.keys)} images, {first_row!r} on {len(first.keys)}, "
                    "or their order or convention differs. Differences are paired by image. Measure all rows on one "
                    "test set"
                )
    return first


def strict(value: object) -> object:
    """Return plain JSON values, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, np.generic):
        return strict(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
