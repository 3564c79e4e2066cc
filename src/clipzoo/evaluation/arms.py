"""Arms side by side: the numbers of ``results.json``.

A value of an arm is the mean over its seeds; its interval resamples images, the same for all seeds, so it
tells what another test set of this kind would give, while ``std`` over seeds tells what another run would
give. Differences are paired: same images in every resample, same seeds where both arms
have them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from clipzoo.errors import PlanError
from clipzoo.evaluation.bootstrap import RESAMPLES, centered, interval, p_value, resample
from clipzoo.evaluation.measure import Scored
from clipzoo.tasks.base import Measure

Run = Mapping[str, Scored]
"""Group of measures -> scores of one run."""

Arms = Mapping[str, Mapping[int, Run]]
"""Arm or baseline -> seed -> run."""

PAIRS = (("clipzoo", "clip-ft"), ("clipzoo", "clip"), ("clip-ft", "clip"))
CEILING, UNTRAINED = "expert", "clip"


def compare(
    runs: Arms,
    baselines: Arms | None = None,
    *,
    recipe: str = "",
    subsets: Mapping[str, tuple[Arms, Arms]] | None = None,
    cost: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The comparison as strict JSON values: a number that does not exist is null.

    Args:
        runs: the arms "clip", "clip-ft", "clipzoo", seed by seed.
        baselines: "position_prior", "pixels_position", "random_student", "expert", …; a row that knows no
            seed has the single seed 0.
        recipe: the recipe's name or text.
        subsets: name -> (runs, baselines) on other or fewer images, such as held-out objects (see
            `restrict`).
        cost: what labeling cost: column -> {"seconds_per_image", "bytes_per_image", "images", …}.
        protocol: crop, resolution, mask, alignment, averaging, templates, …: what a result must state.
        versions: software -> version.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        PlanError: rows of one group were measured on different images.
    """
    found = {
        "recipe": recipe,
        "seeds": sorted({seed for arm, seeds in runs.items() for seed in seeds if arm != UNTRAINED or len(runs) == 1}),
        **comparison(runs, baselines or {}, resamples, seed),
        "subsets": {name: comparison(*pair, resamples=resamples, seed=seed) for name, pair in (subsets or {}).items()},
        "cost": dict(cost or {}),
        "protocol": {**(protocol or {}), "bootstrap": {"resamples": resamples, "level": 0.95, "seed": seed}},
        "versions": dict(versions or {}),
    }
    strict: dict[str, Any] = _strict(found)
    return strict


def restrict(arms: Arms, keys: Collection[str]) -> Arms:
    """The same arms on the images that bear these keys; groups without any of them are left out."""
    return {
        arm: {
            seed: {group: kept for group, scored in run.items() if (kept := scored.select(keys)).keys}
            for seed, run in seeds.items()
        }
        for arm, seeds in arms.items()
    }


def comparison(runs: Arms, baselines: Arms, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Arms, baselines and differences on one set of images; see `compare`."""
    out: dict[str, Any] = {
        "images": {},
        "arms": {arm: {} for arm in runs},
        "baselines": {name: {} for name in baselines},
        "differences": {f"{a}-vs-{b}": {} for a, b in _pairs(runs, baselines)},
    }
    groups = dict.fromkeys(group for seeds in runs.values() for run in seeds.values() for group in run)
    for group in groups:
        _add_group(out, group, runs, baselines, resamples, seed)
    return out


def _add_group(out: dict[str, Any], group: str, runs: Arms, baselines: Arms, resamples: int, seed: int) -> None:
    scores = {
        row: found
        for row, seeds in [*runs.items(), *baselines.items()]
        if (found := {s: run[group] for s, run in seeds.items() if group in run})
    }
    first = _same_images(group, scores)
    every = {(row, s): scored.statistics for row, found in scores.items() for s, scored in found.items()}
    draws = resample(every, first.metric, resamples, seed)
    values = {row: {s: scored.compute() for s, scored in found.items()} for row, found in scores.items()}
    out["images"][group] = len(first.keys)
    for name, measure in first.measures.items():
        of = {row: {s: v[name] for s, v in found.items()} for row, found in values.items()}
        bare = name.split("/", 1)[1]
        drawn = {row: np.mean([draws[row, s][bare] for s in found], 0) for row, found in scores.items()}
        for row in of:
            kind = "arms" if row in runs else "baselines"
            out[kind][row][name] = _cell(list(of[row].values()), drawn[row], measure)
        for a, b in _pairs(runs, baselines):
            if a in of and b in of:
                ceiling = of.get(CEILING) if b != CEILING else None
                out["differences"][f"{a}-vs-{b}"][name] = _difference(
                    of[a], of[b], drawn[a] - drawn[b], measure, ceiling
                )


def _cell(values: Sequence[float], draws: np.ndarray[Any, Any], measure: Measure) -> dict[str, Any]:
    spread, mean = float(np.std(values, ddof=1)) if len(values) > 1 else None, float(np.mean(values))
    return {
        "mean": mean, "std": spread, "n": len(values), "values": list(values),
        "ci": interval(centered(draws, mean)), "direction": measure.direction, "unit": measure.unit,
    }  # fmt: skip


def _difference(
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    draws: np.ndarray[Any, Any],
    measure: Measure,
    ceiling: Mapping[int, float] | None,
) -> dict[str, Any]:
    """``mean`` is ours less theirs in the measure's own sense; ``values`` are the paired seeds'."""
    a, b = float(np.mean(list(ours.values()))), float(np.mean(list(theirs.values())))
    top, draws = None if ceiling is None else float(np.mean(list(ceiling.values()))), centered(draws, a - b)
    return {
        "mean": a - b, "ci": interval(draws), "p": p_value(draws), "values": _paired(ours, theirs),
        "gap_closed": _gap_closed(a, b, top, measure), "direction": measure.direction, "unit": measure.unit,
    }  # fmt: skip


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Differences seed by seed; an arm with one run (nothing was trained) is set against every seed."""
    if len(theirs) == 1:
        (other,) = theirs.values()
        return [value - other for value in ours.values()]
    return [ours[s] - theirs[s] for s in ours if s in theirs]


def _gap_closed(ours: float, theirs: float, top: float | None, measure: Measure) -> float | None:
    """(ours − theirs) / (expert − theirs); None unless the expert is better than both: else it is no ceiling."""
    if top is None:
        return None
    ahead = min(top - ours, top - theirs) if measure.direction == "higher" else min(ours - top, theirs - top)
    return (ours - theirs) / (top - theirs) if ahead > 0 else None


def _pairs(runs: Arms, baselines: Arms) -> list[tuple[str, str]]:
    own = [(a, b) for a, b in PAIRS if a in runs and b in runs]
    return own + [("clipzoo", name) for name in baselines if "clipzoo" in runs]


def _same_images(group: str, scores: Mapping[str, Mapping[int, Scored]]) -> Scored:
    first_row, first = next((row, s) for row, seeds in scores.items() for s in seeds.values())
    for row, seeds in scores.items():
        for scored in seeds.values():
            if scored.keys != first.keys or scored.convention != first.convention:
                raise PlanError(
                    f"{group}: {row!r} was measured on {len(scored.keys)} images, {first_row!r} on "
                    f"{len(first.keys)}, or in another order or convention; measure all rows on one test set"
                )
    return first


def _strict(value: Any) -> Any:
    """Plain JSON values; what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, np.generic):
        return _strict(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
